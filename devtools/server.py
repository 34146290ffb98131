"""The real host as a child process, driven through its own HTTP and websocket API.

    python -m devtools.server BASE PORT     serve the pack to a browser until Ctrl+C

COMFYUI_PATH names the host's tree. Nothing is written there: inputs, outputs, the database and the link to this
checkout lie in the base folder.
"""
from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import requests
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).absolute().parents[1]
HOST = Path(os.environ["COMFYUI_PATH"])
MODEL_ENDINGS = (".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt")


class NodeError(Exception):
    """A node refused its input or failed; `node_id` is its key in the graph, None for the whole graph."""

    def __init__(self, node_id: str | None, message: str):
        super().__init__(f"node {node_id}: {message}")
        self.node_id = node_id
        self.message = message


class Interrupted(Exception):
    """The run was cancelled; the argument is the id of the node that was running."""


def link(path: Path, target: Path) -> None:
    """Make `path` a link to the folder `target`; a link to another folder is replaced."""
    if path.is_symlink():
        path.unlink()
    if path.exists():
        return
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:  # on Windows every user may make junctions, but not symbolic links
        import _winapi
        _winapi.CreateJunction(str(target), str(path))


def prepare(base: Path, packs: Sequence[Path] = ()) -> None:
    """Lay out a base folder of the host in which this checkout and `packs` are the only custom nodes."""
    for folder in ("custom_nodes", "models", "input", "output", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link(base / "custom_nodes" / "mditface", ROOT)
    for pack in packs:
        link(base / "custom_nodes" / pack.name, pack)


def command(base: Path, port: int, *arguments: str, host: Path = HOST) -> list[str]:
    return [
        sys.executable, str(host / "main.py"), "--port", str(port),
        "--disable-auto-launch", "--disable-api-nodes",
        "--base-directory", str(base), "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}",
        *([] if torch.accelerator.is_available() else ["--cpu"]), *arguments,
    ]


def variables() -> dict[str, str]:
    """The environment of a user: the checkout is found through custom_nodes alone, and no hub is reached."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return inherited | {"HF_HUB_OFFLINE": "1"}


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One host on a free loopback port; use as a context manager, or call `start` and `stop`."""

    def __init__(self, base: Path, *arguments: str, packs: Sequence[Path] = (), host: Path = HOST):
        self.base = base
        self.arguments = arguments
        self.host = host
        self.log = base / "server.log"
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy on the loopback
        prepare(base, packs)

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self, timeout: float = 180) -> None:
        """Start the host and wait until its API answers. RuntimeError with the last line of the log if it does not."""
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command(self.base, self.port, *self.arguments, host=self.host),
                                            cwd=self.base, env=variables(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT)
        deadline = time.monotonic() + timeout
        while not self._answers():
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {timeout:.0f} s")
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **parameters):
        """The JSON answer of a GET request."""
        answer = self.session.get(self.url + path, params=parameters, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, payload: dict) -> requests.Response:
        return self.session.post(self.url + path, json=payload, timeout=60)

    def object_info(self) -> dict[str, dict]:
        """Every node the host knows, by id."""
        return self.get("/object_info")

    def upload(self, file: Path) -> str:
        """Put an image into the host's input folder; the name under which Load Image lists it."""
        with file.open("rb") as content:
            answer = self.session.post(self.url + "/upload/image", files={"image": (file.name, content)},
                                       data={"overwrite": "true"}, timeout=60)
        answer.raise_for_status()
        return answer.json()["name"]

    def save_weights(self, folder: str, name: str, weights: dict[str, torch.Tensor],
                     metadata: dict[str, str] | None = None) -> str:
        """Put tensors into one of the server's models folders; the name under which a loader lists the file."""
        path = self.base / "models" / folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, metadata)
        return f"{name}.safetensors"

    def touch_model(self, name: str) -> None:
        """Put an empty file into each of the server's models folders, so that every loader lists its name."""
        for folder in self.get("/models"):
            file = self.base / "models" / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def queue(self, graph: dict, client_id: str = "") -> str:
        """Queue a graph in API form; its prompt id. NodeError if the host's validation refuses it."""
        answer = self.post("/prompt", {"prompt": graph, "client_id": client_id})
        if answer.status_code == 400:
            raise refusal(answer.json())
        answer.raise_for_status()
        return answer.json()["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600) -> dict:
        """The history entry of a finished run. NodeError or Interrupted if the run did not succeed."""
        deadline = time.monotonic() + timeout
        while not (entry := self.get(f"/history/{prompt_id}").get(prompt_id)):
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._failure(f"did not finish the run within {timeout:.0f} s")
            time.sleep(0.05)
        raise_failure(entry)
        return entry

    def run(self, graph: dict, timeout: float = 600) -> dict:
        """Queue a graph and wait for its history entry."""
        return self.wait(self.queue(graph), timeout)

    def watch(self, graph: dict, on_event: Callable[[str, dict | bytes], None]) -> dict:
        """Run a graph; `on_event(type, data)` gets each websocket message, previews as ("preview", bytes)."""
        return asyncio.run(self._watch(graph, on_event))

    def images(self, entry: dict) -> list[Image.Image]:
        """The images that a run saved, in the order of its output nodes."""
        saved = [image for output in entry["outputs"].values() for image in output.get("images", ())]
        return [self.picture(image) for image in saved]

    def image(self, entry: dict) -> Image.Image:
        """The only image that a run saved."""
        (image,) = self.images(entry)
        return image

    def picture(self, image: dict) -> Image.Image:
        """An image by its entry in the history."""
        answer = self.session.get(self.url + "/view", params=image, timeout=60)
        answer.raise_for_status()
        return Image.open(io.BytesIO(answer.content)).convert("RGB")

    def interrupt(self) -> None:
        """What the Cancel button sends."""
        self.post("/interrupt", {}).raise_for_status()

    def free(self) -> None:
        """Make the host unload models and forget results. The host does so when its queue is idle or a run has ended,
        so a small graph runs here."""
        self.post("/free", {"unload_models": True, "free_memory": True}).raise_for_status()
        self.run({"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
                  "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})

    def _answers(self) -> bool:
        try:
            return self.session.get(self.url + "/system_stats", timeout=5).ok
        except requests.ConnectionError:
            return False

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            raise self._failure(f"stopped with code {self.process.returncode}")

    def _failure(self, what: str) -> RuntimeError:
        last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
        return RuntimeError(f"the server {what}; its last words: {last} (log: {self.log})")

    async def _watch(self, graph, on_event) -> dict:
        client_id = uuid.uuid4().hex
        address = f"{self.url}/ws?clientId={client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            prompt_id = self.queue(graph, client_id)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    on_event("preview", message.data)
                    continue
                event = message.json()
                on_event(event["type"], event["data"])
                if event["type"] in FINISHED and event["data"]["prompt_id"] == prompt_id:
                    break
        return self.wait(prompt_id)


FINISHED = ("execution_success", "execution_error", "execution_interrupted")


def refusal(answer: dict) -> NodeError:
    """The first error on a node in the answer of a refused prompt, or else the error of the whole graph."""
    for node_id, node in answer.get("node_errors", {}).items():
        for error in node["errors"]:
            return NodeError(node_id, f"{error['message']}: {error['details']}")
    return NodeError(None, answer["error"]["message"])


def raise_failure(entry: dict) -> None:
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            raise NodeError(data["node_id"], data["exception_message"].strip())
        if kind == "execution_interrupted":
            raise Interrupted(data["node_id"])


def main(base: str, port: str) -> int:
    folder = Path(base)
    prepare(folder)
    shared_models = ("--models-directory", str(HOST / "models"))  # the models that a person has already
    try:
        return subprocess.call(command(folder, int(port), *shared_models), cwd=folder, env=variables())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

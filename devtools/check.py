"""What the registry's own tools and the host have to say about the archive that users get.

    python dev.py check

`comfy node pack` packs a copy of this checkout; everything after that looks at the unpacked archive alone, on the host
that it is made for and on the oldest that it claims. No tool reaches the network or the person's own files. Exit code 1
when any check failed.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from devtools import node_info, renew
from devtools.server import HOST, ROOT, NodeError, Server

PACK = "mditface"
TEMPLATES = "example_workflows"
UNWANTED = re.compile(r"(tests|bench|devtools|docs|\.ci)/|dev\.py|.*\.(pyc|ipynb|sh)$")
LEVELS = ("syntax", "warnings", "hazards", "registration", "javascript", "instantiation", "validation")
JUDGED = ("weights",)  # findings of comfy-test that never fail, and that we stand by: the bundled weights
UNLINKED = {  # where the nodes look for what no link in a graph leads to: the user's own
    "MDiT_LoadAdapter": {"adapter_name": "models/mdit_adapters"},
    "MDiT_LoadDynaST": {"weights_name": "models/dynast"},
    "MDiT_LoadFaceDiffuser": {"weights_name": "models/face_diffuser"},
    "MDiT_LoadModel": {"model_name": "models/mdit"},
    "MDiT_LoadPTDiT": {"model_name": "models/diffusion_models"},
    "LoadImage": {"image": "input"},
    "LoadImageDataSetFromFolder": {"folder": "input"},
    "LoadImageTextDataSetFromFolder": {"folder": "input"},
}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
NOWHERE = "http://127.0.0.1:9"
IMPORT_ALL = f"""
import importlib, pkgutil, sys
from comfy.cli_args import args
args.cpu = True
sys.path.append(sys.argv[1])
for module in pkgutil.walk_packages([sys.argv[1] + "/{PACK}"], "{PACK}."):
    importlib.import_module(module.name)
"""


class Failed(Exception):
    """A check did not pass; the text is what its tool said."""


class Check:
    """One run of all checks in a scratch folder."""

    def __init__(self, scratch: Path):
        self.scratch, self.tree, self.base = scratch, scratch / "tree", scratch / "base"
        self.pack = self.base / "custom_nodes" / PACK
        self.failures = 0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print one line about what happens inside, and the tool's words when it failed."""
        start, fault = time.monotonic(), None
        try:
            yield
        except Failed as error:
            fault = str(error)
            self.failures += 1
        print(f"{'FAILED' if fault else 'ok':8}{name:34}{time.monotonic() - start:5.1f} s", flush=True)
        if fault:
            print(fault.strip(), flush=True)

    def tool(self, *command: str, cwd: Path) -> str:
        """Output of a tool that must exit with 0."""
        done = subprocess.run(command, cwd=cwd, env=self.variables(), stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
        if done.returncode:
            raise Failed(done.stdout)
        return done.stdout

    def variables(self) -> dict[str, str]:
        """The tools' home is the scratch folder, they may not count users, and no server answers but our own."""
        home = str(self.scratch)
        proxies = {name: NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        ours = {name: "127.0.0.1,localhost" for name in ("no_proxy", "NO_PROXY")}
        git = {f"GIT_{who}_{what}": "check" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return os.environ | proxies | ours | git | {
            "HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "DO_NOT_TRACK": "1",
            "COMFY_TEST_LOGS_DIR": home, "COMFY_TEST_WORKSPACE_DIR": home}

    # Before the host runs

    def copy(self) -> None:
        """Put what git tracks, or would after `git add`, into a repository of its own: `pack` writes beside it."""
        listed = self.tool("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.tree / name)
        self.tool("git", "init", "--quiet", cwd=self.tree)
        self.tool("git", "add", "--all", cwd=self.tree)

    def validate(self) -> None:
        said = self.tool("comfy", "--skip-prompt", "--no-json", "node", "validate", cwd=self.tree)
        if "Warning" in said:
            raise Failed(said)

    def unpack(self) -> None:
        self.tool("comfy", "--skip-prompt", "--no-json", "node", "pack", cwd=self.tree)
        with zipfile.ZipFile(self.tree / "node.zip") as archive:
            archive.extractall(self.pack)
            unwanted = [name for name in archive.namelist() if UNWANTED.match(name)]
        print(f"        {(self.tree / 'node.zip').stat().st_size / 2**20:.1f} MiB in {len(archive.namelist())} files")
        if unwanted:
            raise Failed("keep out by .comfyignore: " + ", ".join(unwanted))

    def import_guard(self, host: Path) -> None:
        """The guard reads the host out of a git repository with a tag for each version."""
        clone, version = self.scratch / "guard" / "ComfyUI", "v" + host_version(host)
        self.tool("git", "init", "--quiet", str(clone), cwd=self.scratch)
        git = ("git", f"--git-dir={clone / '.git'}", f"--work-tree={host}")
        for command in (("add", "--force", "*.py"), ("commit", "--quiet", "-m", version), ("tag", version)):
            self.tool(*git, *command, cwd=host)
        self.tool("comfy-import-guard", "check", "--strict", "--offline", "--quiet", "--target", version,
                  "--cache-dir", str(clone.parent), "--comfy-dir", str(self.base), cwd=self.scratch)

    def place_files(self) -> None:
        """Empty files and folders under the names that the graphs ask for, so that the loaders list them; not for
        those that come with the pack."""
        own = {path.name for path in self.pack.rglob("*")}
        for file in self.graphs():
            graph, twin = (json.loads(path.read_text()) for path in (self.pack / TEMPLATES / file.name, file))
            wanted = [Path("models", model["directory"], model["name"])
                      for node in graph["nodes"] for model in node["properties"].get("models", ())]
            wanted += [Path(folder, node["inputs"][name]) for node in twin.values()
                       for name, folder in UNLINKED.get(node["class_type"], {}).items()]
            for path in (self.base / name for name in wanted if name.name not in own):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch() if path.suffix else path.mkdir(exist_ok=True)

    def graphs(self) -> list[Path]:
        """The API graphs of the archive."""
        return sorted((self.pack / TEMPLATES / "api").glob("*.json"))

    def import_all(self) -> None:
        """No module of the archive needs one that was kept out."""
        self.tool(sys.executable, "-c", IMPORT_ALL, str(self.pack.parent), cwd=self.scratch)

    # On the running host

    def snapshot(self, info: dict) -> None:
        if faults := renew.differences(json.loads(renew.SNAPSHOT.read_text()), renew.snapshot(info)):
            raise Failed("\n".join(f"{name} {what}" for name, what in faults.items()))

    def lint_graphs(self, info: dict) -> None:
        schema = self.scratch / "object_info.json"
        schema.write_text(json.dumps(info | {name: plain(node) for name, node in node_info.own(info).items()}))
        self.tool("comfy-lint", "--strict", "--schema-cache", str(schema), *map(str, self.graphs()), cwd=self.scratch)

    def levels(self, server: Server, info: dict) -> None:
        """comfy-test's levels on the running server, from inside the unpacked archive."""
        folder = self.pack / "workflows"
        folder.mkdir()
        for file in self.graphs():
            graph = json.loads((self.pack / TEMPLATES / file.name).read_text())
            (folder / file.name).write_text(json.dumps(readable(graph, json.loads(file.read_text()), info)))
        (self.pack / "comfy-test.toml").write_text(f"[test]\nlevels = {json.dumps(LEVELS)}\n")
        said = self.tool(sys.executable, "-m", "comfy_test", "run", "--server-url", server.url, cwd=self.pack)
        if re.search(r"^\[(warnings|hazards)\] (?!%s)" % "|".join(JUDGED), said, re.MULTILINE):
            raise Failed(said)

    def draw(self, server: Server) -> None:
        graph = json.loads((self.pack / TEMPLATES / "api" / f"{PACK}.json").read_text())
        try:
            picture = server.image(server.run(graph))
        except NodeError as error:
            raise Failed(str(error)) from error
        if picture.convert("L").getextrema()[1] == 0:
            raise Failed("the demo graph drew a black picture")

    def draw_on(self, host: Path) -> None:
        base = self.scratch / host.name
        shutil.copytree(self.pack, base / "custom_nodes" / PACK)
        with Server(base, host=host) as server:
            self.draw(server)


def readable(graph: dict, twin: dict, info: dict) -> dict:
    """A graph as comfy-test reads it: no notes, and no values of widgets that it does not know.

    It takes widget values by position but counts neither combos nor what the front end adds to a seed. It counts inputs
    that are linked: their defaults stand in.
    """
    nodes = [dict(node) for node in graph["nodes"] if node["type"] in info]
    for node in nodes:
        inputs, given = info[node["type"]]["input"], twin[str(node["id"])]["inputs"]
        known = inputs.get("required", {}) | inputs.get("optional", {})
        names = [name for name, spec in known.items() if spec[0] in WIDGETS or isinstance(spec[0], list)]
        node["widgets_values"] = [known[name][-1].get("default", "") if isinstance(given[name], list) else given[name]
                                  for name in names if name in given]
    return graph | {"nodes": nodes}


def plain(node: dict) -> dict:
    """A node of /object_info as comfy-lint reads it: growing slots spelled out, any type where there are several."""
    groups = {"required": {}, "optional": {}}
    for name, kind, group, options in node_info.inputs(node["input"]):
        if kind == "COMFY_AUTOGROW_V3":
            template = options["template"]
            (slot,) = template["input"]["required"].values()
            groups["optional"] |= {f"{name}.{template['prefix']}{i}": slot for i in range(template["max"])}
        else:
            groups["optional" if "." in name else group][name] = ["*" if "," in kind else kind, options]
    return node | {"input": groups}


def host_version(host: Path) -> str:
    return re.search(r'__version__ = "(.+)"', (host / "comfyui_version.py").read_text())[1]


def main(oldest: str) -> int:
    with tempfile.TemporaryDirectory(prefix="mditface-check-") as scratch:
        check = Check(Path(scratch))
        with check.step("ruff"):
            check.tool(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=ROOT)
        check.copy()
        with check.step("comfy node validate"):
            check.validate()
        with check.step("comfy node pack"):
            check.unpack()
        with check.step("comfy-test lint"):
            check.tool(sys.executable, "-m", "comfy_test", "lint", "--strict", str(check.pack), cwd=check.scratch)
        with check.step("every packed module imports"):
            check.import_all()
        for host in (Path(oldest), HOST):
            with check.step(f"comfy-import-guard, {host_version(host)}"):
                check.import_guard(host)
        with check.step(f"the demo draws on {host_version(Path(oldest))}"):
            check.draw_on(Path(oldest))
        check.place_files()
        with Server(check.base) as server:
            info = server.object_info()
            with check.step("nodes as in tests/snapshot.json"):
                check.snapshot(info)
            with check.step("comfy-lint"):
                check.lint_graphs(info)
            with check.step("comfy-test " + ", ".join(LEVELS[:2]) + " ..."):
                check.levels(server, info)
            with check.step(f"the demo draws on {host_version(HOST)}"):
                check.draw(server)
    print(f"{check.failures} checks failed" if check.failures else "every check passed")
    return int(check.failures > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

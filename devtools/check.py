"""Check the archive that users get with the registry's own tools and on the host.

    python dev.py check

`comfy node pack` packs a copy of this checkout. All later checks read the unpacked archive alone, on the version of the
host that the pack is made for and on the oldest one that it claims. No tool reaches the network or the person's own
files. The exit code is 1 when a check failed.
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
from devtools.server import HOST, MODEL_ENDINGS, ROOT, NodeError, Server

PACK = "mditface"
TEMPLATES = "example_workflows"
FIRST = "2 Paint a face, all nodes.json"  # needs no file but the bundled ones
FOREIGN = ROOT / "tests" / "e2e" / "probe_nodes" / "foreign.json"  # nodes of other packs that stand in templates
UNWANTED = re.compile(r"(tests|bench|devtools|docs|\.ci)/|dev\.py|.*\.(pyc|ipynb|sh)$")
LEVELS = ("syntax", "warnings", "hazards", "registration", "javascript", "instantiation", "validation")
JUDGED = ("weights",)  # findings of comfy-test that are right and stay: the bundled weights
IMAGE_ENDINGS = (".png", ".jpg")
MATCHED = "COMFY_MATCHTYPE_V3"  # the type of sockets that take the type of their link
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
    """A check did not pass; the text is the output of its tool."""


class Check:
    """One run of all checks in a scratch folder."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.tree = scratch / "tree"
        self.base = scratch / "base"
        self.pack = self.base / "custom_nodes" / PACK
        self.failures = 0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print one line about the check that runs inside, and the output of its tool when it failed."""
        start = time.monotonic()
        fault = None
        try:
            yield
        except Failed as error:
            fault = str(error)
            self.failures += 1
        print(f"{'FAILED' if fault else 'ok':8}{name:34}{time.monotonic() - start:5.1f} s", flush=True)
        if fault:
            print(fault.strip(), flush=True)

    def tool(self, *command: str, cwd: Path) -> str:
        """The output of a tool. Failed unless it exits with 0."""
        done = subprocess.run(command, cwd=cwd, env=self.variables(), stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
        if done.returncode:
            raise Failed(done.stdout)
        return done.stdout

    def variables(self) -> dict[str, str]:
        """Variables of the tools: they live in the scratch folder, send no statistics and reach only our own server."""
        home = str(self.scratch)
        proxies = {name: NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        ours = {name: "127.0.0.1,localhost" for name in ("no_proxy", "NO_PROXY")}
        git = {f"GIT_{who}_{what}": "check" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return os.environ | proxies | ours | git | {
            "HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "DO_NOT_TRACK": "1",
            "COMFY_TEST_LOGS_DIR": home, "COMFY_TEST_WORKSPACE_DIR": home}

    # Before the host runs

    def copy(self) -> None:
        """Put all files that git tracks, or would after `git add`, into a new repository: `pack` writes next to it."""
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
        """The guard reads the host from a git repository with a tag for each version."""
        clone = self.scratch / "guard" / "ComfyUI"
        version = "v" + read_host_version(host)
        self.tool("git", "init", "--quiet", str(clone), cwd=self.scratch)
        git = ("git", f"--git-dir={clone / '.git'}", f"--work-tree={host}")
        for command in (("add", "--force", "*.py"), ("commit", "--quiet", "-m", version), ("tag", version)):
            self.tool(*git, *command, cwd=host)
        self.tool("comfy-import-guard", "check", "--strict", "--offline", "--quiet", "--target", version,
                  "--cache-dir", str(clone.parent), "--comfy-dir", str(self.base), cwd=self.scratch)

    def graphs(self) -> list[Path]:
        """The API graphs of the archive."""
        return sorted((self.pack / TEMPLATES / "api").glob("*.json"))

    def import_all(self) -> None:
        """Import every module of the archive: none may need a module that is not packed."""
        self.tool(sys.executable, "-c", IMPORT_ALL, str(self.pack.parent), cwd=self.scratch)

    # On the running host

    def place_files(self, server: Server) -> None:
        """Empty files and folders under the names that the graphs ask for, so that the nodes list them; not for files
        that come with the pack."""
        own = {path.name for path in self.pack.rglob("*")}
        for name, value in self.values():
            if name == "folder":
                (self.base / "input" / value).mkdir(exist_ok=True)
            elif value.endswith(IMAGE_ENDINGS):
                (self.base / "input" / value).touch()
            elif value.endswith(MODEL_ENDINGS) and Path(value).name not in own:
                server.touch_model(value)

    def values(self) -> set[tuple[str, str]]:
        """(name of the input, text) of every text in the API graphs."""
        found = set()
        for file in self.graphs():
            for node in json.loads(file.read_text()).values():
                found |= {(name, value) for name, value in node["inputs"].items() if isinstance(value, str)}
        return found

    def snapshot(self, info: dict) -> None:
        if faults := renew.differences(json.loads(renew.SNAPSHOT.read_text()), renew.make_snapshot(info)):
            raise Failed("\n".join(f"{name} {what}" for name, what in faults.items()))

    def lint_graphs(self, info: dict) -> None:
        schema = self.scratch / "object_info.json"
        own = {name: convert_for_comfy_lint(node) for name, node in node_info.own(info).items()}
        foreign = json.loads(FOREIGN.read_text())
        nodes = json.dumps(info | own | foreign)
        schema.write_text(nodes.replace(MATCHED, "*"))
        self.tool("comfy-lint", "--strict", "--schema-cache", str(schema), *map(str, self.graphs()), cwd=self.scratch)

    def levels(self, server: Server, info: dict) -> None:
        """comfy-test's levels on the running server, from inside the unpacked archive."""
        folder = self.pack / "workflows"
        folder.mkdir()
        foreign = json.loads(FOREIGN.read_text())
        for file in self.graphs():
            graph = json.loads((self.pack / TEMPLATES / file.name).read_text())
            twin = json.loads(file.read_text())
            types = {node["type"] for node in graph["nodes"]}
            if types & set(foreign) or graph.get("definitions") or any(MATCHED in str(info.get(x)) for x in types):
                continue  # comfy-test knows no nodes of other packs, no sub-graphs and no sockets of any one type
            (folder / file.name).write_text(json.dumps(convert_for_comfy_test(graph, twin, info)))
        (self.pack / "comfy-test.toml").write_text(f"[test]\nlevels = {json.dumps(LEVELS)}\n")
        said = self.tool(sys.executable, "-m", "comfy_test", "run", "--server-url", server.url, cwd=self.pack)
        if re.search(r"^\[(warnings|hazards)\] (?!%s)" % "|".join(JUDGED), said, re.MULTILINE):
            raise Failed(said)

    def draw(self, server: Server) -> None:
        graph = json.loads((self.pack / TEMPLATES / "api" / FIRST).read_text())
        try:
            image = server.image(server.run(graph))
        except NodeError as error:
            raise Failed(str(error)) from error
        if image.convert("L").getextrema()[1] == 0:
            raise Failed("the demo graph drew a black image")

    def draw_on(self, host: Path) -> None:
        base = self.scratch / host.name
        shutil.copytree(self.pack, base / "custom_nodes" / PACK)
        with Server(base, host=host) as server:
            self.draw(server)


def convert_for_comfy_test(graph: dict, twin: dict, info: dict) -> dict:
    """A graph as comfy-test reads it: without notes and without values of widgets that it does not know.

    comfy-test reads widget values by position. It counts neither combos nor the widget that the front end adds to a
    seed, but it counts linked inputs: these get their defaults.
    """
    nodes = [dict(node) for node in graph["nodes"] if node["type"] in info]
    for node in nodes:
        inputs = info[node["type"]]["input"]
        given = twin[str(node["id"])]["inputs"]
        known = inputs.get("required", {}) | inputs.get("optional", {})
        names = [name for name, declared in known.items() if declared[0] in WIDGETS or isinstance(declared[0], list)]
        node["widgets_values"] = [known[name][-1].get("default", "") if isinstance(given[name], list) else given[name]
                                  for name in names if name in given]
    return graph | {"nodes": nodes}


def convert_for_comfy_lint(node: dict) -> dict:
    """A node of /object_info as comfy-lint reads it: each growing slot by its own name, * for a choice of types."""
    groups = {"required": {}, "optional": {}}
    for name, kind, group, options in node_info.inputs(node["input"]):
        if kind == "COMFY_AUTOGROW_V3":
            template = options["template"]
            (slot,) = template["input"]["required"].values()
            slots = template.get("names") or [f"{template['prefix']}{i}" for i in range(template["max"])]
            groups["optional"] |= {f"{name}.{key}": slot for key in slots}
        else:
            groups["optional" if "." in name else group][name] = ["*" if "," in kind else kind, options]
    return node | {"input": groups}


def read_host_version(host: Path) -> str:
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
            with check.step(f"comfy-import-guard, {read_host_version(host)}"):
                check.import_guard(host)
        with check.step(f"the demo draws on {read_host_version(Path(oldest))}"):
            check.draw_on(Path(oldest))
        with Server(check.base) as server:
            check.place_files(server)
            info = server.object_info()
            with check.step("nodes as in tests/snapshot.json"):
                check.snapshot(info)
            with check.step("comfy-lint"):
                check.lint_graphs(info)
            with check.step("comfy-test " + ", ".join(LEVELS[:2]) + " ..."):
                check.levels(server, info)
            with check.step(f"the demo draws on {read_host_version(HOST)}"):
                check.draw(server)
    print(f"{check.failures} checks failed" if check.failures else "every check passed")
    return int(check.failures > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

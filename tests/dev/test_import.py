"""Loading the pack costs next to nothing, says nothing and asks nobody."""
import json
import subprocess
import sys

import pytest

LIMIT = 0.4  # CPU seconds, without the modules that the host imports before it looks for custom nodes
PROBE = """
import asyncio, contextlib, importlib.util, io, json, logging, socket, sys, time
from comfy.cli_args import args
args.cpu = True
import comfy_api.latest, execution, nodes, server

def refuse(*_):
    raise AssertionError("the pack opened a socket")

loop = asyncio.new_event_loop()
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
said = io.StringIO()
logging.getLogger().addHandler(logging.StreamHandler(said))
logging.getLogger().setLevel(logging.INFO)
start = time.process_time()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    spec = importlib.util.spec_from_file_location(
        "any_name", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
    sys.modules["any_name"] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    extension = loop.run_until_complete(pack.comfy_entrypoint())
    count = len(loop.run_until_complete(extension.get_node_list()))
seconds = time.process_time() - start
print()
print(json.dumps({"seconds": seconds, "nodes": count, "said": said.getvalue()}))
"""


@pytest.fixture(scope="module")
def loads(root, tmp_path_factory) -> list[dict]:
    """Three fresh processes that load the pack as the host does; the first may have to compile it."""
    command = [sys.executable, "-c", PROBE, str(root)]
    runs = [subprocess.run(command, cwd=tmp_path_factory.mktemp("empty"), capture_output=True, text=True)
            for _ in range(3)]
    assert [run.stderr for run in runs if run.returncode] == []
    return [json.loads(run.stdout.splitlines()[-1]) for run in runs]


def test_the_pack_loads_fast(loads):
    assert min(load["seconds"] for load in loads) < LIMIT
    assert loads[0]["nodes"] > 0


def test_the_pack_loads_silently(loads):
    assert {load["said"] for load in loads} == {""}

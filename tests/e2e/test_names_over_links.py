"""Names of files that come over links, past the lists of inputs: no node opens a file outside of the host's folders."""
import inspect
import json

import pytest
from PIL import Image

from comfy_api.latest import io
from devtools.server import NodeError
from mditface.nodes import NODES
from mditface.tests.e2e.graphs import node

EXAMPLES = ("MDiT_ExampleLabelMap", "face")
OTHER = "other.safetensors"  # in a node that names two files, the one that is there
CLASS = "class_name"  # of a part of the face, no file


def list_inputs() -> list[tuple[str, str]]:
    """Every input of a node that names a file: those whose names the node validates, and the examples."""
    found = [EXAMPLES]
    for kind in NODES:
        validated = inspect.signature(kind.validate_inputs).parameters if "validate_inputs" in vars(kind) else ()
        found += [(kind.define_schema().node_id, name) for name in validated
                  if name.endswith("_name") and name != CLASS]
    return found


@pytest.fixture(scope="module")
def secret(server, tmp_path_factory):
    """A picture, and a file with the ending of a model, outside of the host's folders."""
    folder = tmp_path_factory.mktemp("secret")
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    for ending in ("safetensors", "pth"):
        (folder / f"model.{ending}").write_bytes(b"secret")
    for name, file in {"mdit": "notes.txt", "mdit_adapters": OTHER}.items():
        (server.base / "models" / name).mkdir(exist_ok=True)
        (server.base / "models" / name / file).write_text("secret")
    return folder


def fill(kind: str) -> dict:
    """Values of the node's inputs that are validated before it runs."""
    schema = next(found for found in NODES if found.define_schema().node_id == kind).define_schema()
    combos = [found for found in schema.inputs if isinstance(found, io.Combo.Input)]
    return {found.id: OTHER if found.id.endswith("_name") else found.default for found in combos}


def spell(secret) -> list:
    up = "../" * 12 + str(secret)[1:]
    return [str(secret / "picture"), f"{up}/picture", str(secret / "model.safetensors"), f"{up}/model.pth", "notes.txt",
            "..", "", "woman\0", "x" * 100_000, 5, None, ["woman"]]


@pytest.mark.parametrize("kind, name", list_inputs())
def test_no_name_leads_outside(server, secret, kind, name):
    for value in spell(secret):
        graph = {"any": node("Probe_Anything", value=json.dumps(value)),
                 "load": node(kind, **{**fill(kind), name: ["any", 0]}), "seen": node("PreviewAny", source=["load", 0])}
        with pytest.raises(NodeError) as caught:
            server.run(graph)
        assert caught.value.node_id == "load" and caught.value.message.startswith(f"{name}: there is no"), value
        assert len(caught.value.message) < 600

"""Files that nobody vouches for are opened in few places, which check them: see docs/reliability.md."""
import ast
from collections import defaultdict

CALLS = {  # that open or parse a file
    "load_file", "safe_open", "torch.load", "torch.jit.load", "load_torch_file", "safetensors_header", "np.load",
    "json.load", "json.loads", "yaml.safe_load", "yaml.load", "pickle.load", "pickle.loads", "Image.open",
    "zipfile.ZipFile", "tarfile.open"}
OF_PATHS = {"read_text", "read_bytes"}
PLACES = {
    # each kind of file, read and checked
    "mdit/shared/tensor_files.py": {"safe_open", "load_torch_file", "torch.load", "zipfile.ZipFile"},
    "mdit/shared/text_files.py": {"json.loads", ".read_bytes"},
    "mdit/labelmap/files.py": {"Image.open"},
    "mdit/datasets/decoding.py": {"Image.open", ".read_bytes"},
    "mdit/datasets/faces.py": {".read_bytes"},
    "mdit/datasets/tars.py": {"tarfile.open"},
    "mdit/datasets/renders.py": {"np.load", "json.loads"},
    "mdit/interactdiffusion/text.py": {"json.loads"},
    "mdit/training/settings.py": {"yaml.safe_load"},
    "mdit/parsing/parser.py": {"safe_open", "load_file"},  # works without the host
    # files of the pack, of the host, and those that a run wrote for itself
    "mdit/datasets/mapped.py": {"np.load", ".read_text"},
    "mdit/mmface/text.py": {"json.loads", ".read_text"},
    "mdit/parsing/words.py": {"json.loads", ".read_text"},
    "mdit/recipes/latents.py": {"np.load", "json.loads"},
    "mdit/render/mesh.py": {"np.load"},
    "mdit/render/pack.py": {"Image.open", ".read_text"},
    "mdit/training/trainer.py": {".read_bytes"},
    "nodes/labelmap.py": {"Image.open"},
    "nodes/painter.py": {"Image.open"},
}


def list_openings(source: str) -> set[str]:
    """The CALLS that a source makes or hands on as functions, and those of methods of paths."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Attribute, ast.Name)):
            last = ast.unparse(node).split(".")[-2:]
            found |= {".".join(last), last[-1]} & CALLS
        elif isinstance(node, ast.Call) and all(isinstance(argument, ast.Constant) for argument in node.args):
            found |= {f".{name}" for name in OF_PATHS & {getattr(node.func, "attr", "")}}
    return found


def test_files_are_opened_in_known_places(root):
    found = defaultdict(set)
    for folder in ("mdit", "nodes"):
        for path in sorted((root / folder).rglob("*.py")):
            if openings := list_openings(path.read_text("utf-8")):
                found[path.relative_to(root).as_posix()] = openings
    assert dict(found) == PLACES


def test_openings_are_found():
    lines = ("map(json.loads, x)", "PIL.Image.open(y)", "path.read_text()", "graph.read_bytes(path)", "read_text(path)",
             "safetensors.torch.load_file(z)")
    assert list_openings("\n".join(lines)) == {"json.loads", "Image.open", ".read_text", "load_file"}

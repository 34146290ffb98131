"""A node that a message names exists: its title is quoted 'Like This', as the front end shows it."""
import ast
import json
import os
import re
from pathlib import Path

import pytest

SMALL = "a|after|and|as|at|by|for|from|in|of|on|or|the|to|with"
WORD = r"[A-Z][\w.-]*"
PHRASE = rf"{WORD}(?: (?:\+|{SMALL}|{WORD}))* (?:{WORD}|\({WORD}(?: {WORD})*\))"
QUOTED = re.compile(rf"'({PHRASE})'")
ITALIC = re.compile(rf"(?<!\*)\*({PHRASE})\*(?!\*)")
MENUS = {"Unload Models", "Unload Models and Execution Cache"}
VAGUE = re.compile(r"\b(?:mdit|mask|text|host's|face)(?: (?:or )?(?:mask|text|lora|conditioning|clip|vae))*"
                   r" (?:loader|tokenizer|sampler|node)\b", re.IGNORECASE)  # a node by what it does


def strings(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of every string in the code but docstrings; fields of an f-string are {}."""
    inner = set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inner.add(node.value)  # a docstring
        if isinstance(node, ast.JoinedStr):
            inner.update(ast.walk(node))
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            found.append((node.lineno, node.value))
    return found


def raised(tree: ast.AST) -> list[tuple[int, str]]:
    """The strings of the statements that raise an error."""
    return [text for node in ast.walk(tree) if isinstance(node, ast.Raise) for text in strings(node)]


def unquoted(text: str, titles: set[str]) -> list[str]:
    """Titles of several words that a text names without quotes."""
    rest = QUOTED.sub("", text)
    return [phrase for phrase in re.findall(PHRASE, rest) if phrase in titles]


def host_titles() -> set[str]:
    """Titles of the host's nodes, read from its sources: importing them all takes seconds."""
    titles = set()
    host = Path(os.environ["COMFYUI_PATH"])
    for path in (host / "nodes.py", *sorted((host / "comfy_extras").glob("nodes_*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "display_name":
                titles.add(getattr(node.value, "value", None))
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NodeName":  # of hooks
                titles.add(getattr(node.value, "value", None))
            if isinstance(node, ast.Dict):  # NODE_DISPLAY_NAME_MAPPINGS
                titles.update(getattr(value, "value", None) for value in node.values)
    return {title for title in titles if isinstance(title, str)}


@pytest.fixture(scope="module")
def own_titles() -> set[str]:
    from mditface.nodes import NODES
    return {node.define_schema().display_name for node in NODES}


@pytest.fixture(scope="module")
def titles(own_titles) -> set[str]:
    return own_titles | host_titles()


@pytest.fixture(scope="module")
def trees(root) -> dict[str, ast.AST]:
    paths = [path for folder in ("mdit", "nodes") for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


def test_strings_are_found():
    tree = ast.parse('"""A doc."""\nx = f"take \'{a}\' of {b}"\nraise ValueError(f"no {c}", "d")')
    assert [text for _, text in strings(tree)] == ["take '{}' of {}", "no {}", "d"]
    assert [text for _, text in raised(tree)] == ["no {}", "d"]


def test_vague_names_are_noticed():
    assert VAGUE.search("the 'vae' input of the MDiT mask tokenizer") and VAGUE.search("the MDiT loader")
    assert VAGUE.search("the text or mask conditioning node") and not VAGUE.search("the host's own loaders")
    assert unquoted("connect Load CLIP, or 'Load CLIP'", {"Load CLIP"}) == ["Load CLIP"]


def test_host_titles_are_read():
    assert {"Load CLIP", "Load Checkpoint", "Preview as Text", "KSampler"} <= host_titles()


def test_quoted_titles_are_those_of_nodes(trees, titles):
    wrong = [f"{name}:{line}: {phrase}" for name, tree in trees.items() for line, text in strings(tree)
             for phrase in QUOTED.findall(text) if phrase not in titles and not phrase.isupper()]
    assert not wrong, "\n".join(wrong)


def test_errors_name_nodes_by_their_titles(trees):
    vague = [f"{name}:{line}: {text}" for name, tree in trees.items() for line, text in raised(tree)
             if VAGUE.search(QUOTED.sub("", text))]
    assert not vague, "\n".join(vague)


def test_titles_in_tooltips_and_descriptions_are_quoted(trees, titles):
    bare = []
    for name, tree in trees.items():
        if name.startswith("nodes/"):
            texts = [(line, text) for line, text in strings(tree) if text not in titles]
            bare += [f"{name}:{line}: {found}" for line, text in texts for found in unquoted(text, titles)]
    assert not bare, "\n".join(bare)


def test_titles_in_help_pages_and_notes_exist(root, titles):
    """They stand in italics; the part of a title in brackets may be left out."""
    short = {title.partition(" (")[0] for title in titles}
    pages = {path.stem: path.read_text("utf-8") for path in (root / "web" / "docs").glob("*.md")}
    for path in (root / "example_workflows").glob("*.json"):
        nodes = json.loads(path.read_text("utf-8"))["nodes"]
        pages[path.stem] = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    wrong = [f"{name}: {phrase}" for name, page in pages.items() for phrase in ITALIC.findall(page)
             if phrase not in titles | short | MENUS]
    assert not wrong, "\n".join(wrong)


def test_titles_in_errors_are_quoted(trees, titles):
    bare = [f"{name}:{line}: {', '.join(unquoted(text, titles))}" for name, tree in trees.items()
            for line, text in raised(tree) if unquoted(text, titles)]
    assert not bare, "\n".join(bare)

"""Write what a new node needs besides its schema: help pages in two languages, translation, changelog line and test.

    python dev.py new-node NODE_ID [--file FILE]

The schema stands in nodes/FILE.py, and the class in the NODES tuple of that file. Nothing is overwritten. What is left
for a person to write is printed.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from string import Template

from devtools.host import load_pack
from devtools.node_info import ROOT, cell, list_input_slots, list_output_slots, read_pack
from devtools.texts import make_node_texts

SKELETONS = Path(__file__).with_name("skeletons")
SOURCES = {  # nodes of the host that make a type
    "IMAGE": "Load Image", "MASK": "Load Image", "MODEL": "Load Checkpoint", "CLIP": "Load Checkpoint",
    "VAE": "Load Checkpoint", "CONDITIONING": "CLIP Text Encode (Prompt)", "LATENT": "Empty Latent Image",
}
SINKS = {  # nodes of the host that take a type
    "IMAGE": "Preview Image", "MASK": "Preview Mask", "MODEL": "KSampler", "CONDITIONING": "KSampler",
    "LATENT": "VAE Decode", "GUIDER": "SamplerCustomAdvanced", "SIGMAS": "SamplerCustomAdvanced",
}
ANY_SINK = "Preview as Text"
TEST_FOLDERS = {  # of files of the folder nodes whose tests stand in a folder of another name
    "conditioning": "mditface", "loading": "mditface", "sampling": "mditface", "painter": "labelmap",
    "preview": "labelmap", "comparing": "labelmap",
}
SYSTEM_PAGES = {  # of files of the folder nodes whose page in docs/systems has another name
    "conditioning": "mditface", "loading": "mditface", "sampling": "mditface", "adapter": "adapters",
    "training": "adapters", "painter": "label-maps", "labelmap": "label-maps", "parsing": "label-maps",
    "preview": "label-maps", "comparing": "label-maps", "relief": "label-maps",
    "mmface": "mmface-dit",
}
ADDED = "**Added**"  # heading of new nodes in a section of the changelog
TODO = """Left to write:
  prose of {pages}
  the translation: every empty text of {node_id} in locales/zh/nodeDefs.json
  the test: {test}
  the minimal graph: draw it in the front end, save it as GRAPH.json, then
    python dev.py run -- python -m devtools.help_pictures {node_id}=GRAPH.json
  a template in example_workflows that holds the node
Then run: python dev.py renew, check and test"""


class Refused(Exception):
    """Why nothing was written, as one sentence."""


def find_node(nodes: dict[str, dict], node_id: str, file: str | None = None) -> dict:
    """The description of a node whose schema stands in nodes/FILE.py, or in any file of that folder."""
    if node_id not in nodes:
        path = f"nodes/{file or 'FILE'}.py"
        raise Refused(f"there is no node {node_id}: write its schema in {path} and name the class in NODES at the end "
                      "of that file")
    node = nodes[node_id]
    if file not in (None, node["file"]):
        raise Refused(f"the schema of {node_id} stands in nodes/{node['file']}.py, not in nodes/{file}.py")
    return node


def guess_chain(node: dict, nodes: dict[str, dict]) -> str:
    """A first guess of the minimal graph: a node that feeds the new one, the new one, a node that shows its output."""
    sources = {}
    for other in nodes.values():
        if other is not node:
            sources |= dict.fromkeys(other["output"], other["display_name"])
    sources |= SOURCES
    feeding = [sources[slot.kind] for slot in list_input_slots(node) if slot.kind in sources]
    titles = [*feeding[:1], node["display_name"]]
    if node["output"]:
        titles.append(SINKS.get(node["output"][0], ANY_SINK))
    return " -> ".join(f"`{title}`" for title in titles)


def fill_fields(node: dict, nodes: dict[str, dict]) -> dict[str, str]:
    """What the skeletons' fields stand for."""
    inputs = list_input_slots(node)
    outputs = list_output_slots(node)
    return {
        "node_id": node["name"], "title": node["display_name"], "description": node["description"],
        "file": node["file"], "class_name": node["class_name"], "chain": guess_chain(node, nodes),
        "inputs": "\n".join(f"| `{slot.name}` | {cell(slot.tooltip)} |" for slot in inputs),
        "outputs": "\n".join(f"| `{slot.name}` | {cell(slot.tooltip)} |" for slot in outputs),
        "input_names": "\n".join(f"| `{slot.name}` | |" for slot in inputs),
        "output_names": "\n".join(f"| `{slot.name}` | |" for slot in outputs),
    }


def drop_empty_tables(page: str) -> str:
    """A page without the tables that have no row: of inputs or outputs that the node has not."""
    return re.sub(r"\|[^\n]*\|\n\| --- \| --- \|\n\n\n", "", page)


def empty_texts(texts: dict) -> dict:
    """The same keys with empty texts."""
    return {key: empty_texts(value) if isinstance(value, dict) else "" for key, value in texts.items()}


def make_new_files(root: Path, node: dict, nodes: dict[str, dict]) -> dict[Path, str]:
    """The texts of the files that do not exist yet, by path."""
    filled = fill_fields(node, nodes)
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node["class_name"]).lower()
    docs = root / "web" / "docs"
    paths = {docs / f"{node['name']}.md": "page.txt", docs / node["name"] / "zh.md": "zh.txt",
             root / "tests" / TEST_FOLDERS.get(node["file"], node["file"]) / f"test_{name}.py": "test.txt"}
    return {path: drop_empty_tables(Template((SKELETONS / skeleton).read_text("utf-8")).substitute(filled))
            for path, skeleton in paths.items()}


def add_translation(root: Path, node: dict) -> tuple[Path, str]:
    """The Chinese texts of the nodes with empty ones for the new node."""
    path = root / "locales" / "zh" / "nodeDefs.json"
    entries = json.loads(path.read_text("utf-8"))
    if node["name"] in entries:
        raise Refused(f"{path.relative_to(root)} has an entry {node['name']} already")
    entries[node["name"]] = empty_texts(make_node_texts({node["name"]: node})[node["name"]])
    return path, json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False) + "\n"


def system_page(root: Path, node: dict) -> Path:
    """The page in docs/systems that describes the node's system."""
    name = SYSTEM_PAGES.get(node["file"], node["file"].replace("_", "-"))
    return root / "docs" / "systems" / f"{name}.md"


def node_table(page: Path) -> re.Match | None:
    """The table of nodes of a page in docs/systems."""
    text = page.read_text("utf-8") if page.is_file() else ""
    return re.search(r"^\| Node \|([^\n]*\|)+\n(\|[^\n]*\n)+", text, re.MULTILINE)


def with_line_added(section: str, line: str) -> str:
    """A section of the changelog with one more line at the end of what was added."""
    if ADDED not in section:
        section = f"{section.rstrip()}\n\n{ADDED}\n"
    start = section.index(ADDED) + len(ADDED)
    heading = re.compile(r"^\*\*", re.MULTILINE).search(section, start)
    end = heading.start() if heading else len(section)
    lines = section[start:end].rstrip() or "\n"
    rest = "\n" + section[end:] if heading else ""
    return f"{section[:start]}{lines}\n{line}\n{rest}"


def list_node(root: Path, node: dict) -> dict[Path, str]:
    """The changelog and the system's page in docs/systems, with the new node; those that name it already are left."""
    title = node["display_name"]
    changed = {}
    changelog = root / "CHANGELOG.md"
    head, newest, *older = changelog.read_text("utf-8").split("\n## ")
    if title not in " ".join(newest.split()):
        newest = with_line_added(newest, f"* *{title}*: {node['description']}")
        changed[changelog] = "\n## ".join((head, newest, *older))
    page = system_page(root, node)
    table = node_table(page)
    if table and title not in table[0]:
        empty = " |" * (table[0].split("\n")[0].count("|") - 3)
        row = f"| *{title}* | {cell(node['description'])} |{empty}\n"
        changed[page] = table.string[:table.end()] + row + table.string[table.end():]
    return changed


def write_node(root: Path, node: dict, nodes: dict[str, dict]) -> list[Path]:
    """Write all that a node needs into the tree at `root`; the paths. Refused when one of the files exists."""
    files = make_new_files(root, node, nodes)
    for path in files:
        if path.exists():
            raise Refused(f"{path.relative_to(root)} exists already: nothing was written")
    zh, texts = add_translation(root, node)
    files[zh] = texts
    files |= list_node(root, node)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return [path.relative_to(root) for path in files]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py new-node", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node_id", metavar="NODE_ID", help="id of the node, such as MDiT_LoadModel")
    parser.add_argument("--file", metavar="FILE", help="file of the folder nodes with the schema, without .py")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mditface-new-node-") as base:
        load_pack(Path(base))
        nodes = read_pack()
        try:
            paths = write_node(ROOT, find_node(nodes, options.node_id, options.file), nodes)
        except Refused as reason:
            print(f"dev.py: {reason}", file=sys.stderr)
            return 2
    print(*(f"wrote {path}" for path in paths), sep="\n")
    page = system_page(ROOT, nodes[options.node_id])
    if not node_table(page):
        print(f"no table of nodes in {page.relative_to(ROOT)}: name the node there by hand")
    pages, chinese, test = paths[:3]
    print(TODO.format(node_id=options.node_id, pages=f"{pages} and {chinese}", test=test))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the repository cites lies in it: sections of the design documents, and the targets of links in Markdown."""
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

KINDS = (".py", ".md", ".yaml", ".js", ".toml")
NUMBER = r"\d+(?:\.\d+)*"
CITATION = re.compile(rf"docs/design/([\w-]+)\.md(?:,? sections? ({NUMBER}(?:(?:,| and| to|, and) {NUMBER})*))?")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*#*$", re.MULTILINE)
OUTSIDE = re.compile(  # how texts cite documents that only their writer has
    r"\(specs?,? \w|\b(?:the|of|by|as|our) specs?\b|\bspecs?(?:,|'s)? (?:sections?|[\w-]+\.md|\d)|[\w-]+ spec\)",
    re.IGNORECASE)
LINK = re.compile(r"\]\(<?([^()<>\s]*(?:\([^()\s]*\)[^()<>\s]*)?)>?(?: \"[^\"]*\")?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def texts(root) -> dict[str, str]:
    """Every text file that git tracks or would track, by its path, but not this one."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    own = Path(__file__).relative_to(root).as_posix()
    return {name: (root / name).read_text("utf-8") for name in sorted(set(listed.stdout.split("\0")))
            if name.endswith(KINDS) and name != own and (root / name).is_file()}


def joined(text: str) -> str:
    """A text whose sentences do not break at the ends of lines, in comments neither."""
    return re.sub(r"\s*\n[ \t]*(?:#+ |// |\* )?[ \t]*", " ", text)


def citations(text: str) -> list[tuple[str, list[str]]]:
    """(page, numbers of the cited sections) of each citation of a design document."""
    return [(page, re.findall(NUMBER, numbers)) for page, numbers in CITATION.findall(joined(text))]


def headings(page: str) -> list[str]:
    return HEADING.findall(CODE.sub(lambda code: code[0] if "\n" not in code[0] else "", page))


def sections(page: str) -> set[str]:
    """The numbers of a page's headings."""
    found = (re.match(rf"({NUMBER})\.? ", heading) for heading in headings(page))
    return {match[1] for match in found if match}


def anchors(page: str) -> set[str]:
    """Where links can lead in a page, as GitHub names its headings; a repeated heading gets a number."""
    names = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page))
    for heading in headings(page):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = 1
        name = slug
        while name in names:
            name = f"{slug}-{count}"
            count += 1
        names.add(name)
    return names


def links(page: str) -> list[str]:
    """Targets of a page's links and images that lie in the repository."""
    targets = LINK.findall(CODE.sub("", page))
    return [unquote(target) for target in targets if not re.match(r"[a-z]+:", target)]


def test_citations_are_found_across_lines():
    text = "a\n# docs/design/pt-dit.md, sections 5,\n# 6.2 and 7; b docs/design/dynast.md section 1."
    assert citations(text) == [("pt-dit", ["5", "6.2", "7"]), ("dynast", ["1"])]
    assert sections("# Title\n\n## 3. Attention\n### 3.2 Merge\n") == {"3", "3.2"}


@pytest.mark.parametrize("text", [
    "(spec section 6.2)", "(spec mditface.md, 3.2)", "(bundled-model spec, section 3)", "the spec's table",
    "of spec 3.3", "as spec mditface.md says", "Spec section 10: 208"])
def test_citations_of_outside_documents_are_noticed(text):
    assert OUTSIDE.search(text)


def test_anchors_are_those_of_github():
    page = "# A *face*, `x_y`\n\n## What it costs\n\n```\n# no heading\n```\n## What it costs\n"
    assert anchors(page) == {"a-face-x_y", "what-it-costs", "what-it-costs-1"}
    found = links("[a](b.md#c) ![d](<e.png> \"f\") [g](https://h) `[i](j)` [k](l%20m.md)")
    assert found == ["b.md#c", "e.png", "l m.md"]


def test_cited_sections_exist(texts):
    missing = []
    for name, text in texts.items():
        for page, numbers in citations(text):
            known = sections(texts.get(f"docs/design/{page}.md", ""))
            if f"docs/design/{page}.md" not in texts:
                missing.append(f"{name}: docs/design/{page}.md")
            missing += [f"{name}: docs/design/{page}.md, section {number}" for number in numbers if number not in known]
    assert not missing, "\n".join(missing)


def test_no_document_outside_the_repository_is_cited(texts):
    found = [f"{name}: {cited}" for name, text in texts.items() for cited in OUTSIDE.findall(joined(text))]
    assert not found, "\n".join(found)


def test_links_lead_to_files_and_headings(root, texts):
    broken = []
    for name, page in texts.items():
        for target in links(page) if name.endswith(".md") else ():
            file, _, anchor = target.partition("#")
            base = (root / name).parents[1 if re.fullmatch(r"web/docs/\w+/\w+\.md", name) else 0]
            path = (base / file).resolve() if file else root / name
            known = anchors(path.read_text("utf-8")) if path.suffix == ".md" and path.is_file() else set()
            if not path.exists() or anchor and anchor not in known:
                broken.append(f"{name}: {target}")
    assert not broken, "\n".join(broken)

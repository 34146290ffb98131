"""A person who searches for a node in the front end finds it without knowing its name."""
from playwright.sync_api import TimeoutError

FOUND = {
    "face": ("Face Sampler (MDiT)", "Parse Face", "Paint Face"),
    "mask": ("Masks of Face Parts", "Masks to Label Map"),
    "beard": ("Prompt + Mask (MDiT)",),
    "segmentation": ("Paint Face", "Parse Face"),
    "paint": ("Paint Face",),
    "start here": ("Paint Face",),
}
LISTED = """() => {
    const dialog = document.querySelector("[role=dialog]").getBoundingClientRect();
    return [...document.querySelectorAll("[role=dialog] [role=option]")].filter(entry => {
        const box = entry.getBoundingClientRect();
        return box.height && box.bottom <= dialog.bottom;
    }).map(entry => entry.innerText.split("\\n")[0]);
}"""


def open_search(page, search) -> None:
    """A page that has just loaded takes no double click; one that opens the search slowly would close it with two."""
    for _ in range(10):
        page.mouse.dblclick(800, 520)
        try:
            search.wait_for(timeout=5000)
            return
        except TimeoutError:
            continue
    raise AssertionError("no double click opens the search")


def test_the_first_screen_of_the_search_shows_the_right_nodes(page, artefacts):
    page.evaluate("() => app.graph.clear()")
    search = page.get_by_role("combobox", name="Add a node...")
    open_search(page, search)
    missed = {}
    for words, titles in FOUND.items():
        before = page.evaluate(LISTED)
        search.fill(words)
        page.wait_for_function(f"before => String(({LISTED})()) !== before", arg=str(",".join(before)))
        page.wait_for_timeout(500)  # the list is filled in steps
        page.screenshot(path=artefacts / f"search for {words}.png")
        shown = page.evaluate(LISTED)
        missed[words] = [title for title in titles if title not in shown]
    assert not any(missed.values()), missed
    assert page.our_errors == []

"""The editor of interactions on a page of its own: by mouse, keyboard and fingers. No host runs."""
import pytest

from mditface.nodes.interactdiffusion import FIRST_LAYOUT
from mditface.tests.e2e.draw_interactions_page import EDITOR, InteractionEditor
from mditface.tests.e2e.painter_page import KEY_DOWN, Pointers, alone

PERSON, CAT = (0.0332, 0.166, 0.3359, 0.7305), (0.2891, 0.4766, 0.668, 0.793)


def close(box):
    return pytest.approx(box, abs=0.006)


@pytest.fixture
def page(browser):
    with alone(browser, EDITOR) as loaded:
        yield loaded
        assert loaded.our_errors == []


@pytest.fixture
def editor(page):
    page.evaluate("text => window.load(text)", FIRST_LAYOUT)
    return InteractionEditor(page, lambda: page.evaluate("window.text()"))


def test_draw_and_name(page, editor, artefacts):
    editor.draw_pair((0.5, 0.1, 0.95, 0.9), (0.7, 0.35, 0.55, 0.2), "man", "holding", "hair drier")
    first, second = editor.interactions
    assert first == ("person", "feeding", "cat", PERSON, CAT)
    assert second[:3] == ("man", "holding", "hair drier")
    assert second.subject_box == close((0.5, 0.1, 0.95, 0.9)) and second.object_box == close((0.55, 0.2, 0.7, 0.35))
    page.screenshot(path=artefacts / "interactions.png")
    assert editor.root.get_by_text("2 hair drier: x 55 to 70, y 20 to 35 %").is_visible()


def test_move_resize_and_choose(page, editor):
    editor.drag((0.1, 0.3), (0.2, 0.4))
    (one,) = editor.interactions
    assert one.subject_box == close((0.1332, 0.266, 0.4359, 0.8305)) and one.object_box == CAT
    editor.drag((0.4359, 0.8305), (0.5, 0.9))
    assert editor.interactions[0].subject_box == close((0.1332, 0.266, 0.5, 0.9))
    editor.drag((0.6, 0.6), (0.95, 0.6))  # the cat's box is chosen, and stops at the edge
    assert editor.interactions[0].object_box == close((0.6211, 0.4766, 1, 0.793))
    editor.drag((0.05, 0.05), (0.3, 0.3))  # nothing lies there
    assert editor.interactions[0].object_box == close((0.6211, 0.4766, 1, 0.793))


def test_edit_rename_reorder_and_undo(page, editor):
    states = [editor.interactions]

    def done():
        states.append(editor.interactions)
        assert states[-1] != states[-2]
    editor.command("duplicate")
    done()
    editor.field(2, "subject").fill("child")
    editor.field(2, "object").click()
    done()
    editor.command("swap")
    done()
    editor.command("earlier")
    done()
    assert [one.subject for one in states[-1]] == ["cat", "person"]
    editor.command("remove")
    done()
    editor.command("clear")
    done()
    for state in states[-2::-1]:
        editor.command("undo")
        assert editor.interactions == state
    editor.canvas.focus()
    for state in states[1:]:
        editor.press("Control+y")
        assert editor.interactions == state


def test_all_by_keyboard(page, editor):
    """From the focus on the canvas to an interaction that is drawn, named, moved, resized, copied and deleted."""
    editor.canvas.focus()
    editor.press("n", " ", *["Shift+ArrowRight"] * 8, *["Shift+ArrowDown"] * 6, " ")
    assert editor.root.get_by_text("Now draw the object's box").is_visible()
    editor.press(" ", *["Shift+ArrowLeft"] * 4, *["Shift+ArrowUp"] * 5, " ")
    page.keyboard.type("dog")
    editor.press("Enter")
    page.keyboard.type("chasing")
    editor.press("Enter")
    page.keyboard.type("ball")
    editor.press("Enter")
    drawn = editor.interactions[1]
    assert drawn[:3] == ("dog", "chasing", "ball")
    assert drawn.subject_box == close((0.5, 0.5, 0.5 + 80 / 512, 0.5 + 60 / 512))
    assert drawn.object_box == close((0.5 + 40 / 512, 0.5 + 10 / 512, 0.5 + 80 / 512, 0.5 + 60 / 512))
    editor.press("[", "ArrowLeft", "Shift+ArrowUp")
    assert editor.interactions[1].subject_box == close((0.5 - 1 / 512, 0.5 - 10 / 512, 0.5 + 79 / 512, 0.5 + 50 / 512))
    editor.press("Alt+Shift+ArrowRight")
    assert editor.interactions[1].subject_box[::2] == close((0.5 - 11 / 512, 0.5 + 89 / 512))
    editor.press(",", "w", "F2")
    page.keyboard.type("puppy")
    editor.press("ArrowDown", "Escape")
    assert [one[:3] for one in editor.interactions] == [("puppy", "chasing", "dog"), ("person", "feeding", "cat")]
    editor.press("d", "Control+z", "]", "Delete")
    assert len(editor.interactions) == 1
    editor.press("g")
    assert page.locator("dialog[open] .interactions").count() == 1
    editor.press("Escape", "?")
    assert page.locator(".popup.help").is_visible()
    editor.press("Escape", "n", " ", "ArrowRight", "Escape", "Escape")
    assert not page.evaluate("() => window.panel.root.activeElement"), "the last Escape gives the keys back"


def test_undo_on_a_layout_without_latin_letters(page, editor):
    (before,) = editor.interactions
    editor.drag((0.1, 0.3), (0.2, 0.4))
    assert editor.interactions != (before,)
    page.evaluate(KEY_DOWN, {"key": "\u044f", "code": "KeyZ", "ctrlKey": True})
    assert editor.interactions == (before,)


def test_thirty_is_the_limit(page, editor):
    page.evaluate("text => window.load(text)", f"[{','.join([FIRST_LAYOUT.strip('[]')] * 29)}]")
    editor.canvas.focus()
    editor.press("d")
    assert len(editor.interactions) == 30
    editor.press("d")
    editor.choose("draw")
    editor.root.get_by_role("alert").get_by_text("There are already 30 interactions").wait_for()
    assert len(editor.interactions) == 30
    editor.press("Delete")
    editor.root.locator(".message").wait_for(state="hidden")


def test_the_clipboard_of_a_field_is_its_own(page, editor):
    page.evaluate("""() => {
        window.seen = [];
        for (const type of ["copy", "cut", "paste", "keydown"]) {
            document.addEventListener(type, event => window.seen.push(event.key ?? type));
        }
    }""")
    editor.field(1, "subject").click()
    editor.press("Control+a", "Control+c", "Delete", "Control+v", "Control+v")
    assert editor.interactions[0].subject == "personperson"
    assert page.evaluate("window.seen") == []


def test_size(page, editor):
    editor.command("size")
    page.get_by_label("Width", exact=True).fill("768")
    page.get_by_role("button", name="Apply").click()
    assert editor.interactions[0].subject_box == PERSON
    editor.shape = (512, 768)
    editor.drag((0.6, 0.7), (0.7, 0.7))
    assert editor.interactions[0].object_box == close((0.3891, 0.4766, 0.768, 0.793))


def test_wheel_zoom(page, editor):
    zoom = editor.root.locator(".status .number")
    shown = zoom.text_content()
    page.mouse.move(*editor.at(256, 256))
    page.mouse.wheel(0, -300)
    page.wait_for_function("() => window.forwarded === 1")
    editor.canvas.focus()
    page.mouse.wheel(0, -300)
    page.wait_for_function("text => window.panel.root.querySelector('.status .number').textContent !== text", arg=shown)


def test_fingers(page, editor):
    """One finger draws; a second one turns that into a zoom, and no box is left."""
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [
            {"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]})
    editor.choose("draw")
    for start, end in (((300, 50), (400, 150)), ((420, 50), (500, 150))):
        touch("touchStart", editor.at(*start))
        touch("touchMove", editor.at(*end))
        touch("touchEnd")
    assert editor.interactions[1].object_box == close((420 / 512, 50 / 512, 500 / 512, 150 / 512))
    before, places = editor.text(), (editor.at(20, 400), editor.at(200, 480))
    editor.choose("draw")
    touch("touchStart", places[0])
    touch("touchStart", *places)
    touch("touchMove", places[0], (places[1][0] + 80, places[1][1]))
    touch("touchEnd")
    assert editor.text() == before and page.evaluate("() => window.panel.editor.pending") is None


def test_names_for_screen_readers(page, editor):
    nameless = page.evaluate("""() => [...document.querySelectorAll("*")].map(host => host.shadowRoot).filter(Boolean)
        .flatMap(root => [...root.querySelectorAll("button, input, [role]")])
        .filter(element => !element.ariaLabel && !element.textContent.trim() && !element.labels?.length
            && element.getAttribute("role") !== "alert")
        .map(element => element.outerHTML)""")
    assert nameless == []
    assert editor.canvas.get_attribute("aria-label") == "Layout, 512 by 512 pixels, 1 interactions"
    assert page.get_by_role("radio", name="Interaction 1", exact=True).is_checked()
    assert page.get_by_role("textbox", name="action of interaction 1").input_value() == "feeding"


@pytest.mark.parametrize("owner", ["mouse", "pen", "finger"])
def test_the_first_pointer_owns_the_box(page, editor, owner):
    """A second finger, keys and the wheel change nothing while a box moves; one undo brings the box back."""
    before, pointers = editor.interactions, Pointers(page)
    path = [editor.at(512 * x, 512 * y) for x, y in ((0.1, 0.3), (0.13, 0.33), (0.16, 0.36), (0.2, 0.4))]
    held = path[1:2] if owner == "finger" else []

    def intrude():
        pointers.touch("Start", *held, editor.at(400, 400))
        pointers.touch("Move", *held, editor.at(430, 300))
        if not held:
            pointers.touch("End")
        editor.press("Delete", "d", "Control+z", "w", "n", "Shift+Delete")
    pointers.drag(owner, path, intrude)
    (moved,) = editor.interactions
    assert moved.subject_box == close((0.1332, 0.266, 0.4359, 0.8305)) and moved.object_box == CAT
    editor.press("Control+z")
    assert editor.interactions == before


@pytest.mark.parametrize("end", [
    "window.dispatchEvent(new Event('blur'))", "window.panel.editor.setTool('move')", "window.panel.editor.undo()",
    "window.panel.toggleFullscreen(), window.panel.toggleFullscreen()"])
def test_a_drag_that_is_cut_off_is_undone(page, editor, end):
    before, pointers = editor.interactions, Pointers(page)
    path = [editor.at(512 * x, 512 * y) for x, y in ((0.1, 0.3), (0.13, 0.33), (0.16, 0.36), (0.2, 0.4))]
    pointers.drag("mouse", path, lambda: page.evaluate(f"() => {{ {end}; }}"))
    page.evaluate("() => { while (window.panel.editor.content.canUndo) window.panel.editor.undo(); }")
    assert editor.interactions == before and not page.evaluate("() => window.panel.editor.activeTool.busy")


def test_two_fingers_keep_the_subjects_box(page, editor):
    pointers, a, b = Pointers(page), editor.at(300, 400), editor.at(450, 400)
    editor.choose("draw")
    editor.draw((0.6, 0.1, 0.9, 0.3))
    pointers.touch("Start", a)
    pointers.touch("Start", a, b)
    pointers.touch("Move", a, (b[0] + 60, b[1]))
    pointers.touch("End")
    assert page.evaluate("() => window.panel.editor.pending !== null") and len(editor.interactions) == 1

"""What a person does with the editor of interactions, for the browser tests."""
from __future__ import annotations

from collections.abc import Callable

from mditface.mdit.interactdiffusion.interactions import Box, Interaction
from mditface.mdit.interactdiffusion.text import parse_interactions
from mditface.tests.e2e.painter_page import VALUE, Surface, place_alone, show

EDITOR = """
import { fromText, toText } from "/interactions/model.js";
import { LayoutPanel } from "/interactions/panel.js";
import { wordsFor } from "/interactions/words.js";
window.forwarded = 0;
const services = { forward: () => { window.forwarded++; }, pansByWheel: () => false };
window.panel = new LayoutPanel(document.querySelector("#host"), wordsFor("en"), services);
window.load = text => window.panel.editor.reset(fromText(text));
window.text = () => toText(window.panel.editor.content.interactions);
"""


class InteractionEditor(Surface):
    kind = "interactions"

    def __init__(self, page, read: Callable[[], str], number: int = 0, shape: tuple[int, int] = (512, 512)):
        super().__init__(page, read, number)
        self.shape = shape

    @property
    def interactions(self) -> tuple[Interaction, ...]:
        """What the nodes read of its text."""
        return parse_interactions(self.text())

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """From one place to another, in fractions of the picture."""
        height, width = self.shape
        self.stroke(*((x * width, y * height) for x, y in (start, end)))

    def draw(self, box: Box) -> None:
        self.drag(box[:2], box[2:])

    def draw_pair(self, subject_box: Box, object_box: Box, *words: str) -> None:
        """A new interaction, its words typed one after the other."""
        self.choose("draw")
        self.draw(subject_box)
        self.draw(object_box)
        for word in words:
            self.page.keyboard.type(word)
            self.page.keyboard.press("Enter")

    def choose(self, tool: str) -> None:
        self.root.locator(f"label:has(input[value='{tool}'][name='tool'])").click()

    def field(self, number: int, phrase: str):
        return self.root.locator(f".row:nth-child({number}) input[data-phrase='{phrase}']")


class NodeEditor(InteractionEditor):
    """The editor of a node of the graph on the screen."""

    def __init__(self, page, node_id: int, number: int = 0):
        self.node_id = node_id
        super().__init__(page, lambda: page.evaluate(VALUE, [node_id, "text"]), number)

    @classmethod
    def placed(cls, page) -> NodeEditor:
        """On a new node in an empty graph."""
        node_id = place_alone(page, "MDiT_DrawInteractions")
        show(page)
        return cls(page, node_id)

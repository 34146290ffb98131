"""What holds for every editor on a node alike."""
import pytest

from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import NodePainter


@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_a_removed_node_leaves_nothing(shared_page, editor):
    shared_page.our_errors.clear()
    made = editor.placed(shared_page)
    shared_page.evaluate("id => app.graph.remove(app.graph.getNodeById(id))", made.node_id)
    shared_page.locator(f".{made.kind}").wait_for(state="detached")
    assert shared_page.our_errors == []

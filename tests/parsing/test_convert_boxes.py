"""The node 'Convert Boxes'."""
import pytest

from mditface.nodes.parsing import ConvertBoxes


def test_the_result_is_right():
    pytest.fail("write a test of " + ConvertBoxes.__name__)

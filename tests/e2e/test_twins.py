"""Every template runs, in API form and without a front end: with the bundled models, or with tiny ones in its place."""
import json

import numpy as np
import pytest

from devtools.thumbnails import find_shown
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.test_templates import TEMPLATES

ELSEWHERE = ("7 Train an adapter",)  # test_training.py trains


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in ELSEWHERE])
def test_a_template_draws(server, tiny_models, name):
    twin = json.loads((TEMPLATES[name].parent / "api" / f"{name}.json").read_text())
    graph = stand_ins.runnable(twin)
    entry = server.run(graph)
    assert all(np.ptp(np.asarray(server.picture(image))) > 0
               for key in find_shown(graph) for image in entry["outputs"][key]["images"])

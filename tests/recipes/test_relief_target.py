"""Training of the network that finds relief, on a tiny scale."""
import numpy as np
import pytest
import torch

from mditface.mdit.evaluation.metrics.relief import measure_angles, measure_depth, measure_relief
from mditface.mdit.recipes.targets.kinds import ReliefSettings, ReliefTarget
from mditface.mdit.recipes.targets.relief import find_slopes
from mditface.mdit.relief.host import load_relief
from mditface.mdit.render.dataset import write_shard
from mditface.tests.training.tiny_targets import COMMON, fitted, run_paths

pytestmark = pytest.mark.usefixtures("in_training")
RELIEF = COMMON | {"target": "relief", "size": 64, "widths": (8, 16), "detail": 4, "optimiser": {"adamw": 0.01},
                   "ema": 0.0, "precision": "no"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relief")
    write_shard((folder / "00000.npz", range(8)), seed=6, size=64, relief=True)
    return folder


@pytest.fixture
def paths(folder, tmp_path):
    return run_paths(tmp_path, folder)


def test_relief_is_learned_and_its_file_loads(paths):
    target = ReliefTarget(ReliefSettings(**RELIEF | {"steps": 40}, **paths))
    before = target.measure()
    fitted(target)
    after = target.measure()
    assert after["depth_error"] < 0.8 * before["depth_error"]
    assert after["normal_angle_figure"] < 0.8 * before["normal_angle_figure"]
    relief = load_relief(paths["weights"])
    depth, *_ = relief.build_maps(target.heldout.labels[:1])
    assert depth.shape == (1, 64, 64, 3) and relief.size == 64


def test_the_sheet_shows_found_and_true_relief(paths):
    sheet = ReliefTarget(ReliefSettings(**RELIEF, **paths)).draw_sheet()
    assert sheet.shape == (7 * 64, 8 * 64, 3) and sheet.dtype == np.uint8


def test_a_batch_is_a_function_of_its_step(paths):
    first, second = (ReliefTarget(ReliefSettings(**RELIEF, **paths)) for _ in range(2))
    same, other = first.make_batch(3, 0, 1), first.make_batch(4, 0, 1)
    assert all(torch.equal(value, second.make_batch(3, 0, 1)[name]) for name, value in same.items())
    assert not torch.equal(same["labels"], other["labels"])


def test_background_does_not_count(paths):
    """Other depth and normals there leave the loss as it is."""
    target = ReliefTarget(ReliefSettings(**RELIEF, **paths))
    batch = target.make_batch(0, 0, 1)
    background = batch["labels"] == 0
    changed = batch | {"depth": batch["depth"].masked_fill(background, 9.0),
                       "normals": batch["normals"].masked_fill(background[:, None], 9.0)}
    with torch.no_grad():
        losses = [target.module(**values, rng=None)["loss"].item() for values in (batch, changed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] > 0


def test_the_distance_of_the_figure_does_not_count(paths):
    target = ReliefTarget(ReliefSettings(**RELIEF, **paths))
    batch = target.make_batch(0, 0, 1)
    with torch.no_grad():
        losses = [target.module(**batch | {"depth": batch["depth"] + shift}, rng=None)["loss"].item()
                  for shift in (0.0, 3.0)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_slopes_are_differences_over_a_distance():
    ramp = torch.arange(8.0).expand(1, 8, 8)
    slopes, pairs = find_slopes(ramp, torch.ones(1, 8, 8), 4)
    assert slopes.shape == pairs.shape == (64,)
    assert slopes[:32].eq(0).all() and slopes[32:].eq(4).all()


def test_renders_of_another_size_are_refused(paths):
    with pytest.raises(ValueError, match="data: the renders have 64 pixels, the network 128: render them with --size"):
        ReliefTarget(ReliefSettings(**RELIEF | {"size": 128}, **paths))
    with pytest.raises(ValueError, match="8 must divide the size"):
        ReliefSettings(**RELIEF | {"size": 60}, **paths)


def test_scale_and_shift_of_depth_do_not_count():
    true = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    assert measure_depth(3 * true - 7, true) == pytest.approx(0, abs=1e-5)
    assert measure_depth(torch.full_like(true, 2.0), true) == pytest.approx(0.25 / 0.96, abs=0.01)


def test_angles_are_degrees():
    x, y = torch.tensor([[1.0], [0], [0]]), torch.tensor([[0.0], [1], [0]])
    half = torch.nn.functional.normalize(x + y, dim=0)
    assert [measure_angles(x, other).item() for other in (x, half, y)] == pytest.approx([0, 45, 90], abs=0.1)


def test_only_the_figure_is_measured():
    labels = torch.ones(8, 8, dtype=torch.uint8)
    labels[:, 4:] = 0
    depth, normals = torch.arange(64.0).view(8, 8), torch.zeros(3, 8, 8)
    normals[2] = 1
    wrong = torch.where(labels > 0, normals, -normals)
    found = measure_relief(depth, wrong, torch.where(labels > 0, depth, 99.0), normals, labels)
    assert found == pytest.approx({"depth_error": 0, "normal_angle_face": 0, "normal_angle_figure": 0}, abs=1e-3)

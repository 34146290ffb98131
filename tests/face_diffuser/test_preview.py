"""The image of a run's fused steps."""
import pytest
import torch

from mditface.mdit.face_diffuser.record import FusedStep, FusionRecord
from mditface.mdit.face_diffuser.saliency import Prior
from mditface.mdit.face_diffuser.stages import Borders
from mditface.mdit.face_diffuser.strip import COLUMNS, GAP, TILE, draw_strip
from mditface.nodes.face_diffuser import PreviewSaliency
from mditface.tests.face_diffuser.tiny import TEXTS, fusion, model, plain, run

CELLS = 4, 8


def fused_step(seed: int) -> FusedStep:
    scene, subject = torch.rand(2, 2, 1, *CELLS, generator=torch.Generator().manual_seed(seed))
    return FusedStep(scene.log(), subject.log(), subject > scene)


def maps(image: torch.Tensor, column: int, columns: int) -> torch.Tensor:
    """(3, h, w) of a column of one band (H, W), counted from the right edge: the legend is on the left."""
    side = TILE // CELLS[0]
    left = image.shape[1] - (columns - column) * (CELLS[1] * side + GAP) + side // 2
    return torch.stack([image[row * (TILE + GAP) + side // 2:, left:][:TILE:side, :CELLS[1] * side:side]
                        for row in range(3)])


def test_a_column_for_each_fused_step():
    record = FusionRecord(5, fused_steps={3: fused_step(3), 1: fused_step(1)})
    images = draw_strip(record)
    assert images.shape[0] == 2 and images.shape[-1] == 3
    for sample, image in enumerate(images[..., 0]):
        for column, step in enumerate((1, 3)):
            scene, subject, won = (part[sample, 0] for part in record.fused_steps[step])
            saliency = torch.stack([scene, subject]).exp()
            found = maps(image, column, 2)
            assert torch.equal(found[2], won.float())
            torch.testing.assert_close(found[:2], saliency / saliency.max(), rtol=0, atol=0.5 / 255 + 1e-6)


def test_many_steps_continue_in_another_band():
    one = draw_strip(FusionRecord(COLUMNS, fused_steps=dict.fromkeys(range(COLUMNS), fused_step(0))))
    two = draw_strip(FusionRecord(COLUMNS + 1, fused_steps=dict.fromkeys(range(COLUMNS + 1), fused_step(0))))
    height = one.shape[1]
    assert two.shape[1:] == (2 * height, *one.shape[2:]) and torch.equal(two[0, :height], one[0])
    last = maps(two[0, height:, :, 0], 0, COLUMNS)
    assert torch.equal(last, maps(one[0, ..., 0], 0, COLUMNS))


def test_nothing_to_preview():
    for guider in (fusion(model(), model(seed=1)), fusion(model(), model(seed=1), borders=Borders(1, 1))):
        if guider.borders.scene_end == 1:
            run(guider)
        with pytest.raises(ValueError, match="guider: no step was fused.*'fusion_end' above 'scene_end'"):
            PreviewSaliency.execute(guider, {})
    with pytest.raises(ValueError, match=r"guider: it comes from another node: .* 'Two-Model Guider \(Saliency\)'"):
        PreviewSaliency.execute(plain(model(), *TEXTS[:2], 1.0), {})


def test_a_preview(monkeypatch):
    monkeypatch.setattr("comfy_api.latest.ui.PreviewImage", lambda *args, **kwargs: type("", (), {"as_dict": dict}))
    guider = fusion(model(), model(seed=1), borders=Borders(0.1, 0.85), prior=Prior(bias=1.0))
    run(guider, steps=14, shape=(2, 8, 12))
    strip, masks, report = PreviewSaliency.execute(guider, {}).result
    won = guider.record.fused_steps[1 + 1].subject_mask
    assert strip.shape[0] == 2 and strip.shape[-1] == 3 and 0 <= strip.min() and strip.max() <= 1
    assert masks.shape == (len(guider.record.fused_steps), 8, 12) and torch.equal(masks[0], won[0, 0].float())
    assert report.splitlines()[0] == "steps: scene 2, fusion 11, subject 1" and len(report.splitlines()) == 12
    assert report.splitlines()[1] == f"step 3: the subject won {won.float().mean().item():.1%}"

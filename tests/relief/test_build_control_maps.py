"""The node 'Build Control Maps' with the bundled network."""
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.model_management

from mditface.mdit.labelmap import find_class, resize_nearest, swap_sides, to_image, to_indices
from mditface.mdit.relief.host import WEIGHTS, load_relief
from mditface.mdit.relief.network import ReliefConfig
from mditface.nodes.labelmap import ExampleLabelMap
from mditface.nodes.relief import BuildControlMaps


def run(label_map, **inputs):
    return BuildControlMaps.execute(label_map, **inputs).args


@pytest.fixture(scope="module")
def woman():
    label_map, = ExampleLabelMap.execute("woman").args
    return label_map


@pytest.fixture(scope="module")
def maps(woman):
    return run(woman)


def of_class(values, woman, name):
    return values[to_indices(woman) == find_class(name)]


def test_the_nose_is_nearest_and_clothes_lie_behind(maps, woman):
    depth = maps[0][..., 0]
    nose, skin, cloth = (of_class(depth, woman, name).mean() for name in ("nose", "skin", "cloth"))
    assert nose > skin > cloth > 0
    assert of_class(depth, woman, "background").max() == 0
    assert depth.max() == 1 and depth[depth > 0].min() >= 0.1 / 1.1 - 1e-6


def test_normals_point_right_up_and_to_the_viewer(maps, woman):
    normals = maps[1]
    cheeks = normals[0, 280:330]
    skin = (to_indices(woman) == find_class("skin"))[0, 280:330]
    left, right = cheeks[:, :226][skin[:, :226]].mean(0), cheeks[:, 286:][skin[:, 286:]].mean(0)
    assert left[0] < 0.45 and right[0] > 0.55 and left[2] > 0.6
    forehead = normals[0, 120:150, 236:276].mean((0, 1))
    chin = of_class(normals, woman, "neck").mean(0)
    assert forehead[1] > chin[1]
    length = (normals * 2 - 1).norm(dim=-1)
    assert torch.allclose(length, torch.ones_like(length), atol=1e-3)
    assert torch.allclose(of_class(normals, woman, "background"), torch.tensor([0.5, 0.5, 1.0]))


def test_the_head_has_neither_neck_nor_clothes(maps, woman):
    head = maps[3]
    assert of_class(head, woman, "hair").all() and of_class(head, woman, "nose").all()
    assert not of_class(head, woman, "neck").any() and not of_class(head, woman, "background").any()


def test_edges_follow_the_label_map(woman):
    large = resize_nearest(to_indices(woman), 777, 777)
    depth, normals, _, _ = run(to_image(large))
    assert torch.equal(depth[..., 0] > 0, large > 0)
    assert torch.equal((normals != torch.tensor([0.5, 0.5, 1.0])).any(-1), large > 0)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(16, 300), width=st.integers(16, 300), batch=st.integers(1, 2),
       style=st.sampled_from(["soft", "thin", "thick"]))
def test_any_size_and_batch(woman, height, width, batch, style):
    label_map = to_image(resize_nearest(to_indices(woman), height, width)).repeat(batch, 1, 1, 1)
    *images, head = run(label_map, style=style)
    assert all(image.shape == label_map.shape for image in images) and head.shape == label_map.shape[:3]
    for values in (*images, head):
        assert values.isfinite().all() and 0 <= values.min() and values.max() <= 1


@pytest.mark.parametrize("height, width", [(16, 16), (16, 4096), (4096, 16)])
@pytest.mark.parametrize("style", ["soft", "thick"])
def test_extreme_sizes(woman, height, width, style):
    labels = resize_nearest(to_indices(woman), height, width)
    depth, normals, lines, head = run(to_image(labels), style=style)
    assert torch.equal(depth[..., 0] > 0, labels > 0) and normals.isfinite().all()
    assert lines.shape == depth.shape and head.shape == labels.shape


def test_cancel_stops_within_a_large_map(woman):
    large = to_image(resize_nearest(to_indices(woman), 2048, 2048))
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(large)
    assert not comfy.model_management.processing_interrupted()


def test_the_gap_moves_the_figure_before_the_background(woman):
    depth, *_ = run(woman, gap=1.0)
    assert depth[depth > 0].min() >= 0.5 and depth.max() == 1
    assert run(woman, gap=0.0)[0][to_indices(woman) > 0].min() == 0


def test_each_face_has_its_own_relief(woman):
    small = resize_nearest(to_indices(woman), 200, 200)
    alone = torch.nn.functional.pad(small, (20, 260, 20, 20))
    pair = torch.nn.functional.pad(small, (260, 20, 20, 20)) + alone
    depth, *_ = run(to_image(pair))
    assert torch.allclose(depth[:, :, :240], depth[:, :, 240:], atol=1e-3)
    assert torch.allclose(depth[:, :, :240], run(to_image(alone))[0][:, :, :240], atol=1e-3)


def test_each_map_of_a_batch_is_built_alone(woman, maps):
    other = woman.flip(2)
    both = run(torch.cat([woman, other]))
    assert torch.allclose(both[0][:1], maps[0], atol=1e-5)
    assert torch.allclose(both[0][1:], run(other)[0], atol=1e-5)


def test_a_mirrored_map_has_the_mirrored_relief(woman, maps):
    mirrored = run(to_image(swap_sides(to_indices(woman).flip(-1))))
    assert (mirrored[0] - maps[0].flip(2)).abs().mean() < 0.01  # the pixel under a centre is that to its right
    x, y = mirrored[1][..., 0], maps[1][..., 0].flip(2)
    assert (x + y - 1)[y != 0.5].abs().mean() < 0.02


def test_a_map_without_a_face_gives_a_note(caplog):
    hat = torch.zeros(1, 64, 64, dtype=torch.uint8)
    hat[:, 20:50, 10:50] = find_class("hat")
    with caplog.at_level(logging.INFO):
        depth, *_ = run(to_image(hat))
    assert (depth[..., 0] > 0).sum() > 1000
    assert "The label map 1 shows no face" in caplog.text


def test_background_alone_is_refused(woman):
    with pytest.raises(ValueError, match="label_map: the label map is background alone.* Paint a face"):
        run(torch.zeros(1, 32, 32, 3))
    with pytest.raises(ValueError, match="the label map 2 is background alone"):
        run(torch.cat([woman, torch.zeros_like(woman)]))


def test_a_photograph_is_refused():
    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=torch.manual_seed(0)), (96, 96))
    for palette in ("colours", "auto"):
        with pytest.raises(ValueError, match="label_map: .*'Parse Face' before this node"):
            run(noise.movedim(1, -1), palette=palette)


def test_the_bundled_file_is_small():
    assert WEIGHTS.stat().st_size < 4e6
    assert load_relief(WEIGHTS).size == ReliefConfig().size


def test_a_file_of_another_layout_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="relief weights: "):
        load_relief(tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(ValueError, match="relief weights: .*cut.safetensors"):
        load_relief(tmp_path / "cut.safetensors")

"""OminiControl's condition LoRAs: one picture in the joint stream (docs/design/adapters.md, sections 5.6 and 5.7)."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.mditface.pictures import PictureInput
from mditface.mdit.mditface.placements import ON_IMAGE, PLACEMENTS, fit_picture
from mditface.tests.adapter import bases
from mditface.tests.adapter.bases import CONDITION, VAE, Case, mask, noisy, prediction, run
from mditface.tests.adapter.reference import predict
from mditface.tests.adapter.test_pictures import ROUNDING, picture
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

RIGHT, LEFT = (name for name in PLACEMENTS if name.startswith("OminiControl"))


@pytest.fixture(scope="module")
def spatial(cases, tmp_path_factory) -> Case:
    return bases.ominicontrol_case(cases["flux"].base, tmp_path_factory.mktemp("ominicontrol"))


@pytest.fixture(scope="module")
def subject(spatial) -> Case:
    """The same with a small square for subjects."""
    return spatial._replace(condition=CONDITION)


def join(reads, count, *streams):
    """One attention of text, image and condition, each to all; `reads` is log s, between the condition and the rest."""
    lengths = [q.shape[2] for q, _, _ in streams]
    q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams))
    first = sum(lengths[:-count])
    bias = q.new_zeros(sum(lengths), sum(lengths))
    bias[:first, first:] = reads
    bias[first:, :first] = reads
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
    return out.split(lengths, dim=1)


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (7, 9)])
def test_a_picture_on_the_image_is_a_third_sequence(spatial, texts, size):
    read, x = picture(), noisy(1, *size)
    torch.testing.assert_close(prediction(spatial.model, masked(texts[0], read), x=x),
                               predict(x, texts[0], (spatial, read), attend=join), **ROUNDING)


@pytest.mark.parametrize("placement", [RIGHT, LEFT])
def test_a_subject_stands_beside_the_image(subject, texts, placement):
    read, x = picture(placement), noisy(1, 8, 12)
    out = prediction(subject.model, masked(texts[0], read), x=x)
    torch.testing.assert_close(out, predict(x, texts[0], (subject, read), attend=join), **ROUNDING)
    on_image = PictureInput(read.pictures / 255, vae=VAE)
    assert not torch.allclose(out, prediction(subject.model, masked(texts[0], on_image), x=x), atol=1e-2)


def test_a_condition_size_is_spread_over_the_image(subject, texts):
    """Center over center, as OminiControl's position_scale."""
    model = subject.model
    read, x = picture(), noisy()
    step = 4 / 3
    mixed = prediction(model, masked(texts[0], read), x=x)
    assert (mixed - prediction(subject.base, texts[0], x=x)).std() > 0.05 * mixed.std()
    (wrapped,) = next(iter(model.wrappers.values())).values()
    reader = wrapped[0].__self__
    reference = masked(texts[0], read)[0][1]["mdit_mask"]
    bound = reader.bind_mask(reference, x.shape, subject.base.model, reader.get_layout(subject.base.model), None)
    expected = torch.arange(3) * step + (step - 1) / 2
    torch.testing.assert_close(bound.get_tokens(None)[0].rows, expected)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_weight_and_strength(spatial, texts, weight):
    read, x = picture(), noisy()
    out = prediction(spatial.apply(spatial.base, weight), masked(texts[0], read, 0.6), x=x)
    expected = predict(x, texts[0], (spatial, read), attend=join, weight=weight, reads=math.log(0.6))
    torch.testing.assert_close(out, expected, **ROUNDING)


def test_without_a_mask_the_model_is_the_bare_one(spatial, texts):
    bare, _ = run(spatial.base, *texts)
    assert torch.equal(run(spatial.model, *texts)[0], bare)


def test_cached_and_uncached_agree_and_another_picture_is_never_stale(spatial, texts):
    outs = []
    one = picture()
    for read in (one, picture(seed=1)):
        expected, _ = run(spatial.model, masked(texts[0], read), texts[1], OFF)
        read.store = one.store  # as if both were kept in one place
        for passes in (1, 0):
            out, report = run(spatial.model, masked(texts[0], read), texts[1])
            assert report.passes == passes
            torch.testing.assert_close(out, expected, **TOLERANCE)
        outs.append(expected)
    assert not torch.allclose(*outs, atol=1e-3)
    assert "OminiControl" in str(report) and "picture read and computed in every step" in str(report)


def test_each_latent_of_a_batch_has_its_picture(spatial, texts):
    read, x = picture(batch=2), noisy(2)
    out = prediction(spatial.model, masked(texts[0], read), texts[1], x, cfg=2.0)
    for i in range(2):
        alone = PictureInput(read.pictures[i:i + 1] / 255, vae=VAE)
        single = prediction(spatial.model, masked(texts[0], alone), texts[1], x[i:i + 1], cfg=2.0)
        torch.testing.assert_close(out[i:i + 1], single, rtol=0, atol=3e-5)


def test_beside_easycontrol_each_reads_its_own_picture(spatial, cases, texts):
    both = cases["easycontrol"].apply(spatial.model)
    read, x = picture(), noisy()
    models = both, spatial.model, cases["easycontrol"].model
    outs = [prediction(model, masked(texts[0], read), x=x) for model in models]
    assert not any(torch.allclose(outs[0], out, atol=1e-2) for out in outs[1:])


def test_a_label_map_means_that_the_gate_is_missing(spatial, texts):
    with pytest.raises(ValueError, match="mask: .* is a label map. Face-MoGLE's LoRA needs its gate"):
        run(spatial.model, masked(texts[0], mask()), texts[1])


@pytest.mark.parametrize("width, height", [(80, 40), (40, 80), (41, 80)])
def test_a_subject_is_cut_to_its_middle_square(width, height):
    pixels = np.zeros((height, width, 3), np.uint8)
    top = (height - min(width, height)) // 2
    left = (width - min(width, height)) // 2
    pixels[top:top + min(width, height), left:left + min(width, height)] = 255
    for placement in (RIGHT, LEFT):
        assert (fit_picture(pixels, placement, 48, 48) == 1).all()


# Files


def lacks_a_layer(weights):
    return {key: weight for key, weight in weights.items() if "blocks.1.attn.to_k" not in key}


def lacks_half_of_the_embedder(weights):
    del weights["transformer.x_embedder.lora_A.weight"]
    return weights


def has_another_layer(weights):
    return weights | {"transformer.context_embedder.lora_A.weight": torch.zeros(2, 24)}


def has_another_rank(weights):
    return weights | {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(3, 256)}


@pytest.mark.parametrize("change, found", [(lacks_a_layer, "lacks terms for .*blocks.1.attn.to_k"),
                                           (lacks_half_of_the_embedder, "lacks terms for .*x_embedder.lora_A"),
                                           (has_another_layer, "others for .*context_embedder"),
                                           (has_another_rank, "attn.to_q.lora_A.weight")])
def test_damaged_files_and_other_loras(tmp_path, change, found):
    path = str(tmp_path / "changed.safetensors")
    save_file(change(bases.ominicontrol()), path)
    with pytest.raises(ValueError, match=f"adapter_name: .*changed.safetensors.*{found}"):
        load_adapter(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rank", [4, 16])
def test_ranks_and_types(tmp_path, rank, dtype):
    weights = {key: weight.to(dtype) for key, weight in bases.ominicontrol(rank=rank).items()}
    save_file(weights, tmp_path / "published.safetensors", {"format": "pt"})
    adapter = load_adapter(str(tmp_path / "published.safetensors"))
    config = adapter.config
    assert (config.rank, config.alpha, config.depth, config.joint) == (rank, rank, (2, 3), True)
    assert {weight.dtype for weight in adapter.terms.parameters()} == {dtype}


def test_a_mixer_of_class_pictures_refuses_pictures(spatial, texts):
    several = SimpleNamespace(id="gate", pictures=20, list_additional_models=lambda patcher: [])
    model = apply_adapter(spatial.base, spatial.adapter.with_mixer(several))
    for placement in (ON_IMAGE, RIGHT):
        with pytest.raises(ValueError, match=r"'Picture to Mask \(MDiT\)' is a picture without classes"):
            run(model, masked(texts[0], picture(placement)), texts[1])

"""Errors: each names the input and what to do, before any work starts."""
import pytest
import torch

import comfy.model_sampling
import comfy.nested_tensor
from comfy.patcher_extension import PatcherInjection
from mditface.mdit.face_diffuser.guider import FusionGuider
from mditface.mdit.face_diffuser.stages import Borders, compute_leading_sigmas
from mditface.nodes.face_diffuser import SaliencyFusionGuider, read_region
from mditface.tests.face_diffuser.test_host import with_lora
from mditface.tests.face_diffuser.tiny import FAMILIES, TEXTS, fusion, model, plain, run


@pytest.mark.parametrize("pair", [("sd15", "sdxl"), ("sd15", "sd3"), ("sd3", "flux"), ("sdxl", "flux")])
def test_models_of_other_latents(pair):
    with pytest.raises(ValueError, match=r"subject: a \w+ uses other latents .*scale.*two models of one family"):
        FusionGuider(*map(model, pair))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_one_family_fit(family):
    FusionGuider(model(family), model(family, 1))


def test_noise_and_velocity_fit():
    """The same network, told that it predicts noise and that it predicts velocity: one stage is the plain model."""
    sides = model("sd15"), model("sd15-v", 1)
    for borders, side, texts in ((Borders(1, 1), sides[0], TEXTS[:2]), (Borders(0, 0), sides[1], TEXTS[2:])):
        assert torch.equal(run(fusion(*sides, scales=(3.0, 3.0), borders=borders)), run(plain(side, *texts, 3.0)))


def test_noise_and_flow_do_not():
    flowing = model(seed=1).clone()
    flow = type("Flow", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})
    flowing.add_object_patch("model_sampling", flow())
    with pytest.raises(ValueError, match="subject: .* measures noise in another way"):
        FusionGuider(model(), flowing)


def test_one_model_under_two_loras():
    for scene, subject in ((model(), with_lora(model())), (with_lora(model()), model()),
                           (with_lora(model(), 1), with_lora(model(), 2))):
        with pytest.raises(ValueError, match="subject: it shares its weights with 'scene'.*a file of its own.*a hook"):
            FusionGuider(scene, subject)


@pytest.mark.parametrize("patch", [
    lambda patcher: patcher.add_object_patch("model_sampling", patcher.get_model_object("model_sampling")),
    lambda patcher: patcher.add_weight_wrapper("diffusion_model.out.2.weight", lambda weight: weight),
    lambda patcher: patcher.set_injections("test", [PatcherInjection(lambda patcher: None, lambda patcher: None)]),
])
def test_one_model_under_other_patches(patch):
    patched = model().clone()
    patch(patched)
    for pair in ((model(), patched), (patched, model())):
        with pytest.raises(ValueError, match="subject: it shares its weights with 'scene' but has other"):
            FusionGuider(*pair)
    FusionGuider(patched, patched.clone())


def test_one_model_under_one_lora():
    patched = with_lora(model())
    found = run(fusion(patched, patched.clone(), texts=[*TEXTS[:2], *TEXTS[:2]], scales=(3.0, 3.0)))
    assert torch.equal(found, run(plain(patched, *TEXTS[:2], 3.0)))


def test_a_base_model_must_be_the_subject():
    with pytest.raises(ValueError, match="subject_base_model: it is another model than 'subject'"):
        FusionGuider(model(), model(seed=1), model(seed=2))
    with pytest.raises(ValueError, match="subject_base_model: it shares its weights with 'subject'"):
        FusionGuider(model(), with_lora(model(seed=1)), model(seed=1))


def test_a_reference_that_never_takes_effect():
    copies = [[text.clone(), {**extra, "pooled_output": extra["pooled_output"].clone()}] for text, extra in TEXTS[2]]
    for base in (TEXTS[2], copies):
        with pytest.raises(ValueError, match="subject_positive: it is the same as subject_base.*never takes effect"):
            SaliencyFusionGuider.execute(model(), model(seed=1), *TEXTS[:2], TEXTS[2], base)
    bare = model(seed=1)
    patched = bare.clone()
    SaliencyFusionGuider.execute(model(), patched, *TEXTS[:2], TEXTS[2], copies, subject_base_model=bare)
    with pytest.raises(ValueError, match="subject_positive: it is the same as subject_base.*never takes effect"):
        SaliencyFusionGuider.execute(model(), bare, *TEXTS[:2], TEXTS[2], copies, subject_base_model=bare)


def test_borders_in_the_wrong_order():
    with pytest.raises(ValueError, match="fusion_end: 0.2 is before scene_end 0.5: raise it"):
        Borders(0.5, 0.2)


def test_latents_that_are_not_images():
    guider, video = fusion(model(), model(seed=1)), torch.zeros(1, 4, 3, 8, 8)
    for latent in (video, comfy.nested_tensor.NestedTensor((torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 9)))):
        with pytest.raises(ValueError, match="latent_image: .*only latents of images"):
            guider.sample(latent, latent, None, torch.tensor([1.0, 0.0]))


def test_smoothing_wider_than_the_latent():
    with pytest.raises(ValueError, match="smoothing: 9 cells do not fit into a latent of .8, 16.: lower it"):
        run(fusion(model(), model(seed=1), kernel=9), shape=(1, 8, 16))


def test_regions():
    mask = torch.rand(2, 5, 6)
    for shape in ((2, 5, 6), (2, 1, 5, 6)):
        assert torch.equal(read_region(mask.reshape(shape)), mask)
    assert torch.equal(read_region(mask[0]), mask[:1]) and read_region(None) is None
    label_map = torch.zeros(1, 5, 6, 3)
    label_map[:, 2, :, 0] = 0.8  # skin
    assert read_region(label_map).sum() == 6 and read_region(label_map).shape == (1, 5, 6)
    for broken in (mask[:0], mask.log() * torch.inf):
        with pytest.raises(ValueError, match=r"region: a mask of shape .\d, 5, 6. cannot be read"):
            read_region(broken)
    for empty in (torch.zeros(1, 64, 64), torch.zeros(1, 8, 8)):
        with pytest.raises(ValueError, match="region: the mask is empty, so the subject model could win nowhere"):
            read_region(empty)
    with pytest.raises(ValueError, match="region: .*far from every entry of the palette"):
        read_region(torch.full((1, 5, 6, 3), 0.3))


def test_more_steps_than_the_schedule_has():
    sampling = model().get_model_object("model_sampling")
    with pytest.raises(ValueError, match="steps: 1000, but the model's schedule has 1000"):
        compute_leading_sigmas(sampling, 1000)

"""Face-diffuser compared with the reference's outputs, which tests/golden/face-diffuser/README.md describes.

Every set of the same layout passes: cases, runs and sizes are read from its files.
"""
import math

import pytest
import torch
from safetensors.torch import save_file

import comfy.samplers
import comfy.sd1_clip
from mditface.mdit.face_diffuser.guider import FusionGuider, Prediction
from mditface.mdit.face_diffuser.marker import MARKER, tokenize
from mditface.mdit.face_diffuser.saliency import compute_response, compute_log_saliency, smooth_response
from mditface.mdit.face_diffuser.stages import Borders, compute_leading_sigmas, find_step
from mditface.mdit.face_diffuser.subject import normalize, prepare_image
from mditface.mdit.face_diffuser.weights import (
    SUBJECT_PARTS, FileContent, build_subject, load_face_diffuser, split_parts)
from mditface.tests import golden_set
from mditface.tests.face_diffuser import tiny, toy
from mditface.tests.golden_set import lack

VALUES = dict(rtol=1e-5, atol=1e-5)
FINAL = dict(rtol=1e-5, atol=5e-5)  # of a run
ENCODED = dict(rtol=1e-4, atol=2e-5)
EXACT = dict(rtol=0, atol=0)
SIDES = "TS"


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "face-diffuser"


def read(folder, name) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a file by case."""
    tensors = golden_set.read(folder, f"{name}.safetensors")
    return {case: tensors.under(f"{case}.") for case in dict.fromkeys(key.partition(".")[0] for key in tensors)}


def said(*what):
    """Puts the name of the comparison before the message."""
    return lambda message: f"{' '.join(map(str, what))}: {message}"


INPUTS = ("eps_T_null", "eps_T_text", "eps_S_text", "eps_S_aug")


@pytest.fixture(scope="module")
def snf(folder):
    """The cases of one fused step, each with all inputs and the fused noise."""
    cases = read(folder, "snf")
    whole = {name: case for name, case in cases.items() if case.keys() >= {*INPUTS}}
    for name, case in cases.items():
        if name not in whole:
            whole[name] = case | find_inputs(case, list(whole.values()))
    whole = {name: case for name, case in whole.items() if case.keys() >= {*INPUTS, "mask", "guidance"}}
    for case in whole.values():
        case.setdefault("fused", fuse(case, case["mask"].bool()))
    return whole or lack(folder, "fused step")


def fuse(case, mask):
    """The guided noise of the subject where the mask is true, of the scene elsewhere."""
    scene, subject = (base + case["guidance"] * (cond - base) for base, cond in (
        (case["eps_T_null"], case["eps_T_text"]), (case["eps_S_text"], case["eps_S_aug"])))
    return torch.where(mask, subject, scene)


def find_inputs(case, others) -> dict:
    """The inputs of a case that stores its results alone: another case's, where one model answers to nothing.

    The set does not say whose; the case's own mask and fused noise do. Empty if no inputs give them.
    """
    for other in others:
        for cond, base in ((None, None), INPUTS[1::-1], INPUTS[:1:-1]):
            found = {name: other[name] for name in (*INPUTS, "guidance")} | case
            if cond and cond not in case:
                found[cond] = found[base]
            if found["eps_T_null"].shape == case["fused"].shape and torch.allclose(
                    fuse(found, case["mask"].bool()), case["fused"], **VALUES):
                return found
    return {}


def sides(case, sigma=1.0, x=0.0) -> dict[str, Prediction]:
    """Both models' predictions of the clean latent, from the noise that the case holds."""
    found = {}
    for side, base, cond in (("T", "null", "text"), ("S", "text", "aug")):
        base, cond = (x - sigma * case[f"eps_{side}_{name}"] for name in (base, cond))
        found[side] = Prediction(base + case["guidance"] * (cond - base), cond, base, cond - base)
    return found


def test_maps(snf):
    for name, case in snf.items():
        predictions = sides(case)
        for side in SIDES:
            change = predictions[side].change
            change = compute_response(change, case["guidance"].item(), torch.ones(len(change)))
            smoothed = smooth_response(change)
            found = {"abs_smoothed": smoothed, "omega": smoothed.mean(1, keepdim=True),
                     "softmax": compute_log_saliency(change).exp()}
            for part, tensor in found.items():
                if f"{part}_{side}" in case:
                    torch.testing.assert_close(tensor, case[f"{part}_{side}"], rtol=1e-5, atol=1e-5 * (
                        part != "softmax"), msg=said(name, part, side))


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_masks_and_fused_noise(snf, sigma):
    """In the host's space, as in the guider."""
    for name, case in snf.items():
        guider = FusionGuider(tiny.model(), tiny.model(seed=1))
        guider.set_scales(*[case["guidance"].item()] * 2)
        guider.log_prior = 0.0
        guider.shape = case["fused"].shape
        guider.step = 0
        x = torch.randn(case["fused"].shape, generator=torch.Generator().manual_seed(0)) if sigma != 1 else 0.0
        predictions = sides(case, sigma, x)
        if sigma != 1 and not case["mask"].any():
            continue  # rounding would break the tie
        fused = guider.fuse(predictions["T"], predictions["S"], torch.full((len(case["fused"]),), sigma))
        mask = guider.record.fused_steps[0].subject_mask
        torch.testing.assert_close(mask.float(), case["mask"], **EXACT, msg=said(name, "mask"))
        torch.testing.assert_close((x - fused.guided) / sigma, case["fused"], **VALUES, msg=said(name, "fused"))


def borders(first: int, last: int, steps: int) -> Borders:
    """Borders from the reference's inclusive numbers; -1 leaves a stage out, 0 is the first step alone."""
    return Borders(*(max(end, 0.4) / steps if end >= 0 else 0.0 for end in (first, last)))


def test_stages(folder):
    for name, case in read(folder, "stages").items():
        scheduler, *numbers = name.rsplit("_", 3)
        steps, first, last = map(int, numbers)
        n = len(case["stage"])
        found = [borders(first, last, n).find_stage(i, n).value for i in range(n)]
        assert found == case["stage"].int().tolist(), name
        sigmas = torch.cat([case["sigma"], torch.zeros(1)])
        if scheduler != "pndm":  # PNDM visits one twice
            assert [find_step(sigma, sigmas) for sigma in case["sigma"]] == list(range(n)), name


def test_schedule_visits_the_references_time_steps(folder):
    sampling = tiny.model().get_model_object("model_sampling")
    for name, case in read(folder, "stages").items():
        if name.startswith("ddim"):
            sigmas = compute_leading_sigmas(sampling, len(case["sigma"]))
            torch.testing.assert_close(sigmas[:-1], case["sigma"], rtol=1e-5, atol=0, msg=said(name))
            assert sigmas[-1] == 0


class Tokenizer:
    """The part of a CLIP that tokenizes."""
    def __init__(self):
        self.tokenize = comfy.sd1_clip.SD1Tokenizer().tokenize_with_weights


def test_tokens(folder):
    clip = Tokenizer()
    cases, captions = read(folder, "tokens"), golden_set.read_metadata(folder / "tokens.safetensors")
    read_ones = 0
    for name, case in cases.items():
        text, flags = captions[name], case["mask"][0].nonzero().flatten().tolist()
        markers = text.count(MARKER)
        if not flags or markers != len(flags) or 0 in flags:
            if len(clip.tokenize(text.replace(MARKER, ""))["l"]) == 1:
                with pytest.raises(ValueError, match="text: "):
                    tokenize(clip, text)
                continue
        tokens, positions = tokenize(clip, text)
        ids = [token for row in tokens["l"] for token, _ in row]
        expected = case["ids"][0].int().tolist()
        if len(ids) == 77:
            assert (ids, positions) == (expected, flags), name
            if "text_only_ids" in case:
                assert ids == case["text_only_ids"][0].int().tolist(), name
            read_ones += 1
        else:  # the reference cuts, the host continues in a second chunk
            assert ids[:76] == expected[:76] and len(positions) == markers, name
    if not read_ones:
        lack(folder, "caption that both cut alike")


@pytest.fixture(scope="module")
def weights(folder):
    return golden_set.read(folder, "sdm_tiny.safetensors")


def test_parts(weights):
    parts = split_parts(weights)
    assert {*SUBJECT_PARTS, "unet.", "text_encoder.", "vae."} == parts.keys()
    assert sum(len(part) for part in parts.values()) == len(weights)
    for prefix in ("unet.", "vae."):
        assert len(parts[prefix]) == sum(key.startswith(prefix) for key in weights)
    scene = split_parts({key: weight for key, weight in weights.items() if not key.startswith(SUBJECT_PARTS)})
    assert scene.keys() == {"unet.", "text_encoder.", "vae."}


@pytest.mark.parametrize("lost", ["image_encoder.", "unet."])
def test_a_part_that_is_missing(weights, lost, tmp_path):
    kept = {key: weight for key, weight in weights.items() if not key.startswith(lost)}
    save_file(kept, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=rf"weights_name: .*cut.safetensors': it lacks {lost[:-1]}"):
        load_face_diffuser(str(tmp_path / "cut.safetensors"))


@pytest.fixture(scope="module")
def subject(folder):
    return golden_set.read(folder, "subject.safetensors")


@pytest.fixture(scope="module")
def encoder(weights):
    return build_subject(FileContent("golden file", split_parts(weights)))


@pytest.fixture(scope="module")
def references(folder, subject):
    """What the set holds of each reference, by its number."""
    found = {}
    for key, tensor in subject.items():
        if key.startswith("ref"):
            number, _, name = key.removeprefix("ref").partition(".")
            found.setdefault(int(number), {})[name] = tensor
    return {i: found[i] for i in sorted(found) if "pixels" in found[i]} or lack(folder, "references")


def test_image_preparation(references, encoder):
    for i, given in references.items():
        expected = given["pixels"]
        if "image" in given:
            found = prepare_image(given["image"][0], expected.shape[-1])
            torch.testing.assert_close(found, expected, rtol=0, atol=1 / 255 + 1e-6)
            assert (found - expected).abs().mean() < 1e-4
        if "vision_input" in given:
            torch.testing.assert_close(normalize(expected[None], encoder.network.image_size), given["vision_input"],
                                       **VALUES, msg=said(i))


def test_image_encoder(folder, subject, references, encoder):
    expected = {}
    for row, order in zip(subject["object_embeds"], subject["object_order"].int().tolist()):
        expected |= {i: vector[0] for i, vector in zip(order, row) if i in references}
    for i, vector in expected.items():
        found = encoder.network(references[i]["pixels"][None])[0]
        torch.testing.assert_close(found, vector, **ENCODED, msg=said("image", i))
        if "vision_pooled_cls" in references[i]:
            seen = normalize(references[i]["pixels"][None], encoder.network.image_size)
            pooled = encoder.network.image_encoder.vision_model(seen)[2]
            torch.testing.assert_close(pooled, references[i]["vision_pooled_cls"], **ENCODED, msg=said("pooled", i))
    if not expected:
        lack(folder, "encoded references")


def test_pictures_to_vectors(folder, references, encoder):
    images = [given["image"][0] for given in references.values() if "image" in given] or lack(folder, "pictures")
    resolution = next(iter(references.values()))["pixels"].shape[-1]
    vectors = encoder.encode(images, resolution)
    alone = torch.cat([encoder.encode([image], resolution) for image in images])
    torch.testing.assert_close(vectors, alone, **VALUES)


def test_post_fuse(subject, encoder):
    before = subject["text_embeds"].clone()
    for i, (text, flags) in enumerate(zip(subject["text_embeds"], subject["image_token_mask"])):
        positions = flags.nonzero().flatten().tolist()
        vectors = subject["object_embeds"][i, :len(positions), 0]
        found = encoder.fuse(text[None], positions, vectors)
        torch.testing.assert_close(found[0], subject["augmented_embeds"][i], **VALUES)
        untouched = flags == 0
        assert torch.equal(found[0][untouched], text[untouched])
    assert torch.equal(before, subject["text_embeds"])


@pytest.fixture(scope="module")
def runs(folder):
    """The runs of the host's samplers, and those of PNDM, which makes one step more than it was asked for."""
    runs = {True: {}, False: {}}
    for name, case in read(folder, "toy").items():
        runs[len(case["stage"]) > case["config"][0].item()][name] = case
    return runs


@pytest.fixture(scope="module")
def toys(folder, runs):
    found = toy.patterns([*runs[False].values()], tiny.model().model.model_sampling.timestep)
    return toy.toys(*(found or lack(folder, "steps of each model alone, which give the predictors' constants")))


def fused(toys, scale: float, borders: Borders) -> FusionGuider:
    return tiny.fusion(*toys, scales=(scale, scale), borders=borders, texts=[toy.given(p) for p in (1, 0, 1, 0)])


def check_mask(guider, step: int, case: dict, name: str, i: int):
    torch.testing.assert_close(guider.record.fused_steps[step].subject_mask.float(), case[f"step{i:02d}.mask"], **EXACT,
                               msg=said(name, i, "mask"))


def test_trajectories(runs, toys):
    """The whole loop through the host's own sampler: masks exact, every latent and the result."""
    sampling = toys[0].model.model_sampling
    for name, case in runs[False].items():
        steps, first, last, scale = case["config"].tolist()
        alpha = case.get("alpha_bar", torch.ones(int(steps) + 1)).double()
        sigmas = case["sigmas"] if "sigmas" in case else ((1 - alpha) / alpha).sqrt().float()
        alpha = alpha.sqrt().float()  # scale of DDIM's latents
        guider, seen = fused(toys, scale, borders(first, last, int(steps))), []
        start = case.get("start_latent", case["noise"]) / alpha[0]
        largest = math.isclose(sigmas[0], sampling.sigma_max, rel_tol=1e-5)
        scaled = start / ((1 + sigmas[0] ** 2) ** 0.5 if largest else sigmas[0])
        out = guider.sample(scaled, torch.zeros_like(start), comfy.samplers.sampler_object("euler"), sigmas, seed=0,
                            callback=lambda step, x0, x, total: seen.append(x), disable_pbar=True)
        seen.append(toys[0].model.process_latent_in(out))
        assert [stage.value for stage in guider.record.stages.values()] == case["stage"].int().tolist(), name
        for i, latent in enumerate(seen[1:]):
            if f"step{i:02d}.mask" in case:
                check_mask(guider, i, case, name, i)
            if f"step{i:02d}.latent_out" in case:
                torch.testing.assert_close(latent * alpha[i + 1], case[f"step{i:02d}.latent_out"], **FINAL,
                                           msg=said(name, i))
        torch.testing.assert_close(seen[-1] * alpha[-1], case["final"], **FINAL, msg=said(name))


STAGES = Borders(1, 1), Borders(0, 1), Borders(0, 0)
PAST = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def test_the_published_loop(folder, runs, toys):
    """PNDM, which the host lacks. A run without noise of its own starts from another's: whose, its result says."""
    for name, case in runs[True].items():
        starts = [run["noise"] for run in [case] if "noise" in run] or [
            run["noise"] for run in runs[False].values() if run["noise"].shape == case["final"].shape]
        results = [run_pndm(toys, case, start) for start in starts]
        errors = [(final - case["final"]).abs().max() for final, _ in results]
        final, masks = results[errors.index(min(errors))]
        torch.testing.assert_close(final, case["final"], **FINAL, msg=said(name))
        for i, mask in masks.items():
            if f"step{i:02d}.mask" in case:
                torch.testing.assert_close(mask, case[f"step{i:02d}.mask"], **EXACT, msg=said(name, i, "mask"))
    if not runs[True]:
        lack(folder, "run of PNDM")


def run_pndm(toys, case, start):
    """The result and the masks by step of a bare loop around the guider, which makes its second step twice."""
    scale, alphas = case["config"][3].item(), case["alpha_bar"].double()
    x, found, masks = start.double(), [], {}
    for i, stage in enumerate(case["stage"].int().tolist()):
        sigma, guider = ((1 - alphas[i]) / alphas[i]).sqrt().float(), fused(toys, scale, STAGES[stage])
        scaled = (x / alphas[i].sqrt()).float()
        noise = (scaled - tiny.evaluate(guider, scaled, sigma.item())) / sigma
        if stage == 1:
            masks[i] = guider.record.fused_steps[0].subject_mask.float()
        a, b = alphas[i], alphas[i + 1]
        if i == 1:  # the first step again, with the mean of both ends
            x, a, noise = start.double(), alphas[0], (noise + found[0]) / 2
        else:
            found = [noise, *found[:3]]
            noise = sum(weight * past for weight, past in zip(PAST[len(found)], found))
        x = (b / a).sqrt() * x + ((1 - b).sqrt() - (b * (1 - a) / a).sqrt()) * noise
    return x.float(), masks

"""InteractDiffusion compared with the reference's outputs, which tests/golden/interactdiffusion/README.md describes.

Every set of the same layout passes: sizes and cases are read from its files alone.
"""
import pytest
import torch

import comfy.ops
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_detection import detect_unet_config
from mditface.mdit.shared.conds import CarriedCond
from mditface.mdit.interactdiffusion.model import HEADS, Grounding, compute_action_boxes, embed_boxes
from mditface.mdit.interactdiffusion.patch import FuserPatch
from mditface.mdit.interactdiffusion.schedule import ScheduleBySteps, ScheduleByTimestep, Moment
from mditface.mdit.interactdiffusion.weights import load_interactdiffusion
from mditface.tests.golden_set import find, lack, read, read_metadata
from mditface.tests.interactdiffusion import tiny

TOKENS = dict(rtol=1e-4, atol=1e-5)
BLOCK = dict(rtol=1e-4, atol=2e-5)
UNET = dict(rtol=1e-4, atol=3e-5)
EXACT = dict(rtol=0, atol=0)
SCHEDULE = dict(rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "interactdiffusion"


@pytest.fixture(scope="module")
def weights(folder):
    return load_interactdiffusion(str(find(folder, "tiny_ext_interactdiff.safetensors"))).weights


@pytest.fixture(scope="module")
def cases(folder):
    """Interactions and their tokens by case; a case without interactions holds those of no interaction."""
    cases = {}
    for key, tensor in read(folder, "position_net_io.safetensors").items():
        case, _, name = key.partition(".")
        cases.setdefault(case, {})[name] = tensor
    return cases


@pytest.fixture(scope="module")
def null(weights):
    """The tokens of no interaction."""
    return weights.network.position_net(tiny.nothing(weights).to_grounding(weights.network.sizes))


def said(what):
    """Puts the name of the comparison before the message."""
    return lambda message: f"{what}: {message}"


def test_between(folder):
    given = read(folder, "between.safetensors")
    found = compute_action_boxes(given["subject_boxes"], given["object_boxes"])
    names = read_metadata(folder / "between.safetensors").get("case_names", [])
    pairs = zip(found.flatten(0, 1), given["between_boxes"].flatten(0, 1))
    for i, (box, expected) in enumerate(pairs):
        torch.testing.assert_close(box, expected, **EXACT, msg=said(names[i] if i < len(names) else i))


def test_fourier(folder):
    given = read(folder, "fourier.safetensors")
    found = embed_boxes(given["boxes"], len(given["freq_bands"]))
    torch.testing.assert_close(found, given["embedding"], rtol=1e-5, atol=1e-6)


def test_tokens(folder, cases, weights):
    names = ("subject_boxes", "object_boxes", "masks", *(f"{part}_positive_embeddings"
                                                         for part in ("subject", "action", "object")))
    complete = {case: given for case, given in cases.items() if given.keys() >= {*names, "objs"}}
    for case, given in complete.items():
        found = weights.network.position_net(Grounding(*(given[name] for name in names)))
        torch.testing.assert_close(found, given["objs"], **TOKENS, msg=said(case))
    if not complete:
        lack(folder, "case with interactions")


def test_null_tokens(folder, cases, null):
    empty = [given["objs"] for given in cases.values() if given.keys() == {"objs"}]
    for expected in empty:
        slots = expected.shape[1] // 3
        found = null.unflatten(1, (3, -1))[:, :, :slots].flatten(1, 2)
        torch.testing.assert_close(found.expand_as(expected), expected, **TOKENS)
    if not empty:
        lack(folder, "tokens of no interaction")


def test_fusers(folder, weights):
    given = read(folder, "informer_io.safetensors")
    for key, expected in given.items():
        name, kind, *scale = key.replace("=", "|").split("|")
        if kind != "out":
            continue
        fuser = weights.network.fusers[weights.blocks.index(name.split(".transformer_blocks")[0])]
        x, scale = given[f"{name}|x"], float(scale[1])
        found = fuser(x, *fuser.project_tokens(given[f"{name}|objs"]), scale)
        torch.testing.assert_close(found, expected, **(BLOCK if scale else EXACT), msg=said(key))


def test_attention_residual(folder, weights):
    """The first of a fuser's two residuals, measured with the second's gate shut."""
    given = read(folder, "informer_io.safetensors")
    for key in filter(lambda key: key.endswith("|attn_residual"), given):
        name = key.split("|")[0]
        fuser = weights.network.fusers[weights.blocks.index(name.split(".transformer_blocks")[0])]
        shut = torch.func.functional_call(fuser, {"alpha_dense": torch.zeros(())}, (
            given[f"{name}|x"], *fuser.project_tokens(given[f"{name}|objs"]), 1.0))
        torch.testing.assert_close(shut - given[f"{name}|x"], given[key], **BLOCK)


class Tokens:
    """Replaces a condition's interactions by tokens (B, 3S, E)."""

    def __init__(self, tokens):
        self.tokens = tokens

    def find_entry(self, network, fuser, area, x):
        return network.fusers[fuser].project_tokens(self.tokens)


@pytest.fixture(scope="module")
def predict(folder, weights):
    """The host's UNet with a middle patch; each row is a chunk with tokens of its own."""
    state, prefix = read(folder, "tiny_sd_unet.safetensors"), "model.diffusion_model."
    config = {**detect_unet_config(state, prefix), "num_heads": HEADS, "num_head_channels": -1, "dtype": torch.float32}
    unet = UNetModel(**config, operations=comfy.ops.disable_weight_init).eval()
    unet.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})

    def run(given, context, objs, scale=1.0):
        chunks = [CarriedCond(Tokens(row[None])) for row in objs]
        options = {"patches": {"middle_patch": [FuserPatch(weights.network, chunks, scale)]}} if scale else {}
        return unet(given["x"], given["timesteps"], context=given[context], transformer_options=options)
    return run


@pytest.fixture(scope="module")
def given(folder):
    return read(folder, "tiny_unet_io.safetensors")


def predict_rows(predict, given, tokens, scale=1.0):
    """The prediction with the same tokens (3S, E) in each row."""
    return predict(given, "context", tokens.expand(len(given["x"]), -1, -1), scale)


@pytest.fixture(scope="module")
def positive(folder, cases, given, predict):
    """The tokens of each row of the UNet's run: the set does not say whose they are, the nearest result does."""
    rows = [row for case in cases.values() if case.keys() > {"objs"} for row in case.get("objs", [])]
    if not rows or "eps_cond" not in given:
        lack(folder, "run of the UNet with interactions")
    errors = [(predict_rows(predict, given, row) - given["eps_cond"]).flatten(1).abs().amax(1) for row in rows]
    return [rows[i] for i in torch.stack(errors).argmin(0)]


def test_unet(predict, given, positive, null):
    null = null.expand(len(given["x"]), -1, -1)
    tokens = {"cond": positive, "uncond": null, "cond_null_tokens": null}
    contexts = {"cond": "context", "uncond": "uncond_context", "cond_null_tokens": "context"}
    for key in filter(lambda key: key.startswith("eps_"), given):
        branch, _, scale = key.removeprefix("eps_").partition("_scale=")
        if branch in tokens:
            found = predict(given, contexts[branch], tokens[branch], float(scale or 1))
            torch.testing.assert_close(found, given[key], **UNET, msg=said(key))


def test_guided(folder, predict, given, positive, null):
    guided = [key for key in given if key.startswith("eps_cfg_")]
    if not guided:
        lack(folder, "guided prediction")
    cond = predict(given, "context", positive)
    uncond = predict(given, "uncond_context", null.expand(len(positive), -1, -1))
    for key in guided:
        guidance = float(key.removeprefix("eps_cfg_"))
        torch.testing.assert_close(uncond + guidance * (cond - uncond), given[key], rtol=1e-4,
                                   atol=2 * guidance * UNET["atol"], msg=said(key))


def fractions(percents):
    return [[value / 100 for value in row] for row in percents.double().reshape(len(percents), -1).tolist()]


def test_schedules(folder):
    given = read(folder, "schedule.safetensors")
    for key in given:
        form, name, part = key.split("/")
        if part == "types_percent":
            check_steps([ScheduleBySteps(full, fade) for full, fade, _ in fractions(given[key])],
                        given[f"{form}/{name}/alphas"])
        elif part == "beta_percent":
            check_steps([ScheduleBySteps(*beta) for beta in fractions(given[key])],
                        given[f"{form}/{name}/enabled"].float())
        elif part == "stage_one_two_strength_percent":
            check_timesteps(fractions(given[key]), given[f"{form}/{name}/timesteps"], given[f"{form}/{name}/alpha"])


def check_steps(schedules, expected):
    steps = expected.shape[1]
    found = [[one.compute_scale(Moment(i, steps, 0.0)) for i in range(steps)] for one in schedules]
    torch.testing.assert_close(torch.tensor(found), expected, **SCHEDULE)


def check_timesteps(settings, timesteps, expected):
    found = [[strength * ScheduleByTimestep(full, end).compute_scale(Moment(0, 1, t)) for t in timesteps.tolist()]
             for full, end, strength in settings]
    torch.testing.assert_close(torch.tensor(found), expected, **SCHEDULE)

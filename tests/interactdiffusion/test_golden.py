"""InteractDiffusion compared with the reference's outputs, which tests/golden/interactdiffusion/README.md describes.

Every set of the same layout passes: sizes and cases are read from its files alone.
"""
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import comfy.ops
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_detection import detect_unet_config
from mditface.mdit.shared.conds import CarriedCond
from mditface.mdit.interactdiffusion.model import HEADS, Grounding, compute_action_boxes, embed_boxes
from mditface.mdit.interactdiffusion.patch import FuserPatch
from mditface.mdit.interactdiffusion.schedule import ScheduleBySteps, ScheduleByTimestep, Moment
from mditface.mdit.interactdiffusion.weights import load_interactdiffusion
from mditface.tests.interactdiffusion import tiny

TOKENS = BLOCK = dict(rtol=0, atol=1e-5)
UNET = dict(rtol=0, atol=1e-4)
EXACT = dict(rtol=0, atol=0)
SCHEDULE = dict(rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "interactdiffusion"


@pytest.fixture(scope="module")
def weights(folder):
    return load_interactdiffusion(str(folder / "tiny_ext_interactdiff.safetensors")).weights


@pytest.fixture(scope="module")
def tokens(folder):
    return load_file(folder / "position_net_io.safetensors")


def said(what):
    """Puts the name of the comparison before the message."""
    return lambda message: f"{what}: {message}"


def read(folder, name):
    return load_file(folder / f"{name}.safetensors")


def test_between(folder):
    given = read(folder, "between")
    found = compute_action_boxes(given["subject_boxes"], given["object_boxes"])
    names = json.loads(safe_open(folder / "between.safetensors", "pt").metadata()["case_names"])
    for i, expected in enumerate(given["between_boxes"][0]):
        torch.testing.assert_close(found[0, i], expected, **EXACT, msg=said(names[i] if i < len(names) else i))


def test_fourier(folder):
    given = read(folder, "fourier")
    found = embed_boxes(given["boxes"], len(given["freq_bands"]))
    torch.testing.assert_close(found, given["embedding"], rtol=1e-5, atol=1e-6)


def test_tokens(tokens, weights):
    for case in sorted({key.split(".")[0] for key in tokens} - {"null"}):
        names = ("subject_boxes", "object_boxes", "masks", *(f"{part}_positive_embeddings"
                                                             for part in ("subject", "action", "object")))
        given = Grounding(*(tokens[f"{case}.{name}"] for name in names))
        found = weights.network.position_net(given)
        torch.testing.assert_close(found, tokens[f"{case}.objs"], **TOKENS, msg=said(case))


def test_null_tokens(tokens, weights):
    found = weights.network.position_net(tiny.nothing(weights).to_grounding(weights.network.sizes))
    torch.testing.assert_close(found.expand_as(tokens["null.objs"]), tokens["null.objs"], **TOKENS)


def test_fusers(folder, weights):
    given = read(folder, "informer_io")
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
    given = read(folder, "informer_io")
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
    state, prefix = read(folder, "tiny_sd_unet"), "model.diffusion_model."
    config = {**detect_unet_config(state, prefix), "num_heads": HEADS, "num_head_channels": -1, "dtype": torch.float32}
    unet = UNetModel(**config, operations=comfy.ops.disable_weight_init).eval()
    unet.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})

    def run(given, context, objs, scale=1.0):
        chunks = [CarriedCond(Tokens(row[None])) for row in objs]
        options = {"patches": {"middle_patch": [FuserPatch(weights.network, chunks, scale)]}} if scale else {}
        return unet(given["x"], given["timesteps"], context=given[context], transformer_options=options)
    return run


def test_unet(folder, predict, tokens):
    given = read(folder, "tiny_unet_io")
    positive, null = tokens["two_rows.objs"], tokens["null.objs"]
    cond, uncond = predict(given, "context", positive), predict(given, "uncond_context", null)
    torch.testing.assert_close(cond, given["eps_cond"], **UNET)
    torch.testing.assert_close(uncond, given["eps_uncond"], **UNET)
    torch.testing.assert_close(uncond + 7.5 * (cond - uncond), given["eps_cfg_7.5"], **UNET)
    torch.testing.assert_close(predict(given, "context", null), given["eps_cond_null_tokens"], **UNET)
    torch.testing.assert_close(predict(given, "uncond_context", null, 0.0), given["eps_uncond_scale=0"], **UNET)
    for key in filter(lambda key: key.startswith("eps_cond_scale="), given):
        found = predict(given, "context", positive, float(key.split("=")[1]))
        torch.testing.assert_close(found, given[key], **UNET, msg=said(key))


def fractions(percents):
    return [[value / 100 for value in row] for row in percents.double().reshape(len(percents), -1).tolist()]


def test_schedules(folder):
    given = read(folder, "schedule")
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

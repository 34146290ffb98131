"""Adapters train on quantised bases: their gradients are those on the bf16 base, but for rounding."""
import json

import pytest
import torch

from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from mditface.mdit.training.targets.adapter import AdapterSettings, AdapterTarget
from mditface.tests.adapter import bases
from mditface.tests.training.tiny_targets import ADAPTER, VAE, encoded_faces

pytestmark = pytest.mark.usefixtures("in_training")
SCALED = {"fp8 scaled": "float8_e4m3fn", "int8": "int8_tensorwise"}


def quantise(weights, form):
    """The weights as in a file of the host's quantised format: the matrices of the blocks, with their scales."""
    packed = {}
    for name, weight in weights.items():
        packed[name] = weight.bfloat16()
        if weight.ndim == 2 and name.startswith(("joint_blocks", "double_blocks", "single_blocks", "transformer_blocks",
                                                 "layers")):
            scales = {"scale": "recalculate"} if form == "float8_e4m3fn" else {}
            tensor = QuantizedTensor.from_float(weight.bfloat16(), QUANT_ALGOS[form]["comfy_tensor_layout"], **scales)
            packed |= tensor.state_dict(name)
            config = json.dumps({"format": form}).encode()
            packed[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(config), dtype=torch.uint8)
    return packed


def compute_gradients(base, paths):
    """Of all terms, after a step has made them differ from zero."""
    base.set_model_compute_dtype(torch.bfloat16)
    samples = encoded_faces(4)
    target = AdapterTarget(AdapterSettings(**ADAPTER | {"gradient_checkpointing": True}, **paths), base, samples,
                           vae=VAE())
    rng = torch.Generator().manual_seed(2)
    for w in target.module.terms.parameters():
        w.data = torch.randn(w.shape, generator=rng) * 0.3 * w.shape[1] ** -0.5
    loss = target.module(**target.make_batch(0, 0, 1), rng=torch.Generator().manual_seed(3))
    loss.backward()
    return {name: w.grad for name, w in target.module.terms.named_parameters()}


@pytest.mark.parametrize("form", ["fp8", *SCALED])
@pytest.mark.parametrize("family", ["sd3", "flux", "qwen-image"])
def test_gradients_are_those_of_bf16(family, form, paths):
    weights = bases.published(family)
    expected = compute_gradients(bases.load({name: w.bfloat16() for name, w in weights.items()}, family), paths)
    if form == "fp8":  # weights cast without a scale, as by 'Load Diffusion Model'
        base = bases.load(weights, family, dtype=torch.float8_e4m3fn)
    else:
        base = bases.load(quantise(weights, SCALED[form]), family)
        kinds = {type(w.data) for w in base.model.diffusion_model.parameters()}
        assert QuantizedTensor in kinds
    found = compute_gradients(base, paths)
    a, b = (torch.cat([x.flatten() for x in grads.values()]) for grads in (expected, found))
    assert torch.cosine_similarity(a, b, 0) > 0.985
    assert b.norm() / a.norm() == pytest.approx(1, abs=0.06)

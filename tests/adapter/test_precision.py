"""Bases in other types and forms: bf16, fp8, quantised layers of another node."""
import pytest
import torch
import torch.nn as nn

import comfy.ops
from mditface.mdit.mditface.adapter.families.flux import FluxStream, clamp_half
from mditface.tests.adapter.bases import load, mask, prediction, published, run
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

ROUNDING = dict(rtol=0, atol=2e-5)
TYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES.keys())
def test_weights_in_another_type(case, texts, dtype):
    """The same as a base whose weights were rounded beforehand; what the model computes in stays."""
    weights, positive = published(case.family), masked(texts[0], mask())
    model = case.apply(case.load(weights, dtype=dtype))
    assert next(model.model.diffusion_model.parameters()).dtype == dtype
    rounded = case.apply(case.load({name: weight.to(dtype).float() for name, weight in weights.items()}))
    torch.testing.assert_close(prediction(model, positive), prediction(rounded, positive), **ROUNDING)
    torch.testing.assert_close(run(model, positive, texts[1])[0], run(model, positive, texts[1], OFF)[0], **TOLERANCE)


def in_bfloat16(model):
    model = model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    return model


def test_computing_in_bfloat16(case, texts):
    positive, model = masked(texts[0], mask()), in_bfloat16(case.model)
    out, bare = prediction(model, positive), prediction(model, texts[0])
    error = (out - prediction(case.model, positive)).std()
    rounding = (bare - prediction(case.base, texts[0])).std()
    assert 0 < error < 1.5 * rounding
    torch.testing.assert_close(out, prediction(model, positive, options=OFF), **TOLERANCE)
    assert torch.equal(bare, prediction(in_bfloat16(case.base), texts[0]))


@pytest.mark.parametrize("kind, parts", [("double", 6), ("single", 3)])
def test_overflows_in_half_precision_become_the_largest_number(cases, kind, parts):
    case, width, half = cases["flux"], 256, torch.float16
    network = load(published("flux"), dtype=half).model.diffusion_model
    stream = FluxStream(network, case.adapter.config, case.adapter.terms, 1.0)
    mod = [torch.ones(1, 1, width, dtype=half)] * parts
    pe = torch.eye(2).expand(1, 1, 4, 64, 2, 2)
    make = getattr(stream, f"make_{kind}_inputs")
    generator = torch.Generator().manual_seed(0)
    msk, attention = (torch.randn(1, 4, width, generator=generator).to(half) for _ in range(2))
    inputs = make(getattr(network, f"{kind}_blocks")[0], f"{kind}.0", msk, mod, pe)
    usual = inputs.finish(attention)
    assert usual.isfinite().all() and usual.abs().max() < 100
    too_large = inputs.finish(attention * 30000)
    assert too_large.isfinite().all()


def test_infinite_numbers_are_replaced_in_half_precision_alone():
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 2.5])
    assert clamp_half(x.half()).tolist() == [65504, -65504, 0, 2.5]
    assert clamp_half(x) is x


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


class QuantisedOps(comfy.ops.disable_weight_init):
    class Linear(nn.Module):
        """A layer like those of GGUF loaders: no weight until it is called."""

        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            super().__init__()
            self.in_features, self.out_features = in_features, out_features

        def _load_from_state_dict(self, state_dict, prefix, *_):
            self.packed = quantised(state_dict[f"{prefix}weight"])
            self.shift = state_dict.get(f"{prefix}bias")

        def forward(self, x):
            values, scale = self.packed
            return nn.functional.linear(x, values * scale, self.shift)


def test_layers_without_a_weight(case, texts):
    weights, positive = published(case.family), masked(texts[0], mask())
    model = case.apply(case.load(weights, custom_operations=QuantisedOps))
    layers = {name for name, layer in model.model.diffusion_model.named_modules()
              if isinstance(layer, QuantisedOps.Linear)}
    assert len(layers) > 20
    rounded = {name: (lambda values, scale: values * scale)(*quantised(weight))
               if name.removesuffix(".weight") in layers else weight for name, weight in weights.items()}
    expected = prediction(case.apply(case.load(rounded)), positive)
    torch.testing.assert_close(prediction(model, positive), expected, **ROUNDING)

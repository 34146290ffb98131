"""The stand-alone model compiled by the host's helper, on every attention function of the host that needs no other
package."""
import pytest
import torch

import comfy.model_management
from comfy.ldm.modules import attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from mditface.mdit.mditface import layers
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import masked, run

ROUNDING = dict(rtol=0, atol=2e-5)
FUNCTIONS = ("attention_pytorch", "attention_sub_quad", "attention_split", "attention_basic")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_masks_on_a_compiled_model(loaded, texts, monkeypatch, function):
    torch._dynamo.reset()
    monkeypatch.setattr(layers, "optimized_attention", getattr(attention, function))
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_enabled", lambda: function == "attention_pytorch")
    model = loaded.model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model, "eager", {"guard_filter_fn": skip_torch_compile_dict})
    labels = tiny.mask()
    for positive in (texts[0], masked(texts[0], labels), masked(texts[0], labels, 0.5), texts[0]):
        torch.testing.assert_close(run(model, positive, texts[1])[0], run(loaded.model, positive, texts[1])[0],
                                   **ROUNDING)

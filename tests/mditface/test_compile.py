"""The stand-alone model on every attention function of the host, as it is and compiled by the host's helper."""
import sysconfig
from pathlib import Path

import pytest
import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from mditface.mdit.mditface import host
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import masked, run
from mditface.tests.shared import attention_functions
from mditface.tests.shared.attention_functions import PACKAGED, PLAIN

ROUNDING = dict(rtol=0, atol=2e-5)
INDUCTOR = {"guard_filter_fn": skip_torch_compile_dict,
            "compile_threads": 1,  # no pool of processes, which would outlive the test
            "cpp.simdlen": 0}  # plain C++ compiles faster


def list_forms(texts) -> list:
    """Without a mask, with one, with another form, and without a mask again."""
    labels = tiny.mask()
    return [texts[0], masked(texts[0], labels), masked(texts[0], labels, 0.5), texts[0]]


@pytest.mark.parametrize("function", PLAIN + PACKAGED)
def test_every_function_of_the_host_reads_masks(loaded, texts, function, monkeypatch):
    forms = [*list_forms(texts), masked(texts[0], tiny.mask(reduction="merge"))]
    attention_functions.use("attention_pytorch", monkeypatch)
    expected = [run(loaded.model, positive, texts[1])[0] for positive in forms]
    attention_functions.use(function, monkeypatch)
    for positive, out in zip(forms, expected):
        torch.testing.assert_close(run(loaded.model, positive, texts[1])[0], out, **ROUNDING)
    assert {*attention_functions.called} == attention_functions.packages_of(function)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """A model of one block."""
    return host.load_mdit(tiny.write(tmp_path_factory.mktemp("shallow") / "one.safetensors", tiny.config(depth=1)))


@pytest.mark.parametrize("keys", [None, ["diffusion_model.blocks.0"]], ids=["whole", "a block"])
@pytest.mark.parametrize("function", PLAIN[:2])
def test_masks_on_a_compiled_model(shallow, texts, function, keys, monkeypatch):
    """Without guards on the transformer options, as the host's node compiles."""
    torch._dynamo.reset()
    attention_functions.use(function, monkeypatch)
    model = shallow.model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model, "eager", {"guard_filter_fn": skip_torch_compile_dict}, keys=keys)
    for positive in list_forms(texts):
        expected = run(shallow.model, positive, texts[1])[0]
        torch.testing.assert_close(run(model, positive, texts[1])[0], expected, **ROUNDING)


def require_compiler():
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("no C++ compiler is found, by which inductor compiles for a CPU")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("Python's headers are not installed, which inductor's code includes")


def test_masks_on_a_block_that_inductor_compiled(shallow, texts, monkeypatch):
    """Inductor makes machine code, while the other tests of compiled models trace alone. One form: it takes long."""
    require_compiler()
    torch._dynamo.reset()
    attention_functions.use("attention_pytorch", monkeypatch)
    model = shallow.model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model, "inductor", INDUCTOR, keys=["diffusion_model.blocks.0"])
    positive = masked(texts[0], tiny.mask(), 0.5)
    expected = run(shallow.model, positive, texts[1], steps=1)[0]
    torch.testing.assert_close(run(model, positive, texts[1], steps=1)[0], expected, **ROUNDING)

"""Bases that PyTorch's compiler compiled, whole or block by block. A few blocks show what many do, in less time."""
import pytest
import torch

from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from mditface.tests.adapter.bases import SHALLOW, case as make_case, load, mask, prediction, published, run, text
from mditface.tests.mditface.runs import masked
from mditface.tests.shared import attention_functions
from mditface.tests.shared.attention_functions import PACKAGED, PLAIN

ROUNDING = dict(rtol=0, atol=2e-5)
BLOCKS = {"sd3": ["joint_blocks.0", "joint_blocks.1"], "flux": ["double_blocks.0", "single_blocks.0"]}
BLIND = dict(guard_filter_fn=skip_torch_compile_dict)  # as the host's node compiles


def compiled(model, backend="eager", keys=None, **options):
    model = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model, backend, options, keys=keys)
    return model


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shallow")
    bases = {family: load(published(family, shallow=True)) for family in SHALLOW}
    return {family: make_case(family, base, folder, **SHALLOW[family]) for family, base in bases.items()}


@pytest.fixture(params=SHALLOW)
def compilable(request, shallow):
    torch._dynamo.reset()
    return shallow[request.param]


def check_compiled(model, plain, conditionings):
    """The compiled model equals the plain one on each conditioning in turn."""
    for positive in conditionings:
        torch.testing.assert_close(prediction(model, positive), prediction(plain, positive), **ROUNDING)


def list_forms(texts) -> list:
    """Without a mask, with one, with another form, and without a mask again."""
    labels = mask()
    return [texts[0], masked(texts[0], labels), masked(texts[0], labels, 0.5), texts[0]]


def test_once_for_steps_seeds_prompts_and_masks(compilable, texts):
    model, labels = compiled(compilable.model), mask()
    run(model, masked(texts[0], labels), texts[1], steps=1)
    before = graphs()
    for positive, changes in ((masked(texts[0], labels), dict(seed=4, cfg=3.0)), (masked(text(3), labels), {}),
                              (masked(texts[0], mask(seed=8)), {})):
        out, report = run(model, positive, texts[1], **changes)
        torch.testing.assert_close(out, run(compilable.model, positive, texts[1], **changes)[0], **ROUNDING)
        assert report.notes == []
    assert graphs() == before > 0


def test_without_guards_on_the_options(compilable, texts):
    """As the host's node compiles: what a mask needs must be seen all the same."""
    check_compiled(compiled(compilable.model, **BLIND), compilable.model, list_forms(texts))


@pytest.mark.parametrize("family", ["flux2", "chroma", "qwen-image"])
def test_further_families(cases, texts, family):
    """Z-Image is refused: see test_zimage.py."""
    torch._dynamo.reset()
    plain = cases[family].model
    check_compiled(compiled(plain, **BLIND), plain, list_forms(texts))


def test_a_network_that_another_node_replaced_by_a_compiled_one(shallow, texts):
    torch._dynamo.reset()
    plain = shallow["sd3"].model
    model = plain.clone(disable_dynamic=True)
    network = model.get_model_object("diffusion_model")
    model.add_object_patch("diffusion_model", torch.compile(network, backend="eager", options=dict(BLIND)))
    check_compiled(model, plain, list_forms(texts)[:2])


@pytest.mark.parametrize("function", PLAIN[1:] + PACKAGED)
def test_every_attention_function(shallow, texts, function, monkeypatch):
    """In one block, since each of their calls breaks the graph, which costs time."""
    torch._dynamo.reset()
    attention_functions.use(function, monkeypatch)
    plain, forms = shallow["sd3"].model, list_forms(texts)[1:3]
    expected = [prediction(plain, positive) for positive in forms]
    attention_functions.called.clear()
    model = compiled(plain, keys=["diffusion_model.joint_blocks.0"])
    for positive, out in zip(forms, expected):
        torch.testing.assert_close(prediction(model, positive), out, **ROUNDING)
    assert {*attention_functions.called} == attention_functions.packages_of(function)


def test_another_backend(shallow, texts):
    torch._dynamo.reset()
    plain = shallow["sd3"].model
    check_compiled(compiled(plain, "aot_eager", **BLIND), plain, list_forms(texts)[:2])


def test_blocks_that_are_compiled_one_by_one(shallow, texts):
    torch._dynamo.reset()
    plain = shallow["sd3"].model
    keys = [f"diffusion_model.{block}" for block in BLOCKS["sd3"]]
    check_compiled(compiled(plain, keys=keys), plain, list_forms(texts))


def by_helper(model, blocks):
    return compiled(model, keys=[f"diffusion_model.{block}" for block in blocks], **BLIND)


def by_object_patch(model, blocks):
    model = model.clone(disable_dynamic=True)
    for block in blocks:
        name = f"diffusion_model.{block}"
        module = torch.compile(model.get_model_object(name), backend="eager", options=dict(BLIND))
        model.add_object_patch(name, module)
    return model


@pytest.mark.parametrize("compile_blocks", [by_helper, by_object_patch])
def test_blocks_whose_code_cannot_tell_masks_apart_are_refused(compilable, texts, compile_blocks):
    """Each block in turn; without a mask they compute."""
    for block in BLOCKS[compilable.family]:
        model = compile_blocks(compilable.model, [block])
        with pytest.raises(ValueError, match="model: another node compiles its blocks one by one .*TorchCompileModel"):
            prediction(model, masked(texts[0], mask()))
    torch.testing.assert_close(prediction(model, texts[0]), prediction(compilable.model, texts[0]), **ROUNDING)


@pytest.mark.parametrize("options", [{}, BLIND], ids=["guarded", "blind"])
def test_a_block_that_compiles_itself(texts, tmp_path, options):
    torch._dynamo.reset()
    case = make_case("sd3", load(published("sd3", shallow=True)), tmp_path, **SHALLOW["sd3"])
    expected = prediction(case.model, masked(texts[0], mask()))
    case.base.model.diffusion_model.joint_blocks[0].compile(backend="eager", options=dict(options))
    if options:
        with pytest.raises(ValueError, match="model: another node compiles its blocks"):
            prediction(case.model, masked(texts[0], mask()))
    else:
        torch.testing.assert_close(prediction(case.model, masked(texts[0], mask())), expected, **ROUNDING)

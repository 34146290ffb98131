"""Face-MoGLE on the host's FLUX together with what else is on the graph (docs/design/adapters.md, section 5.7)."""
import pytest
import torch

import comfy.model_management
import comfy.ops
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from comfy_api.torch_helpers import set_torch_compile_wrapper
from mditface.mdit.face_mogle.gate import Gate
from mditface.mdit.labelmap import resize_nearest
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.adapter.bases import (
    AveragingVAE, easycontrol_case, load, mask, noisy, prediction, published, run, text)
from mditface.tests.adapter.test_composition import control_net, controlled
from mditface.tests.adapter.test_precision import QuantisedOps, quantised
from mditface.tests.face_mogle import tiny
from mditface.tests.mditface import runs
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked
from mditface.tests.shared import hooks

ROUNDING = dict(rtol=0, atol=2e-5)  # another order of summation
EFFECT = 1e-2


def differ(one, other) -> bool:
    return not torch.allclose(one, other, atol=EFFECT)


class CountingVAE(AveragingVAE):
    """Counts the pictures that it encodes, and fails at one of them."""

    def __init__(self, fails_at=None):
        self.pictures, self.fails_at = 0, fails_at

    def encode(self, pictures):
        if self.pictures == self.fails_at:
            self.fails_at = None
            comfy.model_management.interrupt_current_processing()
        self.pictures += len(pictures)
        return super().encode(pictures)


def test_a_mask_changes_the_picture_and_none_leaves_the_base(base, model, texts):
    bare = prediction(base, texts[0], texts[1], cfg=2.0)
    assert torch.equal(prediction(model, texts[0], texts[1], cfg=2.0), bare)
    assert torch.equal(prediction(model, masked(texts[0], mask(), 0.0)), prediction(base, texts[0]))
    one, other = (prediction(model, masked(texts[0], mask(seed=seed))) for seed in range(2))
    assert differ(one, prediction(base, texts[0])) and differ(one, other)


def test_strength_and_range(model, texts):
    x = noisy()
    weak, strong = (prediction(model, masked(texts[0], mask(), strength), x=x) for strength in (0.5, 2.0))
    assert differ(weak, strong)
    bare = prediction(model, texts[0], x=x)
    assert torch.equal(prediction(model, masked(texts[0], mask(), 1.0, 0.6, 1.0), x=x), bare)
    assert differ(prediction(model, masked(texts[0], mask(), 1.0, 0.0, 0.6), x=x), bare)


def test_rows_of_a_batch_read_their_own_maps(model, texts):
    labels, x = mask(2), noisy(2)
    both = prediction(model, masked(texts[0], labels), x=x)
    for row in range(2):
        alone = MaskInput(labels.labels[row:row + 1], labels.visible, vae=labels.vae)
        torch.testing.assert_close(both[row:row + 1], prediction(model, masked(texts[0], alone), x=x[row:row + 1]),
                                   **ROUNDING)


def test_latents_that_another_node_takes_out_of_a_batch_keep_their_maps(model, texts):
    labels = mask(3)
    expected, _ = run(model, masked(texts[0], labels), texts[1], latent=(3, 16, 8, 8))
    split = hooks.split_rows(lambda n: [[i] for i in range(n)])(model)
    found, _ = run(split, masked(texts[0], labels), texts[1], latent=(3, 16, 8, 8))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_conditions_with_and_without_a_mask_in_one_call(model, texts):
    positive = masked(texts[0], mask())
    negatives = {"none": text(3), "its own": masked(text(3), mask(seed=5))}
    for name, negative in negatives.items():
        parts = [prediction(model, cond) for cond in (positive, negative)]
        expected = parts[1] + 2.0 * (parts[0] - parts[1])
        torch.testing.assert_close(prediction(model, positive, negative, cfg=2.0), expected, rtol=0, atol=1e-4,
                                   msg=lambda found: f"{name}: {found}")


def test_a_region_reads_its_part_of_the_map(model, texts):
    whole, x = mask(), noisy()
    labels = MaskInput(resize_nearest(whole.labels, 64, 64), whole.visible, vae=whole.vae)
    area = 4, 6, 2, 1
    region = [[tokens, {**values, "area": area, "strength": 1.0}] for tokens, values in masked(texts[0], labels)]
    out = prediction(model, region, x=x)
    h, w, y, left = area
    cut = MaskInput(labels.labels[:, y * 8:(y + h) * 8, left * 8:(left + w) * 8], labels.visible, vae=labels.vae)
    part = prediction(model, masked(texts[0], cut), x=x[:, :, y:y + h, left:left + w])
    torch.testing.assert_close(out[:, :, y:y + h, left:left + w], part, **ROUNDING)


@pytest.mark.parametrize("sides", [(7, 9), (4, 10)])
def test_other_sizes(base, model, texts, sides):
    x = noisy(1, *sides)
    positive = masked(texts[0], mask())
    out = prediction(model, positive, x=x)
    assert out.shape == x.shape
    assert differ(out, prediction(base, texts[0], x=x))
    torch.testing.assert_close(out, prediction(model, positive, x=x, options=OFF), **TOLERANCE)


def test_what_is_stored_is_exact_and_found_again(model, texts):
    labels = mask()
    expected, report = run(model, masked(texts[0], labels), texts[1], OFF, cfg=1.0)
    assert report.passes == 2  # one a step
    for seed, passes in ((0, 1), (0, 0), (3, 0)):
        out, report = run(model, masked(texts[0], labels), texts[1], cfg=1.0, seed=seed)
        assert report.passes == passes
        assert report.reads[next(iter(report.reads))] == [2 * 5, 2 * 5]
        if seed == 0:
            torch.testing.assert_close(out, expected, **TOLERANCE)
    (entry,) = labels.store.list_entries()
    assert report.bytes == entry.nbytes == 21 * 16 * 64 * 4 + (2 * 6 + 3 * 3) * 256 * 4
    assert run(model, masked(text(4), labels), texts[1], cfg=1.0)[1].passes == 1  # another prompt
    assert "Face-MoGLE" in "\n".join(report.notes)


def test_each_way_of_storing_gives_the_same(model, texts):
    expected = prediction(model, masked(texts[0], mask()), options=OFF)
    for options in (CacheOptions("auto"), CacheOptions("8-bit"), CacheOptions("auto", offload=True)):
        torch.testing.assert_close(prediction(model, masked(texts[0], mask()), options=options), expected, **TOLERANCE)


def test_unloading_in_between(model, texts):
    labels = mask()
    expected = prediction(model, masked(texts[0], labels))
    comfy.model_management.unload_all_models()
    assert torch.equal(prediction(model, masked(texts[0], labels)), expected)


def test_each_distinct_picture_is_encoded_once(model, texts):
    vae = CountingVAE()
    labels = MaskInput(torch.randint(0, 3, (1, 64, 64), dtype=torch.uint8), torch.ones(19), vae=vae)
    for _ in range(2):
        prediction(model, masked(texts[0], labels))
        assert vae.pictures == 1 + 3 + 1  # the whole map, three classes, black


def test_an_interrupt_leaves_nothing(model, texts):
    vae = CountingVAE(fails_at=2)
    labels = MaskInput(mask().labels, torch.ones(19), vae=vae)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        prediction(model, masked(texts[0], labels))
    assert not labels.pictures and not labels.store.list_entries()
    torch.testing.assert_close(prediction(model, masked(texts[0], labels)),
                               prediction(model, masked(texts[0], mask())), **TOLERANCE)


def test_hidden_classes_are_black_and_background(adapter):
    labels = torch.tensor([[[0, 1], [2, 2]]], dtype=torch.uint8)
    visible = torch.ones(19)
    visible[2] = 0
    shown = labels.clone()
    shown[labels == 2] = 0
    whole, background, skin, hidden, *others = adapter.mixer.draw(labels, visible)
    torch.testing.assert_close(whole, next(adapter.mixer.draw(shown, torch.ones(19))))
    assert background[..., 0].tolist() == [[1, 0], [0, 0]]
    assert skin[..., 0].tolist() == [[0, 1], [0, 0]]
    assert not any(picture.any() for picture in (hidden, *others))


def test_the_switches(files, base, model, texts):
    positive = masked(texts[0], mask())
    expected = prediction(model, positive)
    for switches in (dict(black=True), dict(scale=1)):
        assert differ(prediction(apply_adapter(base, tiny.load(files, **switches)), positive), expected)


LAYERS = [f"double_blocks.{i}.img_attn.qkv" for i in range(2)]


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_lora_changes_the_condition_too(base, adapter, model, texts, monkeypatch, place):
    lora = runs.lora(*LAYERS, width=256)
    monkeypatch.setattr(runs, "MASK_LORA", lora)
    weights, positive = dict(published("flux")), masked(texts[0], mask())
    for layer in LAYERS:
        up, down = (lora[f"diffusion_model.{layer}.lora_{half}.weight"] for half in ("up", "down"))
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + 0.7 * up @ down
    patched = apply_adapter(runs.with_lora(base, 0.7), adapter) if place == "before" else runs.with_lora(model, 0.7)
    expected = prediction(apply_adapter(load(weights), adapter), positive)
    torch.testing.assert_close(prediction(patched, positive), expected, **ROUNDING)
    assert differ(expected, prediction(model, positive))  # and the entry of the unchanged model is not found


def test_another_adapter_beside_it_in_either_order(base, adapter, model, texts, tmp_path):
    other = easycontrol_case(base, tmp_path)
    positive = masked(texts[0], mask())
    both = prediction(other.apply(model), positive)
    torch.testing.assert_close(prediction(apply_adapter(other.model, adapter), positive), both, **ROUNDING)
    assert differ(both, prediction(model, positive)) and differ(both, prediction(other.model, positive))


def test_an_attention_override_sees_queries_of_text_and_image(model, texts):
    """Such as SageAttention's: the result stays, and each call is either the block's or the condition's."""
    lengths = []

    def override(function, q, *args, **kwargs):
        lengths.append(q.shape[2])
        return function(q, *args, **kwargs)
    overridden = model.clone()
    overridden.model_options["transformer_options"]["optimized_attention_override"] = override
    positive = masked(texts[0], mask())
    out = prediction(overridden, positive)
    torch.testing.assert_close(out, prediction(model, positive), **ROUNDING)
    assert lengths == [21, 16] * 4 + [21]  # 5 text and 16 image tokens; 16 of the condition


def test_controlnet_residuals_go_to_the_image(base, model, texts):
    net, x = control_net("flux"), noisy()
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with_both, _ = controlled("flux", net, masked(texts[0], mask()), texts[1], picture)
    with_net, _ = controlled("flux", net, texts[0], texts[1], picture)
    out = prediction(model, with_both, x=x)
    assert differ(out, prediction(model, with_net, x=x))
    assert differ(out, prediction(model, masked(texts[0], mask()), x=x))
    assert torch.equal(prediction(model, with_net, x=x), prediction(base, with_net, x=x))


def test_an_attention_mask_of_the_text_does_not_hide_the_condition(model, texts):
    """An open mask changes nothing."""
    positive = masked(texts[0], mask())

    def set_mask(executor, x, *args, **kwargs):
        return executor(x, *args, **{**kwargs, "attention_mask": torch.zeros(1, 21, 21)})
    model_with_mask = model.clone()
    model_with_mask.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "mask", set_mask)
    torch.testing.assert_close(prediction(model_with_mask, positive), prediction(model, positive), **ROUNDING)


def test_a_block_that_runs_twice_changes_nothing(model, texts):
    def twice(args, extra):
        extra["original_block"]({name: x.clone() if torch.is_tensor(x) else x for name, x in args.items()})
        return extra["original_block"](args)
    patched = model.clone()
    patched.set_model_patch_replace(twice, "dit", "double_block", 1)
    positive = masked(texts[0], mask())
    torch.testing.assert_close(prediction(patched, positive), prediction(model, positive), **TOLERANCE)


BOUNDS = {torch.bfloat16: 0.05, torch.float16: 0.01}  # of the condition's own effect, which the authors' bf16 changes


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_half_precision(base, adapter, model, texts, dtype):
    positive, x = masked(texts[0], mask()), noisy()
    half = load(published("flux"), dtype=dtype)
    expected, bare = prediction(model, positive, x=x), prediction(base, texts[0], x=x)
    out = prediction(apply_adapter(half, adapter), positive, x=x)
    error = (out - expected).square().mean().sqrt() / (expected - bare).square().mean().sqrt()
    assert error < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_of_the_base_in_another_type(adapter, texts, dtype):
    """The same as a base whose weights were rounded beforehand."""
    weights, positive = published("flux"), masked(texts[0], mask())
    rounded = load({name: weight.to(dtype).float() for name, weight in weights.items()})
    out = prediction(apply_adapter(load(weights, dtype=dtype), adapter), positive)
    torch.testing.assert_close(out, prediction(apply_adapter(rounded, adapter), positive), **ROUNDING)


def test_a_base_of_quantised_layers(adapter, texts):
    """Such as GGUF's, whose layers have no weight until they are called."""
    weights, positive = dict(published("flux")), masked(texts[0], mask())
    model = apply_adapter(load(weights, custom_operations=QuantisedOps), adapter)
    exact = {name: torch.mul(*quantised(weight)) if weight.ndim == 2 else weight for name, weight in weights.items()}
    torch.testing.assert_close(prediction(model, positive), prediction(apply_adapter(load(exact), adapter), positive),
                               **ROUNDING)


def test_torch_compile_without_guards_on_the_options(model, texts):
    torch._dynamo.reset()
    compiled = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(compiled, "eager", {"guard_filter_fn": skip_torch_compile_dict})
    labels = mask()
    for positive in (texts[0], masked(texts[0], labels), masked(texts[0], labels, 0.5), texts[0]):
        torch.testing.assert_close(prediction(compiled, positive), prediction(model, positive), **ROUNDING)


def test_every_weight_of_the_gate_has_the_type_that_the_host_chose():
    network = Gate(dtype=torch.bfloat16, device="meta", operations=comfy.ops.manual_cast)
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}

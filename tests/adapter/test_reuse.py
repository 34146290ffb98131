"""When the static pass of an adapter runs again and when not, and that no result is ever stale
(docs/design/mditface.md, section 6.1)."""
import gc
import weakref
from functools import cache

import pytest
import torch

import comfy.model_management
import nodes
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_merging import ModelMergeSimple
from mditface.mdit.mditface import prompt
from mditface.mdit.mditface.cache import CAPACITY
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.adapter.bases import (
    SIDE, count_parts, list_key_layers, load, mask, published, run, text, write)
from mditface.tests.mditface import runs
from mditface.tests.mditface.runs import CPU, OFF, TOLERANCE, check_other_entry, masked, with_bypass_lora, with_lora
from mditface.tests.shared.reloading import OTHER, check_copies


@pytest.fixture
def lora(case, monkeypatch):
    """Makes the LoRA helpers' weights ones for the image stream of the case's base."""
    names = [layer for i in range(2) for layer in list_key_layers(case.family, i)]
    lora = runs.lora(*names, width=case.adapter.config.width, parts=count_parts(case.family))
    monkeypatch.setattr(runs, "MASK_LORA", lora)


def fresh(case, texts, model=None, **changes) -> torch.Tensor:
    """The result of a mask that never was in a cache."""
    return run(model or case.model, masked(texts[0], mask()), texts[1], OFF, **changes)[0]


def test_one_pass_for_a_run_and_none_for_the_next(own, texts):
    labels = mask()
    report = run(own.model, masked(texts[0], labels), texts[1], steps=3)[1]
    assert (report.passes, report.hits) == (1, 2)
    config = own.adapter.config
    assert report.bytes == 2 * sum(config.depth) * (SIDE // 16) ** 2 * config.width * 4
    other = text(2, length=7, guidance=1.5)
    for changes in (dict(seed=7), dict(cfg=5.0), dict(cfg=1.0), dict(latent=(3, 16, 8, 8))):
        assert run(own.model, masked(texts[0], labels), texts[1], **changes)[1].passes == 0
        assert run(own.model, masked(other, labels), masked(other, labels), **changes)[1].passes == 0


def test_a_pass_for_each_prompt_where_the_prompt_matters(cases, texts):
    case, labels = cases["easycontrol"], mask()
    both = [masked(text, labels) for text in texts]
    report = run(case.model, *both, steps=3)[1]
    assert (report.passes, report.hits) == (2, 4)
    assert run(case.model, *both, seed=5, cfg=3.0, latent=(1, 16, 12, 8), steps=3)[1].passes == 2  # places move
    assert run(case.model, *both, seed=6, cfg=3.0, latent=(1, 16, 12, 8), steps=3)[1].passes == 0
    same = masked(text(0, length=9), labels)  # the tokens do not matter but the pooled text does
    same[0][1]["pooled_output"] = texts[0][0][1]["pooled_output"]
    assert run(case.model, same, both[1], latent=(1, 16, 12, 8))[1].passes == 0


@pytest.mark.parametrize("changed", [text(3), text(0, guidance=1.5)], ids=["prompt", "guidance"])
def test_a_changed_prompt_is_never_stale(case, texts, changed):
    labels = mask()
    run(case.model, masked(texts[0], labels), texts[1])
    out, report = run(case.model, masked(changed, labels), texts[1])
    assert report.passes == case.prompted
    torch.testing.assert_close(out, fresh(case, (changed, texts[1])), **TOLERANCE)
    again, report = run(case.model, masked(texts[0], labels), texts[1])
    assert report.passes == 0
    torch.testing.assert_close(again, fresh(case, texts), **TOLERANCE)


def test_a_run_reads_the_prompt_of_each_condition_once(cases, texts, monkeypatch):
    """Reading it makes the device wait."""
    read = []
    monkeypatch.setattr(prompt, "read_part", lambda x, original=prompt.read_part: read.append(x) or original(x))
    labels = mask()
    _, report = run(cases["easycontrol"].model, masked(texts[0], labels), texts[1], steps=5)
    assert (report.passes, report.hits) == (1, 4)
    assert len(read) == 2 * 2  # pooled text and guidance of both conditions


def replaced_y(args: dict) -> dict:
    return {**args["c"], "y": -args["c"]["y"]}


def changed_y(args: dict) -> dict:
    args["c"]["y"].neg_()
    return args["c"]


@pytest.mark.parametrize("change", [replaced_y, changed_y])
@pytest.mark.parametrize("call", [0, 2])
def test_a_prompt_that_another_node_changes_inside_a_run_is_seen(cases, texts, change, call):
    def wrapped(options) -> tuple:
        calls = []

        def wrapper(apply_model, args: dict) -> torch.Tensor:
            calls.append(args)
            conds = change(args) if len(calls) > call else args["c"]
            return apply_model(args["input"], args["timestep"], **conds)
        model = cases["easycontrol"].model
        model.set_model_unet_function_wrapper(wrapper)
        return run(model, masked(texts[0], mask()), texts[1], options, steps=4)
    out, report = wrapped(CacheOptions())
    assert report.passes == (2 if call else 1)
    torch.testing.assert_close(out, wrapped(OFF)[0], **TOLERANCE)
    plain = run(cases["easycontrol"].model, masked(texts[0], mask()), texts[1], steps=4)[0]
    assert not torch.allclose(out, plain, atol=1e-4)


def test_a_condition_that_changes_inside_a_run_is_seen(cases, texts):
    """Its tensor is changed in place, or another takes its place, between two steps."""
    def wrapped(options, change) -> torch.Tensor:
        def wrapper(executor, model, conds, *args):
            steps.append(None)
            if len(steps) == 3:
                change(conds[0][0]["model_conds"]["y"])
            return executor(model, conds, *args)
        steps = []
        model = cases["easycontrol"].model
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", wrapper)
        return run(model, masked(texts[0], mask()), texts[1], options, steps=4)[0]

    def replace(cond):
        cond.cond = -cond.cond
    for change in (lambda cond: cond.cond.neg_(), replace):
        out = wrapped(CacheOptions(), change)
        torch.testing.assert_close(out, wrapped(OFF, change), **TOLERANCE)


def test_a_run_with_more_prompts_than_capacity_does_not_thrash(cases, texts):
    case, labels = cases["easycontrol"], mask()
    assert CAPACITY == 2
    positive = masked(texts[0], labels) + masked(text(2), labels)
    out, report = run(case.model, positive, masked(texts[1], labels), steps=4)
    assert (report.passes, report.hits) == (3, 9)
    torch.testing.assert_close(out, run(case.model, positive, masked(texts[1], labels), OFF, steps=4)[0], **TOLERANCE)


def test_sizes_and_an_upscale_pass(case, texts):
    positive = masked(texts[0], mask())
    small, _ = run(case.model, positive, texts[1])
    large = torch.nn.functional.interpolate(small, (12, 10))
    for latent, passes in ((large, 1), ((1, 16, 8, 8), 0), (large, 0)):
        out, report = run(case.model, positive, texts[1], latent=latent)
        assert report.passes == passes
        torch.testing.assert_close(out, fresh(case, texts, latent=latent), **TOLERANCE)
    refined = [nodes.common_ksampler(case.model, 1, 4, 2.0, "euler", "simple", masked(texts[0], labels), texts[1],
                                     {"samples": large}, denoise=0.5)[0]["samples"]
               for labels in (positive[0][1][runs.CONDITIONING_KEY].mask, mask())]
    torch.testing.assert_close(*refined, **TOLERANCE)


def each_step(model, function):
    """A clone of the model that calls the function before each step."""
    def wrapper(executor, *args, **kwargs):
        function()
        return executor(*args, **kwargs)
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "each step", wrapper)
    return model


def test_eviction_in_mid_run(case, texts):
    labels = mask()
    model = each_step(case.model, labels.store.get_cache(CPU).entries.clear)
    out, report = run(model, masked(texts[0], labels), texts[1], steps=3)
    assert (report.passes, report.hits) == (3, 0)
    torch.testing.assert_close(out, fresh(case, texts, steps=3), **TOLERANCE)


def test_unloading_in_mid_run(case, texts):
    labels, model = mask(), case.model
    holder = labels.store.get_patcher(model.load_device, model.offload_device)
    out, report = run(each_step(model, lambda: holder.detach(True)), masked(texts[0], labels), texts[1], steps=3)
    assert (report.passes, report.hits) == (1, 2)
    torch.testing.assert_close(out, fresh(case, texts, steps=3), **TOLERANCE)


def test_reloading(case, texts):
    positive = masked(texts[0], mask())
    run(case.model, positive, texts[1])
    comfy.model_management.unload_all_models()
    out, report = run(case.model, positive, texts[1])
    assert report.passes == 0
    torch.testing.assert_close(out, fresh(case, texts), **TOLERANCE)


def test_the_host_lists_adapter_and_cache_beside_the_model(case, texts):
    comfy.model_management.unload_all_models()
    labels = mask()
    run(case.model, masked(texts[0], labels), texts[1])
    listed = {id(m.model.model): m for m in comfy.model_management.current_loaded_models}
    for module, size in ((case.adapter.terms, sum(w.nbytes for w in case.weights.values())),
                         (labels.store.get_cache(CPU), labels.store.get_cache(CPU).nbytes)):
        assert listed[id(module)].model_memory() == size > 0


@cache
def another(family: str):
    return load(published(family, seed=9), family)


STATES = {
    "lora": lambda case: with_lora(case.model, 0.5),
    "lora, other strength": lambda case: with_lora(case.model, 0.9),
    "lora before the adapter": lambda case: case.apply(with_lora(case.base, 0.5)),
    "injected lora": lambda case: with_bypass_lora(case.model, 0.5),
    "adapter weight": lambda case: case.apply(case.base, 0.4),
    "model merge": lambda case: ModelMergeSimple().merge(case.model, another(case.family), 0.5)[0],
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_another_model_state_is_another_entry(case, texts, lora, change):
    changed = change(case)
    check_other_entry(run, case.model, changed, masked(texts[0], mask()), texts[1], fresh(case, texts, changed), 1e-2)


def test_clones_with_other_patches_do_not_mix(case, texts, lora):
    positive, first = masked(texts[0], mask()), case.model
    second = with_lora(first.clone(), 0.7)
    expected = [fresh(case, texts, model) for model in (first, second)]
    for _ in range(2):
        for model, result in zip((first, second), expected):
            torch.testing.assert_close(run(model, positive, texts[1])[0], result, **TOLERANCE)


def test_hooks_with_keyframes_get_an_entry_for_each_strength(case, texts, lora):
    def positive():
        return runs.hooked(masked(texts[0], mask()), 1.0, {0.0: 1.0, 0.5: 0.2})
    plain, _ = run(case.model, masked(texts[0], mask()), texts[1], steps=4)
    out, report = run(case.model, positive(), texts[1], steps=4)
    assert (report.passes, report.hits) == (2, 2)
    torch.testing.assert_close(out, run(case.model, positive(), texts[1], OFF, steps=4)[0], **TOLERANCE)
    assert not torch.allclose(out, plain, atol=1e-2)
    torch.testing.assert_close(run(case.model, masked(texts[0], mask()), texts[1], steps=4)[0], plain, **TOLERANCE)


def test_an_adapter_is_freed_without_the_garbage_collector(case, texts, tmp_path):
    """After a run, too, in which the host loaded it."""
    config = None if case.prompted else case.adapter.config
    gc.disable()
    try:
        adapter = write(tmp_path / "again.safetensors", case.weights, config)
        model = case._replace(adapter=adapter).model
        run(model, masked(texts[0], mask()), texts[1])
        parts = [weakref.ref(part) for part in (adapter, adapter.patcher, adapter.terms)]
        del adapter, model
        assert [part() for part in parts] == [None, None, None]
    finally:
        gc.enable()


def test_the_host_can_load_an_adapter_again(own):
    check_copies(own.adapter)


def test_two_devices_read_copies_of_the_adapter(case, texts):
    """The host's multi-GPU: each half of guidance on a device of its own."""
    labels, model = mask(), case.model.clone()
    twin = model.clone(model_override=case.load(published(case.family)).get_clone_model_override())
    twin.load_device, twin.is_multigpu_base_clone = OTHER, True
    model.set_additional_models("multigpu", [twin])
    out, report = run(model, masked(texts[0], labels), masked(texts[1], labels))
    expected, _ = run(case.model, masked(texts[0], mask()), masked(texts[1], mask()))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)  # the halves of a batch are calls of their own
    assert [len(labels.store.get_cache(device).entries) for device in (CPU, OTHER)] == [report.passes / 2] * 2
    copy = case.adapter.copies.others[OTHER]
    assert copy.model is not case.adapter.terms and copy in comfy.model_management.loaded_models()
    torch.testing.assert_close(copy.model.state_dict(), case.adapter.terms.state_dict())

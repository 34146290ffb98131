"""The key of a cache entry (docs/design/mditface.md, section 6.1): each part of it tells entries apart, none of them
keeps a model alive."""
import functools
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from mditface.mdit.mditface import host
from mditface.mdit.mditface.cache import RunReport, StaticMaskCache, StaticStore
from mditface.mdit.mditface.keys import Identity, identify
from mditface.mdit.mditface.mask import BoundExemplar, BoundMask
from mditface.mdit.mditface.prompt import read_prompt
from mditface.mdit.mditface.reader import OPTIONS_KEY, CacheOptions, MaskReader
from mditface.mdit.mditface.tokens import MaskTokens
from mditface.mdit.shared.masks import REPORT_KEY
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import CPU, masked, reservations, run, with_bypass_lora
from mditface.tests.mditface.test_exemplar import READING, exemplified

TOKENS = MaskTokens(torch.zeros(1, 16, 3), (4, 4), torch.arange(4.0), torch.arange(4.0), (4, 4),
                    torch.zeros(1, 16, dtype=torch.int16))
OTHER_TOKENS = {
    "content": dict(tokens=torch.ones(1, 16, 3)),
    "shape of the tokens": dict(tokens=torch.zeros(1, 3, 16)),
    "type of the tokens": dict(tokens=torch.zeros(1, 16, 3, dtype=torch.int32)),
    "grid": dict(grid=(2, 8)),
    "rows": dict(rows=torch.arange(4.0) + 1),
    "columns": dict(cols=torch.arange(4.0) + 1),
    "extent": dict(extent=(8, 4)),
    "classes": dict(classes=torch.ones(1, 16, dtype=torch.int16)),
}


@pytest.mark.parametrize("change", OTHER_TOKENS.values(), ids=OTHER_TOKENS.keys())
def test_each_part_of_the_tokens_enters_the_digest(change):
    assert TOKENS._replace(**change).digest() != TOKENS.digest()
    assert TOKENS._replace(tokens=TOKENS.tokens.clone()).digest() == TOKENS.digest()


class OnesReader(MaskReader):
    """Makes two tokens of ones, whatever it is asked."""

    def run_static_path(self, model, tokens, device, dtype, prompt, transformer_options):
        yield torch.ones(1, 1, 16, 4, device=device), torch.ones(1, 1, 16, 4, device=device)

    def run_exemplar_path(self, model, tokens):
        ones = torch.ones(1, 16, 4)
        return (ones.long(), ones), iter([(ones[:, None], ones[:, None])])

    def compute_rotation(self, model, device, transformer_options, positions):
        return None


class Thing:
    pass


HOOK, OTHER_HOOK, INJECTION, PATCH, OTHER = (Thing() for _ in range(5))
BASE = dict(tokens=TOKENS, uuid=1, identity=("adapter", 1.0), hook=HOOK, strength=1.0, injection=INJECTION, patch=PATCH,
            mode="auto", dtype=torch.float32, device=torch.device("cpu"), reduction="off", rope={"scale_x": 1.0},
            prompt=b"prompt", extra={}, patch_name="diffusion_model.a", injection_name="bypass", injected=[])
CHANGES = {
    "tokens": dict(tokens=TOKENS._replace(rows=TOKENS.rows + 1)),
    "weights": dict(uuid=2),
    "identity of the reader": dict(identity=("adapter", 0.5)),
    "hook": dict(hook=OTHER_HOOK),
    "strength of a hook": dict(strength=0.5),
    "injection": dict(injection=OTHER),
    "another injection of the same name": dict(injected=[OTHER]),
    "name of an injection": dict(injection_name="other"),
    "object patch": dict(patch=OTHER),
    "place of an object patch": dict(patch_name="diffusion_model.b"),
    "another object patch": dict(extra={"diffusion_model.b": OTHER}),
    "mode": dict(mode="8-bit"),
    "computation type": dict(dtype=torch.bfloat16),
    "device": dict(device=torch.device("meta")),
    "reduction": dict(reduction="merge"),
    "rotary options": dict(rope={"scale_x": 2.0}),
    "prompt": dict(prompt=b"another"),
}


def passes(store: StaticStore, **changes) -> int:
    """The static passes of one call, in a model and with options that BASE and the changes describe."""
    found = SimpleNamespace(**{**BASE, **changes})
    hooks = SimpleNamespace(hooks=[SimpleNamespace(hook_ref=found.hook, strength=found.strength)])
    patcher = SimpleNamespace(load_device=CPU, patches_uuid=found.uuid, current_hooks=hooks,
                              injections={found.injection_name: [found.injection, *found.injected]},
                              object_patches={found.patch_name: found.patch, **found.extra})
    model = SimpleNamespace(current_patcher=patcher, get_dtype_inference=lambda: found.dtype)
    mask = SimpleNamespace(store=store, get_tokens=lambda area: (found.tokens, found.tokens.digest()),
                           reference=SimpleNamespace(mask=SimpleNamespace(reduction=found.reduction)))
    reader, report = OnesReader(), RunReport()
    reader.identity = found.identity
    options = {OPTIONS_KEY: CacheOptions(found.mode), REPORT_KEY: report, "rope_options": found.rope}
    with torch.no_grad():
        reader.find_entry(model, mask, None, None, found.prompt, found.device, options)
    return report.passes


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_each_part_of_the_key_makes_another_entry(change):
    store = StaticStore()
    assert [passes(store), passes(store, **change), passes(store), passes(store, **change)] == [1, 1, 0, 0]


def exemplar_passes(store: StaticStore, digest=b"exemplar", device=CPU) -> int:
    """The static passes of one call that reads an exemplar."""
    patcher = SimpleNamespace(load_device=CPU, patches_uuid=1, current_hooks=None, injections={}, object_patches={})
    model = SimpleNamespace(current_patcher=patcher, get_dtype_inference=lambda: torch.float32)
    tokens = SimpleNamespace(to=lambda device, dtype: None)
    exemplar = SimpleNamespace(store=store, get_tokens=lambda area: (tokens, digest))
    mask = SimpleNamespace(exemplar=exemplar, reference=SimpleNamespace(exemplar_strength=1.0))
    report = RunReport()
    with torch.no_grad():
        OnesReader().find_exemplar_keys(model, mask, None, device, {REPORT_KEY: report})
    return report.passes


@pytest.mark.parametrize("change", [dict(digest=b"another"), dict(device=torch.device("meta"))], ids=str)
def test_each_part_of_an_exemplars_key_makes_another_entry(change):
    store = StaticStore()
    found = [exemplar_passes(store), exemplar_passes(store, **change)]
    assert found + [exemplar_passes(store), exemplar_passes(store, **change)] == [1, 1, 0, 0]


PROMPT = dict(y=torch.arange(8.0).view(2, 4))
OTHER_PROMPTS = {
    "content": dict(y=torch.arange(8.0).view(2, 4) + 1),
    "rows": dict(y=torch.arange(8.0).view(4, 2)),
    "type": dict(y=torch.arange(8.0).view(2, 4).view(torch.int32)),
    "name": dict(guidance=torch.arange(8.0).view(2, 4)),
}


@pytest.mark.parametrize("change", OTHER_PROMPTS.values(), ids=OTHER_PROMPTS.keys())
def test_each_part_of_a_prompt_enters_its_digest(change):
    def digest(conds):
        return read_prompt(conds, ("y", "guidance"), 0, slice(0, 4))[1]
    assert digest(PROMPT) == digest({"y": PROMPT["y"].clone()}) != digest(change)


def test_what_does_not_change_keys_and_values_is_not_in_the_key():
    store = StaticStore()
    passes(store, rope={"scale_x": 1.0, "scale_y": 2.0})
    assert passes(store, rope={"scale_y": 2.0, "scale_x": 1.0}) == 0
    passes(store)
    assert passes(store, extra={"model_sampling": OTHER}) == 0


@pytest.fixture(scope="module")
def exemplar_model(tmp_path_factory):
    return host.load_mdit(tiny.write(tmp_path_factory.mktemp("model") / "reading.safetensors", tiny.config(**READING)))


EXEMPLARS = {
    "the target's map": dict(mask=1), "region": dict(area=(8, 8, 8, 0)), "the exemplar's map": dict(labels=1),
    "the exemplar's image": dict(images=1),
}


@pytest.mark.parametrize("change", EXEMPLARS.values(), ids=EXEMPLARS.keys())
def test_each_part_of_an_exemplar_enters_its_digest(exemplar_model, change):
    def digest(mask=0, area=(8, 8, 0, 0), labels=0, images=0):
        target = tiny.mask()
        target.labels.fill_(mask)  # flat, so that all regions have the same tokens
        exemplar = tiny.exemplar(seed=images)
        exemplar.labels = tiny.labels(seed=7 + labels)
        model = exemplar_model.model.model
        reference = exemplified([["", {}]], target, exemplar)[0][1]["mdit_mask"]
        bound = BoundMask(reference, torch.Size((1, 3, 16, 16)), model, model.diffusion_model.config.mask_layout)
        assert isinstance(bound.exemplar, BoundExemplar)
        return bound.exemplar.get_tokens(area)[1]
    assert digest() == digest()
    assert digest(**change) != digest()


class Slotted:
    __slots__ = ()


def test_the_same_object_has_the_same_identity():
    thing, twin = Thing(), Thing()
    assert identify(thing) == identify(thing) and hash(identify(thing)) == hash(identify(thing))
    assert identify(thing) != identify(twin)
    assert identify(tiny.write) == identify(tiny.write)
    weight = torch.ones(2)
    assert identify(weight) == identify(weight) and identify(weight) != identify(torch.ones(2))
    bound = functools.partial(Identity, thing)
    assert identify(bound) == identify(bound)


def test_plain_values_are_told_apart_by_value_and_kind():
    assert identify(1.5) == identify(1.5) and identify(torch.float16) == identify(torch.float16)
    assert len({identify(x) for x in (1, 2, 1.0, True, "1", b"1", None)}) == 7


def test_methods_of_one_object_stay_the_same():
    """Each access makes a new method object, which dies at once."""
    exemplar, other = tiny.exemplar(), tiny.exemplar()
    assert identify(exemplar.encode_images) == identify(exemplar.encode_images)
    assert identify(exemplar.encode_images) != identify(other.encode_images)
    assert identify(exemplar.encode_images) != identify(exemplar.encode)


def test_what_allows_no_weak_reference_is_never_found_again():
    thing = Slotted()
    assert identify(thing) != identify(thing)


def test_a_new_object_at_the_same_address_is_another():
    addresses = 0
    for _ in range(100):
        thing = Thing()
        address, first = id(thing), identify(thing)
        del thing
        thing = Thing()
        if id(thing) == address:
            addresses += 1
            assert hash(identify(thing)) == hash(first)
            assert identify(thing) != first and first != identify(thing) and first == first
            assert identify(thing) not in {first: 1}
    assert addresses > 0


def test_a_new_patch_at_the_address_of_a_dead_one_takes_a_pass():
    store, addresses = StaticStore(), 0
    for _ in range(100):
        patch = Thing()
        address = id(patch)
        passes(store, patch=patch)
        del patch
        patch = Thing()
        addresses += id(patch) == address
        assert passes(store, patch=patch) == 1
    assert addresses > 0


def with_object(model):
    model = model.clone()
    patch = torch.nn.Linear(32, 96).requires_grad_(False)
    model.add_object_patch("diffusion_model.blocks.0.msk.qkv", patch)
    return model


@pytest.mark.parametrize("change", [with_object, lambda model: with_bypass_lora(model, 0.5)], ids=["patch", "bypass"])
def test_an_entry_does_not_keep_its_model_alive(tmp_path, texts, change):
    model = change(host.load_mdit(tiny.write(tmp_path / "dead.safetensors")).model)
    mask = tiny.mask()
    run(model, masked(texts[0], mask), texts[1])
    parts = [model.model, model.model.diffusion_model, *model.object_patches.values()]
    for injected in model.injections.values():
        parts += [*injected, *(cell.cell_contents for cell in injected[0].inject.__closure__ or ())]
    dead = [weakref.ref(part) for part in parts]
    del model, parts
    injected = None
    gc.collect()
    assert [reference() for reference in dead] == [None] * len(dead)
    assert len(mask.store.get_cache(CPU).entries) == 1


def test_reservations_leave_nothing_behind():
    cache = StaticMaskCache()
    cache.entries["key"] = SimpleNamespace()
    with reservations() as found, cache.reserve(3, 100, ["key"]):
        assert (cache.needed, cache.planned, cache.wanted) == (3, 100, {"key"})
    assert (cache.needed, cache.planned, cache.wanted, found) == (0, 0, set(), [(3, 100)])

"""Sampling with masks on a pretended card, in every cache mode and type, on one card and on two."""
import pytest
import torch

import comfy.model_management
from mditface.mdit.mditface import host
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.adapter import bases
from mditface.tests.devices.host import pretend_cards
from mditface.tests.mditface import runs, tiny

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

MODES = {
    "auto": CacheOptions("auto"), "off": CacheOptions("off"), "8-bit": CacheOptions("8-bit"),
    "offload": CacheOptions("auto", True), "8-bit offload": CacheOptions("8-bit", True)}
TYPES = {torch.float32: 2e-5, torch.bfloat16: 0.1, torch.float16: 0.02}
PAIRS = [(mode, torch.float32) for mode in MODES] + [
    (mode, dtype) for mode in ("auto", "8-bit offload") for dtype in (torch.bfloat16, torch.float16)]
SIDES = (16, 20, 24)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("cache") / "tiny.safetensors")


def load(file, dtype=torch.float32):
    """A model, and a positive and a negative text of it; the positive has a mask with flat regions."""
    loaded = host.load_mdit(file, dtype)
    positive = tiny.conditioning(loaded.clip, "young woman", tiny.mask(reduction="merge"), 0.7)
    return loaded.model, positive, tiny.conditioning(loaded.clip, "")


@pytest.fixture(scope="module")
def expected(file):
    return [runs.run(*load(file), CacheOptions("off"), latent=(1, 3, side, side))[0] for side in SIDES]


def check(found, expected, mode: str, dtype=torch.float32):
    tolerance = max(TYPES[dtype], 0.05 if "8-bit" in mode else 0)
    torch.testing.assert_close(found.cpu().float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode, dtype", PAIRS)
def test_fill_hit_spill_and_evict(file, expected, mode, dtype):
    with pretend_cards(streams=1):
        model, *texts = load(file, dtype)
        out, report = runs.run(model, *texts, MODES[mode])
        check(out, expected[0], mode, dtype)
        if mode == "off":
            return
        again, report = runs.run(model, *texts, MODES[mode])
        assert (report.passes, torch.equal(again.cpu(), out.cpu())) == (0, True)
        store = runs.references(texts[0])[0].mask.store
        comfy.model_management.unload_all_models()
        assert {entry.stored_on.type for entry in store.list_entries()} == {"cpu"}
        spilled, report = runs.run(model, *texts, MODES[mode])
        assert (report.passes, torch.equal(spilled.cpu(), out.cpu())) == (0, True)
        if dtype != torch.float32:
            return
        for side, wanted in zip(SIDES, expected):
            check(runs.run(model, *texts, MODES[mode], latent=(1, 3, side, side))[0], wanted, mode, dtype)
        assert len(store.list_entries()) == 2


def test_two_cards_have_entries_of_their_own(file, expected):
    with pretend_cards(cards=2):
        model, *texts = load(file)
        second = model.deepclone_multigpu(new_load_device=torch.device("cuda:1"))
        for one in (model, second, model, second):
            check(runs.run(one, *texts)[0], expected[0], "auto")
        store = runs.references(texts[0])[0].mask.store
        assert {str(entry.device) for entry in store.list_entries()} == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("dtype, capability, tolerance", [
    (torch.float16, (7, 5), 0.1), (torch.bfloat16, (7, 5), 0.4), (torch.bfloat16, (9, 0), 0.4)])
def test_adapters_in_half_precision(tmp_path, family, dtype, capability, tolerance):
    """Steps amplify the rounding of random weights."""
    texts = [bases.text(seed) for seed in range(2)]
    plain = bases.case(family, bases.load(bases.published(family)), tmp_path).model
    expected, _ = bases.run(plain, runs.masked(texts[0], bases.mask(), 0.7), texts[1])
    with pretend_cards(capability, streams=1):
        model = bases.case(family, bases.load(bases.published(family), dtype=dtype), tmp_path).model
        found, _ = bases.run(model, runs.masked(texts[0], bases.mask(reduction="merge"), 0.7), texts[1])
    error = (found.cpu().float() - expected).norm() / expected.norm()
    assert error < tolerance

"""What the host does around a run, for each model: memory, hooks, wrappers, ControlNets, LoRAs, cancelling."""
import gc
import weakref

import pytest
import torch

import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.sd
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from mditface.mdit.face_diffuser.saliency import Prior
from mditface.mdit.face_diffuser.stages import Borders
from mditface.tests.face_diffuser.tiny import TEXTS, fusion, model, plain, run

FUSED = Borders(0, 1)
KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
LOADS = pytest.mark.parametrize("room", [2.5, 1.6, 1.1])


def lora(seed: int = 0) -> dict[str, torch.Tensor]:
    """A strong LoRA on one layer, under names that the host knows."""
    weight = model().model.state_dict()[KEY]
    generator = torch.Generator().manual_seed(seed)
    name = KEY.removesuffix(".weight")
    return {f"{name}.lora_up.weight": torch.randn(weight.shape[0], 2, generator=generator),
            f"{name}.lora_down.weight": torch.randn(2, weight.shape[1], generator=generator)}


def with_lora(patcher, seed: int = 0):
    return comfy.sd.load_lora_for_models(patcher, None, lora(seed), 1.0, 0.0)[0]


def own(seed: int):
    """A MODEL with weights of its own."""
    return model.__wrapped__(seed=seed)


def hooked(conditioning: list, seed: int = 0) -> list:
    hooks = comfy.hooks.create_hook_lora(lora(seed), 1.0, 0.0)
    return [[text, {**extra, "hooks": hooks}] for text, extra in conditioning]


@pytest.fixture(scope="module")
def expected():
    """Runs with LoRAs patched into models of their own: none, on the scene, on the subject."""
    return {"none": run(fusion(own(0), own(1), borders=FUSED)),
            "scene": run(fusion(with_lora(own(0)), own(1), borders=FUSED)),
            "subject": run(fusion(own(0), with_lora(own(1)), borders=FUSED))}


def test_loras_work_on_either_side(expected):
    assert len({out.sum().item() for out in expected.values()}) == 3


@pytest.mark.parametrize("side", ["scene", "subject"])
def test_a_lora_as_a_hook(expected, side):
    texts = [hooked(text) if (i < 2) == (side == "scene") else text for i, text in enumerate(TEXTS)]
    guider = fusion(model(), model(seed=1), texts=texts, borders=FUSED)
    for _ in range(2):
        torch.testing.assert_close(run(guider), expected[side], rtol=1e-4, atol=1e-4)
    bare = run(fusion(model(), model(seed=1), borders=FUSED))
    torch.testing.assert_close(bare, expected["none"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("borders", [FUSED, Borders(0.5, 0.5)])
@pytest.mark.parametrize("side", ["scene", "subject"])
def test_a_hook_on_one_side_of_a_shared_model(side, borders):
    """The other model runs without it, although the weights are the same."""
    texts = [hooked(text) if (i < 2) == (side == "scene") else text for i, text in enumerate(TEXTS)]
    scene, subject = own(0), own(0)
    scene, subject = (with_lora(scene), subject) if side == "scene" else (scene, with_lora(subject))
    apart = run(fusion(scene, subject, borders=borders))
    shared = run(fusion(model(), model(), texts=texts, borders=borders))
    torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-4)


def test_wrappers_of_the_subject_are_called():
    counts = {}

    def counting(name):
        def wrapper(executor, *args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return executor(*args, **kwargs)
        return wrapper
    kinds = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.SAMPLER_SAMPLE,
             WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)
    sides = model().clone(), model(seed=1).clone()
    for side, patcher in zip(("scene", "subject"), sides):
        for kind in kinds:
            patcher.add_wrapper_with_key(kind, "test", counting((side, kind)))
    expected = run(fusion(model(), model(seed=1), borders=Borders(0.25, 0.5)))
    assert torch.equal(run(fusion(*sides, borders=Borders(0.25, 0.5))), expected)
    assert {side for side, kind in counts if kind in kinds[:3]} == {"scene", "subject"}
    assert counts["scene", WrappersMP.CALC_COND_BATCH] == 3 and counts["subject", WrappersMP.CALC_COND_BATCH] == 2


HOSTS_OWN = {
    "CFGOverride": lambda patcher: CFGOverride.execute(patcher, 1.5, 0.0, 1.0).result[0],
    "LazyCache": lambda patcher: LazyCacheNode.execute(patcher, 3.0, 0.0, 1.0, False).result[0],
    "EasyCache": lambda patcher: EasyCacheNode.execute(patcher, 3.0, 0.0, 1.0, False).result[0],
    "DifferentialDiffusion": lambda patcher: DifferentialDiffusion.execute(patcher).result[0],
}


@pytest.mark.parametrize("node", HOSTS_OWN)
def test_nodes_of_the_host_that_change_a_model(node):
    """Each works alone as without fusion, leaves the other model's stage unchanged, and takes effect in fused steps."""
    change, masked = HOSTS_OWN[node], dict(steps=6, denoise_mask=torch.linspace(0, 1, 64).reshape(1, 8, 8))
    for side, borders, texts, scale in ((0, Borders(1, 1), TEXTS[:2], 3.0), (1, Borders(0, 0), TEXTS[2:], 2.0)):
        sides = [model(), model(seed=1)]
        bare = run(fusion(*sides, borders=borders), **masked)
        sides[side] = change(sides[side])
        changed = run(plain(sides[side], *texts, scale), **masked)
        assert not torch.equal(changed, bare)
        assert torch.equal(run(fusion(*sides, borders=borders), **masked), changed)
        fused = run(fusion(*sides, borders=FUSED), **masked)
        assert not torch.equal(fused, run(fusion(model(), model(seed=1), borders=FUSED), **masked))
        if node != "DifferentialDiffusion":  # belongs to the run, not to a model
            other = Borders(0, 0) if side == 0 else Borders(1, 1)
            expected = run(fusion(model(), model(seed=1), borders=other), **masked)
            assert torch.equal(run(fusion(*sides, borders=other), **masked), expected)


def test_an_overridden_scale_weighs_the_saliency():
    scene, subject = (HOSTS_OWN["CFGOverride"](model(seed=seed)) for seed in (0, 1))
    expected = run(fusion(model(), model(seed=1), borders=FUSED, scales=(1.5, 1.5)))
    assert torch.equal(run(fusion(scene, subject, borders=FUSED)), expected)


def test_both_sides_get_each_pictures_noise_mask():
    masks, seen = torch.rand(2, 8, 8).round(), []

    def look(executor, guider, sigmas, extra_args, callback, noise, latent, mask, pbar):
        seen.append(mask)
        return executor(guider, sigmas, extra_args, callback, noise, latent, mask, pbar)
    sides = model().clone(), model(seed=1).clone()
    for patcher in sides:
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "test", look)
    run(fusion(*sides), shape=(2, 8, 8), denoise_mask=masks)
    assert torch.equal(*seen) and torch.equal(seen[0][:, 0], masks)


class Control(comfy.controlnet.ControlBase):
    """Adds a constant to the middle block, and needs a model to be loaded."""

    def __init__(self, patcher=None, log=None):
        super().__init__()
        self.patcher, self.log = patcher, [] if log is None else log

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.log.append("used")
        return {"middle": [torch.full((1, 1, 1, 1), 3.0)]}

    def get_models(self):
        return [self.patcher]

    def inference_memory_requirements(self, dtype):
        return 10 ** 9

    def copy(self):
        return Control(self.patcher, self.log)

    def cleanup(self):
        self.log.append("cleaned")


@pytest.mark.parametrize("side", [0, 2])
def test_a_controlnet_on_either_side(side, loads, expected):
    control = Control(own(5))
    texts = list(TEXTS)
    texts[side] = [[text, {**extra, "control": control}] for text, extra in TEXTS[side]]
    guider = fusion(model(), model(seed=1), texts=texts, borders=FUSED)
    assert not torch.equal(run(guider), expected["none"])
    assert control.log.count("used") == 4 and control.log[-1] == "cleaned"
    assert all(control.patcher in models for models, _ in loads)
    assert min(memory for _, memory in loads) >= 10 ** 9 * 0.99


@pytest.fixture
def loads(monkeypatch):
    """(models, memory) of each load call."""
    calls, load = [], comfy.model_management.load_models_gpu

    def spy(models, memory_required=0, **kwargs):
        calls.append((list(models), memory_required))
        return load(models, memory_required=memory_required, **kwargs)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    return calls


def test_both_models_are_in_every_load(loads):
    guider = fusion(model(), model(seed=1))
    run(guider)
    for models, _ in loads:
        assert {guider.model_patcher, guider.subject.model_patcher} <= set(models)
    assert loads


@pytest.fixture
def card(monkeypatch):
    """Makes the host treat the CPU as a card with a few bytes of memory, some of which loaded weights take."""
    management = comfy.model_management
    device = torch.device("cpu", 0)

    def make(memory, models):
        def free(dev=None, torch_free_too=False):
            left = memory - sum(patcher.loaded_size() for patcher in models)
            return (left, 0) if torch_free_too else left
        management.unload_all_models()
        for name, value in (("get_free_memory", free), ("is_device_cpu", lambda device: False),
                            ("vram_state", management.VRAMState.NORMAL_VRAM), ("lowvram_available", True),
                            ("minimum_inference_memory", lambda: 1000), ("extra_reserved_memory", lambda: 0)):
            monkeypatch.setattr(management, name, value)
        monkeypatch.setattr("comfy.sampler_helpers.estimate_memory", lambda *args: (1000, 1000))
        return device
    yield make
    monkeypatch.undo()
    management.unload_all_models()


@LOADS
def test_a_tight_card_keeps_both_usable(room, card):
    """At each call, each model is on the card or casts the weights that are not."""
    sides, left = [own(0), own(1)], torch.zeros(1, 8, 8)
    left[..., :4] = 1
    halves = dict(borders=FUSED, prior=Prior(left, bias=20.0))  # no decision that rounding could change
    expected = run(fusion(*sides, **halves))
    size = sides[0].model_size()
    device = card(room * size, sides)
    states = []

    def look(executor, *args, **kwargs):
        patcher = executor.class_obj.current_patcher
        layers = [m for m in patcher.model.modules() if hasattr(m, "comfy_cast_weights")]
        outside = [m for m in layers if not m.comfy_cast_weights and not getattr(m, "comfy_patched_weights", False)]
        states.append((patcher.model.device == device, len(outside), patcher.loaded_size() / size))
        return executor(*args, **kwargs)
    for side in sides:
        side.load_device = device
        side.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", look)
    torch.testing.assert_close(run(fusion(*sides, **halves)), expected, rtol=1e-4, atol=1e-4)
    assert all(on_card and not outside for on_card, outside, _ in states), states
    shares = sorted({share for *_, share in states})
    assert sum(shares if len(shares) > 1 else shares * 2) <= room + 0.1
    assert room < 2 or shares == [1.0]


@pytest.mark.parametrize("step", [0, 2, 3])
def test_cancelling_leaves_nothing_behind(step):
    guider = fusion(model(), model(seed=1), borders=Borders(0.25, 0.5))
    expected = run(guider)

    def cancel(i, *args):
        if i == step:
            raise comfy.model_management.InterruptProcessingException()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(guider, callback=cancel)
    for patcher in (guider.model_patcher, guider.subject.model_patcher):
        assert not patcher.get_additional_models() and not patcher.get_all_wrappers(WrappersMP.PREPARE_SAMPLING)
        assert patcher.model.current_patcher is None
    assert torch.equal(run(guider), expected)


def test_maps_leave_the_device_of_a_run(monkeypatch):
    guider = fusion(model(), model(seed=1), borders=FUSED)
    monkeypatch.setattr(comfy.model_management, "intermediate_device", lambda: torch.device("meta"))
    run(guider)
    assert {part.device.type for contest in guider.record.fused_steps.values() for part in contest} == {"meta"}


def test_models_go_with_their_guider():
    """At once, not at Python's next search for cycles: the host could not free them until then."""
    scene, subject = own(0), own(1)
    guider = fusion(scene, subject)
    run(guider)
    models = [weakref.ref(scene.model), weakref.ref(subject.model)]
    gc.disable()
    del scene, subject, guider
    alive = [model() is not None for model in models]
    gc.enable()
    assert alive == [False, False]


def test_the_models_given_stay_as_they_were():
    scene, subject = model().clone(), model(seed=1).clone()
    run(fusion(scene, subject, texts=[hooked(TEXTS[0]), TEXTS[1], hooked(TEXTS[2]), TEXTS[3]]))
    for patcher, original in ((scene, model()), (subject, model(seed=1))):
        assert patcher.patches_uuid == original.patches_uuid and not patcher.hook_patches
        assert patcher.model_options == original.model_options and not patcher.additional_models


def test_copies_on_other_cards_are_left_out(loads):
    """The host would treat all copies as the scene's."""
    scene, subject = model().clone(), model(seed=1).clone()
    for patcher in (scene, subject):
        copy = own(9)
        copy.is_multigpu_base_clone = True
        patcher.set_additional_models("multigpu", [copy])
    assert torch.equal(run(fusion(scene, subject)), run(fusion(model(), model(seed=1))))

"""The node that trains an adapter inside the host (nodes/training.py, mdit/training/graph.py)."""
import gc
import importlib
import importlib.util
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import is_initialized
from safetensors.torch import load_file, save_file

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
from comfy.model_management import InterruptProcessingException
from mditface.mdit.labelmap import PALETTE
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.training.curve import compute_running_mean, draw_loss_curve
from mditface.mdit.training.targets.masked import MaskedBase
from mditface.mdit.training.trainer import LOCK
from mditface.nodes import training
from mditface.nodes.adapter import LoadAdapter
from mditface.tests.adapter import bases
from mditface.tests.training.tiny_targets import FAMILIES, VAE, encoded_faces

OUTPUT = Path(folder_paths.get_output_directory())
SETTINGS = dict(palette="colours", order="CelebAMask-HQ", steps=8, batch_size=4, learning_rate=0.02, rank=2, seed=0,
                filename_prefix="faces", precision="fp32",
                gradient_checkpointing=False, preview_steps=0)


@pytest.fixture(autouse=True)
def folders():
    """Empty folders of the node before each test."""
    for name in ("mdit_adapters", "mdit_training"):
        shutil.rmtree(OUTPUT / name, ignore_errors=True)


@pytest.fixture(scope="module", params=["sd3"])
def base(request, tmp_path_factory):
    return opened(request.param, tmp_path_factory.mktemp("bases"))


def opened(family, folder):
    """A MODEL from a file, loaded the way that the host runs its nodes."""
    path = folder / f"tiny-{family}.safetensors"
    save_file(bases.published(family), path)
    with torch.inference_mode(), bases.detecting(family):
        return comfy.sd.load_diffusion_model(str(path))


def data(count=8):
    """What the host's data-set nodes give, with the label maps."""
    faces = encoded_faces(count)
    latents = [{"samples": face["latent"][None]} for face in faces]
    conditioning = [[[face["context"][None], {"pooled_output": face["pooled"][None]}]] for face in faces]
    maps = [torch.tensor(PALETTE)[face["labels"].long()][None] / 255 for face in faces]
    return dict(latents=latents, conditioning=conditioning, label_maps=maps)


def run(model, inputs=None, **changes):
    """The node's outputs, called as the host calls it."""
    single = dict(model=model, vae=VAE()) | SETTINGS | changes
    with torch.inference_mode():
        lists = {name: [value] for name, value in single.items()}
        return training.TrainAdapter.execute(**(inputs or data()), **lists).result


def files(folder):
    return sorted(path.name for path in (OUTPUT / folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_learns_and_serves(family, tmp_path):
    model = opened(family, tmp_path)
    with bases.detecting(family):  # the node loads a copy
        adapter, curve, steps = run(model, steps=12)
    assert steps == 12 and curve.shape == (1, 448, 768, 3)
    assert files("mdit_adapters") == ["faces_00001_.safetensors"] and files("mdit_training") == []
    with torch.inference_mode():
        case = bases.Case(family, model, adapter, {})
        masked = bases.runs.masked(bases.text(0), bases.mask())
        trained = bases.prediction(case.model, masked)
        untrained = bases.prediction(case.apply(case.base, weight=0.0), masked)
    assert (trained - untrained).abs().max() > 1e-3
    loaded = LoadAdapter.execute("faces_00001_.safetensors").result[0]
    assert loaded.id == adapter.id and loaded.config.base_hint == f"tiny-{family}.safetensors"


def test_the_loss_falls(base, monkeypatch):
    losses = []
    monkeypatch.setattr("mditface.mdit.training.curve.draw_loss_curve", lambda values: losses.extend(values) or
                        draw_loss_curve(values))
    run(base, steps=40, batch_size=8, drop_text=0.0, drop_mask=0.0)
    assert len(losses) == 40 and sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_a_second_run_overwrites_nothing(base):
    first, second = run(base, steps=2)[0], run(base, steps=2, seed=1)[0]
    assert files("mdit_adapters") == ["faces_00001_.safetensors", "faces_00002_.safetensors"]
    assert first.id != second.id and run(base, steps=2)[0].id == first.id


def test_nothing_is_left_behind(base):
    before = {name: (w.clone(), w.requires_grad) for name, w in base.model.named_parameters()}
    gc.collect()
    loaded = len(comfy.model_management.current_loaded_models)
    run(base, steps=2, preview_steps=1)
    assert comfy.model_management.in_training is False and not is_initialized()
    for name, w in base.model.named_parameters():
        assert torch.equal(w, before[name][0]) and w.requires_grad == before[name][1] and w.grad is None
    assert not any(module._forward_pre_hooks for module in base.model.modules())
    gc.collect()
    assert len(comfy.model_management.current_loaded_models) <= loaded
    assert not any(type(thing).__name__ in ("GraphTarget", "Trainer", "SummaryWriter") for thing in gc.get_objects())


def interrupted(monkeypatch, calls):
    """Presses Cancel at the given progress update of the training."""
    count = [0]

    def hook(value, total, preview, **_):
        count[0] += total == SETTINGS["steps"]
        if count[0] == calls:
            raise InterruptProcessingException()
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)


def test_a_cancelled_run_goes_on(base, monkeypatch):
    whole = run(base, filename_prefix="whole")[0]
    inputs = data(9)  # another number than the steps'
    with monkeypatch.context() as patched:
        interrupted(patched, 3)
        with pytest.raises(InterruptProcessingException):
            run(base, inputs)
    assert comfy.model_management.in_training is False
    assert files("mdit_adapters") == ["whole_00001_.safetensors"]
    assert [path.name for path in (OUTPUT / "mdit_training").glob("*/checkpoints/*")] == ["step-000003"]
    begun = []
    monkeypatch.setattr("mditface.mdit.training.graph.GraphTarget.start", lambda target: begun.append(target))
    adapter, _, steps = run(base, inputs)
    assert not begun and steps == SETTINGS["steps"] and files("mdit_training") == []
    monkeypatch.undo()
    assert adapter.id == run(base, inputs)[0].id != whole.id


def test_cancel_does_not_wait_for_the_step(base, monkeypatch):
    seen = []

    def velocity(self, *args, **kwargs):
        comfy.model_management.interrupt_current_processing()
        seen.append(True)
        return plain(self, *args, **kwargs)
    plain = MaskedBase.predict_velocity
    monkeypatch.setattr(MaskedBase, "predict_velocity", velocity)
    with pytest.raises(InterruptProcessingException):
        run(base)
    assert len(seen) == 1 and files("mdit_training") == [LOCK] and files("mdit_adapters") == []


def test_previews_show_maps_samples_and_images(base, monkeypatch):
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK",
                        lambda value, total, preview, **_: preview and shown.append((value, preview[1].size)))
    run(base, steps=4, preview_steps=2)
    assert shown == [(2, (4 * 64, 3 * 64)), (4, (4 * 64, 3 * 64))]


@pytest.mark.parametrize("reduction", ["half", "half, merged"])
def test_windows_do_not_go_with_half_the_tokens(reduction):
    """Refused before anything is read."""
    with pytest.raises(ValueError, match=f"token_reduction: '{reduction}' does not fit .*window 2"):
        training.TrainAdapter.execute([], [], [], token_reduction=[reduction], window=[2])


@pytest.mark.parametrize("changes", [dict(precision="bf16"), dict(gradient_checkpointing=True),
                                     dict(token_reduction="half"), dict(window=1)], ids=str)
def test_rare_settings(base, changes):
    adapter, _, _ = run(base, steps=2, **changes)
    assert adapter.config.window == changes.get("window", 0)
    assert any(w.any() for name, w in adapter.terms.named_parameters() if "up" in name)
    assert all(w.dtype == torch.float32 for w in load_file(OUTPUT / "mdit_adapters" / "faces_00001_.safetensors")
               .values())


def test_a_lora_on_the_model_is_trained_with(base):
    changed = base.clone()
    changed.add_patches({"diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (torch.full((576, 192), 0.1),)})
    assert run(base, steps=2)[0].id != run(changed, steps=2)[0].id


def test_sizes_may_differ_and_one_caption_may_serve_all(base):
    inputs = data(4)
    inputs["latents"][0] = {"samples": torch.cat([inputs["latents"][0]["samples"]] * 2, -1)}
    inputs["label_maps"][0] = torch.cat([inputs["label_maps"][0]] * 2, -2)
    batched = {"samples": torch.cat([latent["samples"] for latent in inputs["latents"][1:]])}
    inputs |= {"latents": [inputs["latents"][0], batched], "conditioning": inputs["conditioning"][:1]}
    run(base, inputs, steps=4, batch_size=2, empty_text=bases.text(7))


def without_file(base):
    made = base.clone()
    made.cached_patcher_init = None
    return made


def adapted(base):
    cfg = bases.config("sd3")
    folder = OUTPUT / "mdit_adapters"
    folder.mkdir(parents=True)
    save_file(bases.terms("sd3", cfg), folder / "own.safetensors", cfg.to_metadata())
    return bases.apply_adapter(base, load_adapter(str(folder / "own.safetensors")))


class OtherVAE:
    def encode(self, pictures):
        return torch.zeros(len(pictures), 4, 8, 8)


def changed(**lists):
    return data(4) | lists


def wide():
    return changed(label_maps=[torch.cat([picture] * 2, -2) for picture in data(4)["label_maps"]])


def narrow_text(**changes):
    return changed(conditioning=[[[torch.zeros(1, 5, 7), {"pooled_output": torch.zeros(1, bases.POOLED)} | changes]]])


WRONG = {
    "maps": (lambda base: (base, changed(label_maps=data(3)["label_maps"]), {}),
             "label_maps: 3 label maps for 4 latents"),
    "captions": (lambda base: (base, changed(conditioning=data(3)["conditioning"]), {}),
                 "conditioning: 3 captions for 4 latents"),
    "aspect": (lambda base: (base, wide(), {}), "label_maps: number 1 is 128 x 64 pixels, its image 64 x 64"),
    "photo": (lambda base: (base, changed(label_maps=[torch.full((4, 64, 64, 3), 0.4)]), {}), "label_map: 100%"),
    "one class": (lambda base: (base, changed(label_maps=[torch.zeros(4, 64, 64, 3)]), {}),
                  "label_maps: 100.0% of their pixels are one class, background"),
    "not finite": (lambda base: (base, changed(latents=[{"samples": torch.full((4, 16, 8, 8), float("nan"))}]), {}),
                   "latents: number 1 holds values that are not finite"),
    "channels": (lambda base: (base, changed(latents=[{"samples": torch.zeros(4, 4, 8, 8)}]), {}),
                 r"latents: number 1 has shape \(4, 8, 8\), the model works on \(16"),
    "text": (lambda base: (base, narrow_text(), {}), "7 wide and its pooled text 20, the model needs 24 and 20"),
    "pooled": (lambda base: (base, narrow_text(pooled_output=None), {}), "its pooled text missing"),
    "vae": (lambda base: (base, None, dict(vae=OtherVAE())), r"vae: it makes latents \(4, 8, 8\)"),
    "batch": (lambda base: (base, None, dict(batch_size=9)), "batch_size: 9 is more than the 8 latents"),
    "prefix": (lambda base: (base, None, dict(filename_prefix="../faces")), "filename_prefix: '../faces'"),
    "no prefix": (lambda base: (base, None, dict(filename_prefix="")), "filename_prefix: ''"),
    "family": (lambda base: (SimpleNamespace(model=torch.nn.Linear(1, 1)), None, {}), "model: a Linear"),
    "adapter": (lambda base: (adapted(base), None, {}), "model: it already has an adapter"),
    "file": (lambda base: (without_file(base), None, {}), "'Load Diffusion Model'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_named_before_anything_is_written(base, name):
    how, message = WRONG[name]
    model, inputs, changes = how(base)
    with pytest.raises(ValueError, match=message):
        run(model, inputs, **changes)
    assert files("mdit_training") == [] and files("mdit_adapters") in ([], ["own.safetensors"])


@pytest.mark.parametrize("option", ["sage", "flash"])
def test_attention_without_gradients(base, option, monkeypatch):
    monkeypatch.setattr(comfy.model_management, f"{option}_attention_enabled", lambda: True)
    with pytest.raises(ValueError, match=f"--use-{option}-attention.*no gradients"):
        run(base)


def test_a_loss_that_is_not_finite_ends_the_run(base, monkeypatch):
    plain = MaskedBase.predict_velocity
    monkeypatch.setattr(MaskedBase, "predict_velocity", lambda *args, **kwargs: plain(*args, **kwargs) * float("nan"))
    with pytest.raises(ValueError, match="learning_rate: the loss of step 1 is not finite"):
        run(base)
    assert comfy.model_management.in_training is False and files("mdit_adapters") == []


def test_without_accelerate_only_this_node_is_absent(monkeypatch, caplog):
    from mditface import nodes
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else
                        find(name, *rest))
    try:
        with caplog.at_level(logging.WARNING):
            importlib.reload(training)
            importlib.reload(nodes)
        assert [record.getMessage().count("accelerate") for record in caplog.records] == [1]
        assert "MDiT_TrainAdapter" not in {node.define_schema().node_id for node in nodes.NODES}
        assert len(nodes.NODES) > 10
    finally:
        monkeypatch.undo()
        importlib.reload(training)
        importlib.reload(nodes)


@pytest.mark.parametrize("losses", [[0.5], [0.5, 0.5], [3.0, 2.0, 1.0]], ids=str)
def test_loss_curve_of_any_run(losses):
    picture = draw_loss_curve(losses)
    assert (31, 95, 168) in {colour for _, colour in picture.getcolors(2 ** 16)}
    assert compute_running_mean(losses)[0] == pytest.approx(losses[0])

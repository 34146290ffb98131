"""Files of MMFace-DiT: containers, objectives, types, errors, what the host saves."""
import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.latent_formats
import comfy.sd
from comfy.model_base import ModelType
from comfy_extras import nodes_model_merging as merging
from mditface.mdit.mmface import host
from mditface.mdit.mmface.config import find_objective
from mditface.tests.mmface import tiny
from mditface.tests.mmface.runs import sample
from mditface.tests.mmface.tiny import CONFIG
from mditface.tests.shared.saving import save

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


@pytest.mark.parametrize("wrap", [lambda sd: sd, lambda sd: {"model": sd, "step": 7}, lambda sd: {"state_dict": sd},
                                  lambda sd: {"model": {f"module.{name}": weight for name, weight in sd.items()}}],
                         ids=["bare", "model", "state_dict", "module"])
def test_every_container_gives_the_same_model(tmp_path, file, flow, wrap):
    torch.save(wrap(load_file(file)), tmp_path / "tiny.pt")
    model = host.load_mmface(str(tmp_path / "tiny.pt"), torch.float32, "flow").model
    assert model.config == CONFIG
    for name, weight in flow.model.diffusion_model.state_dict().items():
        assert torch.equal(model.diffusion_model.state_dict()[name], weight), name


@pytest.mark.parametrize("name, objective", [
    ("dit-unified-flux-vae-256/checkpoint-440700/dit_model_weights_ema.safetensors", "diffusion"),
    ("dit-unified-flux-vae-256-rfm\\checkpoint-283517\\dit_model_weights_ema.safetensors", "flow"),
    ("dit-unified-flux-vae-512-rfm/checkpoint-44070/dit_model_weights_ema.safetensors", "flow"),
    ("MMFace_Flow.safetensors", "flow"), ("faces/diffusion.safetensors", "diffusion"),
])
def test_folders_and_names_tell_the_objective(name, objective):
    assert find_objective(name) == objective


@pytest.mark.parametrize("name", ["dit_model_weights_ema.safetensors", "workflow.safetensors",
                                  "diffusion/rfm.safetensors"])
def test_other_names_are_asked_about(tmp_path, name):
    with pytest.raises(ValueError, match="objective: .*choose 'diffusion' .*'flow' for"):
        host.load_mmface(tiny.write(tmp_path / "any.safetensors"), name=name)


def test_the_objective_sets_sampling(file):
    kinds = {objective: host.load_mmface(file, torch.float32, objective).model.model_type
             for objective in ("flow", "diffusion")}
    assert kinds == {"flow": ModelType.FLOW, "diffusion": ModelType.EPS}


EDITS = {
    "another network": (lambda sd: {name: weight for name, weight in sd.items() if "_t." not in name},
                        "holds no MMFace-DiT weights.*host's own loaders"),
    "no patch layer": (lambda sd: {name: weight for name, weight in sd.items() if "x_embedder" not in name},
                       "lacks x_embedder.proj.weight"),
    "missing": (lambda sd: {name: weight for name, weight in sd.items() if name != "blocks.1.mlp_t.2.bias"},
                r"missing \[blocks\.1\.mlp_t\.2\.bias\]"),
    "wrong shape": (lambda sd: sd | {"blocks.0.mlp_i.0.bias": torch.ones(7)}, r"mlp_i\.0\.bias is \(7,\), must be"),
    "other heads": (lambda sd: sd | {"x_embedder.proj.weight": torch.ones(100, 32, 2, 2)}, "width 100 is no multiple"),
    "nan": (lambda sd: sd | {"blocks.0.mlp_i.0.bias": torch.full((576,), torch.nan)}, "NaN or infinite numbers in"),
}


@pytest.mark.parametrize("edit, message", EDITS.values(), ids=EDITS.keys())
def test_files_of_another_model_are_refused(tmp_path, edit, message):
    with pytest.raises(ValueError, match=f"(?s)model_name: .*bad.safetensors.*{message}"):
        host.load_mmface(tiny.write(tmp_path / "bad.safetensors", edit=edit), objective="flow")


def test_the_state_of_the_averaging_is_refused(tmp_path):
    """ema_state.pt, which lies beside the published file: a list of weights without names."""
    torch.save({"decay": 0.9999, "shadow_params": [torch.ones(3)]}, tmp_path / "ema_state.pt")
    with pytest.raises(ValueError, match="ema_state.pt' holds no weights"):
        host.load_mmface(str(tmp_path / "ema_state.pt"), objective="flow")


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return exec, ("raise SystemExit",)
    torch.save({"model": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(ValueError, match="harmful.pt.*more than weights.*run code"):
        host.load_mmface(str(tmp_path / "harmful.pt"), objective="flow")


def test_the_hosts_loader_does_not_take_the_file(file):
    with pytest.raises(RuntimeError, match="Could not detect model type"):
        comfy.sd.load_diffusion_model(file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_close(file, flow, dtype):
    low = host.load_mmface(file, dtype, "flow")
    assert low.model.get_dtype() == dtype and low.model.get_dtype_inference() != torch.float16
    expected = sample(flow)
    error = (sample(low) - expected).abs().mean() / expected.abs().mean()
    assert error < 0.02


def test_memory_is_requested(flow):
    small, large = (flow.model.memory_required([2, 16, side, side]) for side in (32, 64))
    assert 0 < small < large


def test_previews_have_the_colors_of_flux_for_the_same_image():
    ours, flux = host.MMFaceLatent(), comfy.latent_formats.Flux()
    z = tiny.normal(5, 16)
    colors = [format.process_in(z) @ torch.tensor(format.latent_rgb_factors)
              + torch.tensor(format.latent_rgb_factors_bias) for format in (ours, flux)]
    torch.testing.assert_close(*colors, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.process_out(ours.process_in(z)), z)
    torch.testing.assert_close(ours.process_in(z), 0.3611 * z)


# What the host saves


def test_a_merged_and_saved_model_knows_its_objective(loaded, tmp_path):
    other = host.load_mmface(tiny.write(tmp_path / "other.safetensors", edit=lambda sd: {
        name: weight.roll(1) for name, weight in sd.items()}), torch.float32, loaded.model.config.objective)
    (merged,) = merging.ModelMergeSimple().merge(loaded, other, 0.7)
    again = host.load_mmface(save("ModelSave", tmp_path / "saved", model=merged), torch.float32)
    assert again.model.config == loaded.model.config
    torch.testing.assert_close(sample(again), sample(merged), rtol=0, atol=1e-5)
    assert not torch.allclose(sample(again), sample(loaded), atol=1e-3)


def test_other_parts_are_refused_before_a_file_is_written(flow, tmp_path):
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="holds the transformer alone"):
        merging.save_checkpoint(flow, vae=vae, filename_prefix="saved", output_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_prefix_of_training_is_taken_off(tmp_path, file, flow):
    save_file({f"module.{name}": weight for name, weight in load_file(file).items()}, tmp_path / "wrapped.safetensors")
    again = host.load_mmface(str(tmp_path / "wrapped.safetensors"), torch.float32, "flow")
    assert torch.equal(sample(again), sample(flow))

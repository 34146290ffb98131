"""What a user reads when a file, the model or the mask is wrong: which input, and what to do."""
import pytest
import torch
from safetensors.torch import save_file

import folder_paths
from mditface.mdit.face_mogle.mixer import load_gate
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.adapter.weights import load_condition_adapter
from mditface.mdit.mditface.mask import MaskInput
from mditface.nodes.face_mogle import LoadFaceMoGLE
from mditface.tests.adapter import bases
from mditface.tests.face_mogle import tiny
from mditface.tests.mditface.runs import masked


def refuses(error, parts, function, *args, **kwargs):
    with pytest.raises(error) as caught:
        function(*args, **kwargs)
    for part in parts:
        assert part in str(caught.value), caught.value


def load_lora(tmp_path, weights):
    lora, _ = tiny.write(tmp_path, lora_weights=weights)
    return load_condition_adapter(lora, "lora_name")


def test_an_ordinary_lora_of_the_same_rank(tmp_path):
    weights = {key: weight for key, weight in tiny.lora().items() if ".attn.to_" in key}
    refuses(ValueError, ("lora_name", "lacks terms for transformer.single_transformer_blocks.0.norm", "'Load LoRA'"),
            load_lora, tmp_path, weights)
    more = {**tiny.lora(), "transformer.context_embedder.lora_A.weight": torch.zeros(2, 4)}
    refuses(ValueError, ("has others for transformer.context_embedder", "'Load LoRA'"), load_lora, tmp_path, more)


def test_damaged_loras(tmp_path):
    weights = tiny.lora()
    name = "transformer.single_transformer_blocks.1.proj_out.lora_A.weight"
    refuses(ValueError, (name, "must be"), load_lora, tmp_path, {**weights, name: torch.zeros(2, 256)})
    weights[name][0, 0] = torch.nan
    refuses(ValueError, ("NaN", name), load_lora, tmp_path, weights)
    del weights[name]
    refuses(ValueError, (f"lacks terms for {name}",), load_lora, tmp_path, weights)


def test_gates_of_other_shapes(tmp_path):
    weights = tiny.gate()
    narrow = {**weights, "gating.gate.2.weight": torch.zeros(12, 64)}
    refuses(ValueError, ("gate_name", "gating.gate.2.weight is (12, 64), must be (20, 64)"),
            load_gate, tiny.write(tmp_path, gate_weights=narrow)[1])
    del weights["global_expert.net.0.bias"]
    refuses(ValueError, ("missing [global_expert.net.0.bias]",), load_gate,
            tiny.write(tmp_path, gate_weights=weights)[1])


def test_a_lora_in_place_of_its_gate(files):
    refuses(ValueError, ("gate_name", "is a LoRA, not a gate", "global_local_mask_moe.pt"), load_gate, files[0])


def test_code_in_a_gate_file_does_not_run(tmp_path):
    torch.save({"gate": refuses}, tmp_path / tiny.GATE)
    refuses(ValueError, ("gate_name", "more than weights", "run code"), load_gate, str(tmp_path / tiny.GATE))


def test_other_bases(adapter, tmp_path):
    sd3 = bases.load(bases.published("sd3"))
    refuses(ValueError, ("adapter: it was made for family flux, but the model has family sd3",), apply_adapter, sd3,
            adapter)
    deeper = load_lora(tmp_path, tiny.lora(depth=(3, 3)))
    refuses(ValueError, ("3 + 3 blocks", "FLUX.1-dev"), apply_adapter, bases.load(bases.published("flux")), deeper)


def test_twice_on_one_model_and_a_fixed_size(adapter, model):
    refuses(ValueError, ("the model already has this adapter",), apply_adapter, model, adapter)
    refuses(ValueError, ("condition_size", "Face-MoGLE", "set it to 0"), apply_adapter,
            bases.load(bases.published("flux")), adapter, 1.0, 512)


def test_masks_without_a_vae_or_with_another(model, texts):
    labels = bases.mask()
    without = MaskInput(labels.labels, labels.visible)
    refuses(ValueError, ("connect the model's VAE",), bases.prediction, model, masked(texts[0], without))

    class Narrow(bases.AveragingVAE):
        def encode(self, pictures):
            return super().encode(pictures)[:, :4]
    other = MaskInput(labels.labels, labels.visible, vae=Narrow())
    refuses(ValueError, ("vae", "connect the VAE that belongs to the model"), bases.prediction, model,
            masked(texts[0], other))


def test_the_node(tmp_path, monkeypatch):
    folder = [str(tmp_path)], {".safetensors", ".pt"}
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "mdit_adapters", folder)
    tiny.write(tmp_path)
    save_file(tiny.gate(), str(tmp_path / "mogle.safetensors"))
    made = [LoadFaceMoGLE.execute(tiny.LORA, gate, *switches).args[0] for gate, switches in (
        (tiny.GATE, ()), ("mogle.safetensors", ()), (tiny.GATE, ("black",)), (tiny.GATE, ("from the map", "sigma")))]
    assert made[0].id == made[1].id
    assert len({adapter.id for adapter in made}) == 3
    assert LoadFaceMoGLE.validate_inputs(tiny.LORA, tiny.GATE) is True
    assert "gate_name" in LoadFaceMoGLE.validate_inputs(tiny.LORA, "absent.pt")
    assert "lora_name" in LoadFaceMoGLE.validate_inputs("absent.safetensors", tiny.GATE)

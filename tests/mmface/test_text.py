"""The text encoder of MMFace-DiT: files, prompts, and what the host's nodes make of it."""
import pytest
import torch

import nodes
from mditface.mdit.mmface.text import LAYERS, LENGTH, OPEN_CLIP, load_clip
from mditface.nodes.conditioning import TextConditioning
from mditface.tests.mmface import tiny
from mditface.tests.shared.saving import save

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tiny.write_text(tmp_path_factory.mktemp("text") / "model.safetensors"), torch.float32)


def encode(clip, text="a young woman, smiling"):
    ((sequence, extra),) = nodes.CLIPTextEncode().encode(clip, text)[0]
    return sequence, extra["pooled_output"]


def to_open_clip(weights: dict) -> dict:
    """The same weights as in a checkpoint of SD 2.x."""
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj", "text_model.encoder.layers": "transformer.resblocks",
             "text_model.final_layer_norm": "ln_final", "text_model.embeddings.token_embedding": "token_embedding",
             "text_model.embeddings.position_embedding.weight": "positional_embedding"}
    made = {}
    for name, weight in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name, weight = name.replace("self_attn.q_proj.", "attn.in_proj_"), torch.cat(parts)
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        made[OPEN_CLIP + name] = weight
    return made | {"model.diffusion_model.out.2.bias": torch.ones(4)}


def with_another_layer(weights: dict) -> dict:
    """As in files whose last layer nothing reads."""
    return weights | {name.replace("layers.0.", f"layers.{LAYERS}."): weight.clone()
                      for name, weight in weights.items() if "layers.0." in name}


@pytest.mark.parametrize("edit", [
    with_another_layer, to_open_clip, lambda sd: sd | {"text_model.embeddings.position_ids": torch.arange(LENGTH)}],
    ids=["24 layers", "checkpoint", "position ids"])
def test_every_layout_gives_the_same(tmp_path, clip, edit):
    other = load_clip(tiny.write_text(tmp_path / "other.safetensors", edit=edit), torch.float32)
    for found, expected in zip(encode(other), encode(clip)):
        assert torch.equal(found, expected)


def test_sequence_and_pooled_are_those_of_the_network(clip):
    """The states of the host's network: the last but one without the final norm, the last with it at the end token."""
    network = clip.cond_stage_model.clip_h.transformer.text_model
    tokens = torch.tensor([[token for token, _ in clip.tokenize("a hat")["h"][0]]])
    mask = torch.full((LENGTH, LENGTH), -torch.inf).triu_(1)
    states = [network.embeddings(tokens)]
    for layer in network.encoder.layers:
        states.append(layer(states[-1].clone(), mask, lambda q, k, v, heads, mask: (
            torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 + mask, -1) @ v)))
    sequence, pooled = encode(clip, "a hat")
    end = tokens[0].tolist().index(49407)
    torch.testing.assert_close(sequence, states[-2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled[0], network.final_layer_norm(states[-1])[0, end], rtol=1e-4, atol=1e-4)


def test_long_prompts_are_cut(clip):
    words = " ".join(f"word{i}" for i in range(90))
    (tokens,) = clip.tokenize(words)["h"]
    assert len(tokens) == LENGTH and tokens[-1][0] == 49407
    assert encode(clip, words)[0].shape[1] == LENGTH
    (short,) = clip.tokenize("face")["h"]
    assert [token for token, _ in short[2:]] == [49407] + [0] * (LENGTH - 3)
    (counted,) = clip.tokenize(words, return_word_ids=True)["h"]
    assert len(counted) == LENGTH and {len(token) for token in counted} == {3}


def test_words_have_weights(clip):
    plain, weighted = encode(clip, "a red hat")[0], encode(clip, "a (red:1.4) hat")[0]
    assert not torch.allclose(plain, weighted, atol=1e-3)


def test_the_packs_text_node_takes_it(clip):
    (texts,) = TextConditioning.execute(clip, "a hat").args
    assert torch.equal(texts[0][0], encode(clip, "a hat")[0])


def test_a_saved_encoder_loads_again(clip, tmp_path):
    again = load_clip(save("CLIPSave", tmp_path, clip=clip), torch.float32)
    for found, expected in zip(encode(again), encode(clip)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("edit, message", [
    (lambda sd: {name: weight for name, weight in sd.items() if ".layers.2" not in name},
     "has 19 layers, .* has 23 or 24"),
    (lambda sd: {f"shared.{name}": weight for name, weight in sd.items()}, "holds no text encoder of CLIP"),
    (lambda sd: {name: weight for name, weight in sd.items() if "layers.7.mlp.fc2.bias" not in name},
     r"missing \[text_model\.encoder\.layers\.7\.mlp\.fc2\.bias\]"),
    (lambda sd: sd | {"text_model.final_layer_norm.bias": torch.full((64,), torch.nan)}, "NaN or infinite"),
], ids=["layers", "another model", "missing", "nan"])
def test_encoders_of_other_families_are_refused(tmp_path, edit, message):
    with pytest.raises(ValueError, match=f"(?s)clip_name: .*bad.safetensors.*{message}"):
        load_clip(tiny.write_text(tmp_path / "bad.safetensors", edit=edit))

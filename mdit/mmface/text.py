"""The text encoder of SD 2.x as MMFace-DiT reads it (docs/design/mmface-dit.md, section 7)."""
from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import folder_paths
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel
from comfy.text_encoders.sd2_clip import SD2ClipHTokenizer

from ..shared.parts import load_parts
from ..shared.weight_files import check_layout, name_file, read_shape, read_shapes, read_state_dict

SOURCE = "clip_name"
LAYERS = 23  # the sequence is the state after the last but one, the pooled text that after the last
LENGTH = 77  # tokens
HEAD_DIM = 64
SPECIAL_TOKENS = {"start": 49406, "end": 49407, "pad": 0}
OPEN_CLIP = "cond_stage_model.model."  # how weights begin in a checkpoint of SD 2.x
PREFIXES = ("cond_stage_model.", "clip_h.", "transformer.")  # of files that the host saved
EMBEDDING = "text_model.embeddings.token_embedding.weight"
PROJECTION = "text_projection.weight"  # the host's module has it; nothing reads it here
ADVICE = "take text_encoder/model.safetensors of Stable Diffusion 2.1"


class ClipHTokenizer(SD2ClipHTokenizer):
    """One section of 77 tokens: longer prompts are cut, as in training."""

    def __init__(self, tokenizer_path=None, embedding_directory=None, tokenizer_data={}):
        super().__init__(tokenizer_path, embedding_directory, tokenizer_data)
        self.max_length = 10 ** 9
        self.pad_to_max_length = False

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> list[list[tuple]]:
        (tokens,) = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        if len(tokens) > LENGTH:
            tokens = [*tokens[:LENGTH - 1], tokens[-1]]
        padding = (self.pad_token, 1.0, 0)[:len(tokens[0])]
        return [tokens + [padding] * (LENGTH - len(tokens))]


class Tokenizer(SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, clip_name="h", tokenizer=ClipHTokenizer)


class ClipH(SDClipModel):
    """Sequence (B, 77, width) without the final norm, and pooled text (B, width) without projection."""

    def __init__(self, config: dict, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype=dtype, textmodel_json_config=config, model_options=model_options,
                         layer="hidden", layer_idx=-2, layer_norm_hidden_state=False, return_projected_pooled=False,
                         special_tokens=SPECIAL_TOKENS)


class TextEncoder(SD1ClipModel):
    def __init__(self, config: dict, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, clip_name="h", clip_model=ClipH, config=config)


def load_clip(path: str, dtype: torch.dtype | None = None) -> comfy.sd.CLIP:
    """Loads the text encoder of Stable Diffusion 2.x as a CLIP. `dtype` sets the type of the weights; None leaves it to
    the host, which takes float16.

    The file: in diffusers' layout, or a checkpoint. Raises ValueError, naming it and what is wrong, for another.
    """
    with name_file(path, SOURCE):
        return load_parts(path, read_text_encoder, partial(build_text_encoder, dtype=dtype))[0]


def read_text_encoder(path: str) -> dict[str, Tensor]:
    weights = read_state_dict(path, SOURCE)
    weights = comfy.utils.clip_text_transformers_convert(weights, OPEN_CLIP, "")
    weights = {strip_prefixes(name): weight for name, weight in weights.items()}
    if EMBEDDING not in weights:
        raise ValueError(f"{SOURCE}: '{path}' holds no text encoder of CLIP (no {EMBEDDING}): {ADVICE}")
    config = read_text_config(weights, path)
    shapes = read_shapes(CLIPTextModel(config, torch.float32, "meta", comfy.ops.disable_weight_init))
    del shapes[PROJECTION]
    weights = {name: weight for name, weight in weights.items() if name in shapes}
    check_layout(weights, shapes, path, SOURCE)
    weights[PROJECTION] = torch.eye(config["hidden_size"])  # only now is the width known to be the file's
    return weights


def strip_prefixes(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def read_text_config(weights: dict[str, Tensor], path: str) -> dict:
    """The host's configuration of SD 2.x with the sizes of a file, without what comes after its 23rd layer.

    Raises ValueError for the encoder of another family.
    """
    layers = sum(name.endswith(".layer_norm1.weight") for name in weights)
    if layers not in (LAYERS, LAYERS + 1):
        raise ValueError(f"{SOURCE}: '{path}' has {layers} layers, the text encoder of Stable Diffusion 2.x has "
                         f"{LAYERS} or {LAYERS + 1}: {ADVICE}")
    width = read_shape(weights, EMBEDDING, 2)[1]
    hidden = read_shape(weights, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0]
    folder = Path(inspect.getfile(SD2ClipHTokenizer)).parent
    config = json.loads((folder / "sd2_clip_config.json").read_text())
    return config | {"num_hidden_layers": LAYERS, "hidden_size": width, "num_attention_heads": width // HEAD_DIM,
                     "intermediate_size": hidden}


def build_text_encoder(weights: dict[str, Tensor], dtype: torch.dtype | None, disable_dynamic: bool = False
                       ) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(Tokenizer, TextEncoder)
    target.params["config"] = read_text_config(weights, "")
    return comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"), state_dict=[weights],
                         parameters=comfy.utils.calculate_parameters(weights), disable_dynamic=disable_dynamic,
                         model_options={"dtype": dtype})

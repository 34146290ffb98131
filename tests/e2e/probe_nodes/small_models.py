"""Loaders of the host that read small variants of models whose sizes the host takes from a table, not from the file."""
import contextlib
import copy
import functools
from collections.abc import Iterator
from unittest import mock

import comfy.ldm.lumina.controlnet
import comfy.model_detection
import comfy.supported_models
import nodes
from comfy_extras.nodes_model_patch import ModelPatchLoader

Z_IMAGE = {"dim": 384, "n_heads": 3, "n_kv_heads": 3}  # so that its MLP is 8/3 times as wide, as in the published one
CHROMA = {"context_in_dim": 24, "hidden_size": 256, "num_heads": 2, "out_dim": 256, "hidden_dim": 96, "n_layers": 2}
SDXL = {**comfy.supported_models.SDXL.unet_config, **comfy.supported_models.SDXL.unet_extra_config, "image_size": 32,
        "in_channels": 4, "out_channels": 4, "num_classes": "sequential", "num_res_blocks": [1], "channel_mult": [1],
        "use_spatial_transformer": True, "transformer_depth": [1], "transformer_depth_middle": 1,
        "transformer_depth_output": [0, 0], "legacy": False}  # one level of SDXL's three


class SmallZImage(comfy.supported_models.ZImage):
    unet_config = {**comfy.supported_models.ZImage.unet_config, "dim": Z_IMAGE["dim"]}
    unet_extra_config = {**Z_IMAGE, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
                         "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
                         "pad_tokens_multiple": 32}


class SmallChroma(comfy.supported_models.Chroma):
    unet_extra_config = CHROMA


class SmallSDXL(comfy.supported_models.SDXL):
    unet_config = {name: SDXL[name] for name in comfy.supported_models.SDXL.unet_config}


@contextlib.contextmanager
def small_variants() -> Iterator[None]:
    """Inside, the host knows the small variants."""
    control = functools.partial(comfy.ldm.lumina.controlnet.ZImage_Control, **Z_IMAGE)
    models = [SmallZImage, SmallChroma, SmallSDXL, *comfy.supported_models.models]
    with (mock.patch.object(comfy.supported_models, "models", models),
          mock.patch.object(comfy.ldm.lumina.controlnet, "ZImage_Control", control),
          mock.patch.object(comfy.model_detection, "unet_config_from_diffusers_unet",
                            lambda state_dict: copy.deepcopy(SDXL))):
        yield


class SmallUNETLoader(nodes.UNETLoader):
    def load_unet(self, **inputs):
        with small_variants():
            return super().load_unet(**inputs)


class SmallModelPatchLoader(ModelPatchLoader):
    def load_model_patch(self, **inputs):
        with small_variants():
            return super().load_model_patch(**inputs)


class SmallControlNetLoader(nodes.ControlNetLoader):
    def load_controlnet(self, **inputs):
        with small_variants():
            return super().load_controlnet(**inputs)


LOADERS = (SmallUNETLoader, SmallModelPatchLoader, SmallControlNetLoader)

"""PT-DiT (Qihoo-T2X): proxy tokens for large images."""
from __future__ import annotations

from comfy_api.latest import io, ui
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from ..mdit.pt_dit import host
from ..mdit.pt_dit.config import POSITIONS, PTDiTSettings
from ..mdit.pt_dit.cost import report_cost, compute_token_grid
from ..mdit.pt_dit.schedule import compute_shift
from ..mdit.pt_dit.text import encode
from ..mdit.pt_dit.vae import load_vae
from . import menu
from .files import check_file, find_file, list_files
from .loading import DTYPES

MODELS, VAES = "diffusion_models", "vae"
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")
MODEL_TIP = "Model from 'Load PT-DiT Model'."


def side(name: str, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=1024, min=16, max=16384, step=8, tooltip=tooltip)


class LoadPTDiT(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadPTDiT",
            display_name="Load PT-DiT Model",
            category=menu.PT_DIT,
            description="Loads the transformer of Qihoo-T2X. Do not use 'Load Diffusion Model': that node loads the "
                        "file as a PixArt model, which generates noise without an error.",
            search_aliases=["Qihoo-T2X", "proxy token diffusion", "PT-DiT loader"],
            inputs=[
                io.Combo.Input("model_name", options=list_files(MODELS, endings=ENDINGS),
                               tooltip="File from models/diffusion_models. A config.json in the same folder gives the "
                                       "sizes that the weights do not contain."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True,
                               tooltip="Data type of the weights. default: ComfyUI chooses. Weights in fp16 are cast "
                                       "to another type for the computation."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Diffusion model. The shift of its noise "
                                                                   "schedule is set for 1024 px.")],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return check_file(model_name, "model_name", MODELS, endings=ENDINGS)

    @classmethod
    def execute(cls, model_name, weight_dtype="default") -> io.NodeOutput:
        path = find_file(model_name, host.SOURCE, MODELS, endings=ENDINGS)
        return io.NodeOutput(host.load_pt_dit(path, DTYPES[weight_dtype]))


class LoadPTDiTVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadPTDiTVAE",
            display_name="Load PT-DiT VAE",
            category=menu.PT_DIT,
            description="Loads the VAE that PT-DiT was trained with, from Open-Sora-Plan v1.2, for single images. The "
                        "latents of Stable Diffusion VAEs have the same shape but another meaning.",
            search_aliases=["Open-Sora-Plan VAE", "CausalVAE", "Qihoo-T2X VAE"],
            inputs=[
                io.Combo.Input("vae_name", options=list_files(VAES, endings=ENDINGS),
                               tooltip="File from models/vae, such as checkpoint.ckpt of Open-Sora-Plan v1.2."),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="VAE for 'VAE Encode' and 'VAE Decode'.")],
        )

    @classmethod
    def validate_inputs(cls, vae_name: str | None) -> bool | str:
        return check_file(vae_name, "vae_name", VAES, endings=ENDINGS)

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        return io.NodeOutput(load_vae(find_file(vae_name, "vae_name", VAES, endings=ENDINGS)))


class PTDiTText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PTDiTText",
            display_name="Text Encode (PT-DiT)",
            category=menu.PT_DIT,
            description="Encodes a prompt as in the training of PT-DiT: lower case, without URLs and special "
                        "characters, at most 200 tokens. 'CLIP Text Encode (Prompt)' also works but does not clean the "
                        "prompt.",
            search_aliases=["T5 prompt", "Qihoo-T2X prompt", "text encode PT-DiT"],
            inputs=[
                io.Clip.Input("clip", tooltip="T5-XXL from 'Load CLIP' with type 'pixart'."),
                io.String.Input("text", multiline=True, dynamic_prompts=True,
                                tooltip="Prompt. An empty negative prompt works best."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Conditioning for any sampler.")],
        )

    @classmethod
    def execute(cls, clip, text) -> io.NodeOutput:
        return io.NodeOutput(encode(clip, text))


class PTDiTWindows(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def count(name: str, default: int, tooltip: str) -> io.Input:
            return io.Int.Input(name, default=default, min=1, max=256, tooltip=tooltip)
        return io.Schema(
            node_id="MDiT_PTDiTWindows",
            display_name="Set PT-DiT Windows",
            category=menu.PT_DIT,
            description="Sets the windows in which tokens attend to each other, and how many proxy tokens represent "
                        "each window. Windows have no weights, so any model works with any windows. A token is 16 px.",
            search_aliases=["proxy tokens", "window attention", "shifted window", "PT-DiT layout"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                count("rows", 8, "Height of a window in tokens. The published value is 8."),
                count("columns", 8, "Width of a window in tokens. The published value is 8."),
                count("proxy_rows", 1, "Number of proxies of a window from top to bottom, a divisor of the rows. The "
                                       "published value is 1."),
                count("proxy_columns", 1, "Number of proxies of a window from left to right, a divisor of the columns. "
                                          "The published value is 1."),
                io.Int.Input("frames", default=1, min=1, max=256, optional=True, advanced=True,
                             tooltip="Length of a window in latent frames. 1 for images."),
                io.Combo.Input("positions", options=list(POSITIONS), default=POSITIONS[0], optional=True, advanced=True,
                               tooltip="Positions of tokens in images that are not square. reference: as in the "
                                       "authors' code, which mixes up rows and columns. rowcol: the true rows and "
                                       "columns. The positions used in training are unknown."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Model with these windows.")],
        )

    @classmethod
    def execute(cls, model, rows, columns, proxy_rows, proxy_columns, frames=1,
                positions=POSITIONS[0]) -> io.NodeOutput:
        settings = PTDiTSettings((frames, rows, columns), (proxy_rows, proxy_columns), positions)
        return io.NodeOutput(host.apply_settings(model, settings))


class PTDiTShift(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PTDiTShift",
            display_name="Resolution Shift (PT-DiT)",
            category=menu.PT_DIT,
            description="Sets the shift of the noise schedule from the size of the image: 1 at 512 px, 2 at 1024 px, 4 "
                        "at 2048 px. 'ModelSamplingSD3' sets any shift.",
            search_aliases=["model sampling", "timestep shift", "resolution shift"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                side("width", "Width of the image in pixels."),
                side("height", "Height of the image in pixels."),
                io.Int.Input("frames", default=1, min=1, max=4096, optional=True, advanced=True,
                             tooltip="Number of frames of a video, at least 17. 1 for an image."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Model with this shift.")],
        )

    @classmethod
    def execute(cls, model, width, height, frames=1) -> io.NodeOutput:
        host.get_config(model)
        (shifted,) = ModelSamplingSD3().patch(model, compute_shift(width, height, frames))
        return io.NodeOutput(shifted)


class PTDiTCost(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PTDiTCost",
            display_name="Count PT-DiT Operations",
            category=menu.PT_DIT,
            description="Counts the operations of the model with its windows and of full attention with the same "
                        "width. Reports the image size from which PT-DiT needs fewer operations.",
            search_aliases=["FLOPs", "cost", "multiply-adds", "proxy tokens"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Model from 'Load PT-DiT Model' or 'Set PT-DiT Windows'."),
                side("width", "Width of the image in pixels."),
                side("height", "Height of the image in pixels."),
                io.Int.Input("frames", default=1, min=1, max=4096, optional=True, advanced=True,
                             tooltip="Number of latent frames of a video. 1 for an image."),
                io.Int.Input("text_tokens", default=200, min=1, max=4096, optional=True, advanced=True,
                             tooltip="Number of text tokens. The authors' code always reads 200."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Operations of each kind of layer, of a block and of "
                                                                "the whole network."),
                io.Int.Output(display_name="operations", tooltip="Multiply-adds of one evaluation for one image."),
            ],
        )

    @classmethod
    def execute(cls, model, width, height, frames=1, text_tokens=200) -> io.NodeOutput:
        config = host.get_config(model)
        grid = compute_token_grid(config, width, height, frames)
        counts, total = report_cost(config, host.get_settings(model), grid, text_tokens)
        text = f"{width} x {height} px, {frames} frame(s): {counts}"
        return io.NodeOutput(text, total, ui=ui.PreviewText(text))


NODES = (LoadPTDiT, LoadPTDiTVAE, PTDiTText, PTDiTWindows, PTDiTShift, PTDiTCost)

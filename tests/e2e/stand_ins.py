"""Graphs of full-size models, made to run on tiny ones: every node of ours and every link between them stays."""
from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

import comfy.ops
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.taesd.taesd import Decoder, DecoderFlux2, Encoder, EncoderFlux2
from devtools.server import Server
from mditface.mdit.labelmap import resize_nearest
from mditface.mdit.labelmap.drawing import decode_drawing, encode_drawing
from mditface.tests.adapter import bases
from mditface.tests.dynast import tiny as dynast
from mditface.tests.dynast.test_labels import frame
from mditface.tests.e2e import flux_models, photo_models
from mditface.tests.e2e.graphs import node
from mditface.tests.e2e.test_face_diffuser import UNET
from mditface.tests.face_diffuser import tiny as face_diffuser
from mditface.tests.face_mogle import tiny as face_mogle
from mditface.tests.interactdiffusion import published
from mditface.tests.mditface import tiny as mditface
from mditface.tests.mmface import tiny as mmface
from mditface.tests.parsing import weights as parsing
from mditface.tests.pt_dit import tiny as pt_dit

SMALL = {"width": 64, "height": 64, "size": 256, "steps": 4, "rows": 4, "columns": 4, "num_faces": 1}
INPUTS = ("photo", "person_1", "person_2", "pose", "exemplar", "sketch")  # images that the templates load
OWN_ADAPTERS = {  # by family: the name of the file in the templates, and the sizes of the stand-in
    "sd3": ("sd35", {}), "klein": ("klein", dict(depth=(1, 2))), "z-image": ("z_image", dict(depth=(0, 6))),
    "chroma": ("chroma", {})}
Stand = dict | tuple[dict, int] | str | None  # a node, one of its outputs, the input that passes through, nothing


def write_files(server: Server, golden: Path) -> None:
    """Puts the tiny models into the server's folders, under the names that `SWAPS` and the templates give them."""
    write_small_files(server, golden)
    write_face_diffuser(server)
    torch.save(published.complete(), folder(server, "interactdiffusion") / "stand-in-interactdiffusion.pth")


def write_small_files(server: Server, golden: Path) -> None:
    """The models that are tiny throughout."""
    write_adapters(server)
    write_previews(server)
    write_pt_dit(server, golden)
    write_mmface(server)
    flux_models.write_files(server)
    photo_models.write(server)
    exemplar_model = mditface.config(exemplar_blocks=(0, 2), exemplar_candidates=2)
    mditface.write(folder(server, "mdit") / "your_exemplar_model.safetensors", exemplar_model)
    server.save_weights("detection", "mediapipe_face_fp32", parsing.face_landmarker())
    dynast.write(folder(server, "dynast") / "stand-in-face.safetensors")
    dynast.write(folder(server, "dynast") / "stand-in-person.pth", dynast.PERSON)
    for name in INPUTS:
        noise().save(server.base / "input" / f"{name}.png")


def folder(server: Server, name: str) -> Path:
    """One of the server's models folders, made where it is absent."""
    path = server.base / "models" / name
    path.mkdir(exist_ok=True)
    return path


def write_adapters(server: Server) -> None:
    for family in ("flux", "sd3"):
        server.save_weights("diffusion_models", f"stand-in-{family}", bases.published(family))
    for name in ("seg", "canny", "depth"):
        server.save_weights("mdit_adapters", name, bases.easycontrol())
    server.save_weights("mdit_adapters", "coloring", bases.ominicontrol())
    for family, (name, changes) in OWN_ADAPTERS.items():
        config = bases.config(family, **changes)
        weights = bases.terms(family, config)
        server.save_weights("mdit_adapters", f"your_{name}_adapter", weights, config.to_metadata())
    face_mogle.write(folder(server, "mdit_adapters"))


def write_face_diffuser(server: Server) -> None:
    unet = UNetModel(**UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for seed, name in enumerate(("scene", "subject")):
        server.save_weights("diffusion_models", f"stand-in-{name}", face_diffuser.random_weights(unet, seed))


def write_previews(server: Server) -> None:
    """Tiny VAEs of the host's preview kind, with biases that keep their images from being black."""
    for name, channels, halves in (("taesd", 4, (Encoder, Decoder)), ("taef1", 16, (Encoder, Decoder)),
                                   ("taef2", 128, (EncoderFlux2, DecoderFlux2))):
        for half in halves:
            weights = bases.random_weights(half(channels))
            for key, weight in weights.items():
                if weight.ndim == 1:
                    weights[key] = torch.zeros_like(weight)
            weights[list(weights)[-1]] += 0.6
            part = half.__name__.lower().removesuffix("flux2")
            server.save_weights("vae_approx", f"{name}_{part}", weights)


def write_pt_dit(server: Server, golden: Path) -> None:
    server.save_weights("diffusion_models", "stand-in-pt-dit", pt_dit.random_weights(pt_dit.network()))
    (folder(server, "diffusion_models") / "stand-in-pt-dit.json").write_text(pt_dit.JSON)
    server.save_weights("vae", "stand-in-pt-dit-vae", load_file(golden / "pt-dit" / "vae_model.safetensors"))


def write_mmface(server: Server) -> None:
    server.save_weights("diffusion_models", "stand-in-mmface", mmface.random_weights(mmface.network()))
    server.save_weights("text_encoders", "stand-in-mmface-text", mmface.text_weights())


def noise() -> Image.Image:
    """A coarse random image, the same at each call."""
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, (512, 512))
    return Image.fromarray((fine[0].movedim(0, -1) * 255).byte().numpy())


def shrink_drawing(drawing: str) -> str:
    """The painter's drawing in the small size."""
    labels = decode_drawing(drawing)[None]  # (1, H, W)
    return encode_drawing(resize_nearest(labels, SMALL["height"], SMALL["width"])[0])


def unet(name: str) -> dict:
    return node("UNETLoader", unet_name=f"stand-in-{name}.safetensors", weight_dtype="default")


def small(loader: str, **inputs) -> dict:
    """A loader of the host that reads small variants; see probe_nodes/small_models.py."""
    return node(f"Probe_Small{loader}", **inputs)


def vae(name: str) -> dict:
    return node("VAELoader", vae_name=name)


def text(width: int, pooled: int, seed: int = 0) -> dict:
    return node("Probe_RandomText", seed=seed, width=width, pooled_width=pooled)


INTERACTION = node("MDiT_LoadInteractDiffusion", weights_name="stand-in-interactdiffusion.pth")
ADAPTER = {"CLIPTextEncode": [text(bases.CONTEXT, bases.POOLED)], "T5TokenizerOptions": [None],
           "ControlNetLoader": [None],
           "ControlNetApplyAdvanced": ["positive", "negative"], "ACN_ControlNetLoaderAdvanced": [None],
           "ACN_AdvancedControlNetApply_v2": ["positive", "negative"]}
SUBJECT, SCENE = ([unet(name), None, vae("taesd"), None] for name in ("subject", "scene"))
SWAPS = {  # by a sign in the names of the model files, the first that fits: what stands for each output of a node
    "flux1-fill": {"UNETLoader": [unet("flux-fill")], "DualCLIPLoader": [None], "VAELoader": [vae("taef1")],
                   "CLIPTextEncode": [text(bases.CONTEXT, bases.POOLED)],
                   "ControlNetLoader": [node("ControlNetLoader", control_net_name="stand-in-flux.safetensors")]},
    "flux-2-klein": {"UNETLoader": [unet("klein")], "CLIPLoader": [None], "VAELoader": [vae("taef2")],
                     "CLIPTextEncode": [text(bases.CONTEXT, bases.POOLED)]},
    "flux1": ADAPTER | {"UNETLoader": [unet("flux")], "UnetLoaderGGUF": [unet("flux")], "DualCLIPLoader": [None],
                        "VAELoader": [vae("taef1")]},
    "sd3": ADAPTER | {"CheckpointLoaderSimple": [unet("sd3"), None, vae("taef1")]},
    "ext_interactdiff": {"CheckpointLoaderSimple": [(INTERACTION, 1), (INTERACTION, 2), (INTERACTION, 3)],
                         "MDiT_LoadInteractDiffusion": [(INTERACTION, 0)]},
    "SDM/": {"MDiT_LoadFaceDiffuser": lambda inputs: SUBJECT if "SDM" in inputs["weights_name"] else SCENE,
             "MDiT_SubjectConditioning": [text(768, 20, 1), text(768, 20, 2)], "CLIPTextEncode": [text(768, 20)]},
    "qihoo": {"MDiT_LoadPTDiT": [node("MDiT_LoadPTDiT", model_name="stand-in-pt-dit.safetensors",
                                      weight_dtype="default")],
              "MDiT_LoadPTDiTVAE": [node("MDiT_LoadPTDiTVAE", vae_name="stand-in-pt-dit-vae.safetensors")],
              "CLIPLoader": [None], "MDiT_PTDiTText": [text(pt_dit.CONFIG.caption, 8)]},
    "dit_model_weights_ema": {
        "MDiT_LoadMMFace": [node("MDiT_LoadMMFace", model_name="stand-in-mmface.safetensors", objective="flow",
                                 weight_dtype="default")],
        "MDiT_LoadMMFaceCLIP": [node("MDiT_LoadMMFaceCLIP", clip_name="stand-in-mmface-text.safetensors")],
        "VAELoader": [vae("taef1")]},
    "your_dynast": {"MDiT_LoadDynaST": [node("MDiT_LoadDynaST", weights_name="stand-in-face.safetensors")]},
    "latest_net_G": {"MDiT_LoadDynaST": [node("MDiT_LoadDynaST", weights_name="stand-in-person.pth")],
                     "SDPoseKeypointExtractor": [node("Probe_Keypoints", frames=json.dumps([frame()]))],
                     "CheckpointLoaderSimple": [None, None, None]},
    "z_image_turbo": {
        "UNETLoader": [small("UNETLoader", unet_name="stand-in-z-image.safetensors", weight_dtype="default")],
        "ModelPatchLoader": [small("ModelPatchLoader", name="stand-in-z-image-control.safetensors")],
        "CLIPLoader": [None], "CLIPTextEncode": [text(photo_models.QWEN, 8)], "VAELoader": [vae("taef1")]},
    "Chroma1": {
        "UNETLoader": [small("UNETLoader", unet_name="stand-in-chroma.safetensors", weight_dtype="default")],
        "CLIPLoader": [None], "CLIPTextEncode": [text(bases.CONTEXT, 8)], "VAELoader": [vae("taef1")]},
    "sd_xl": {
        "CheckpointLoaderSimple": [small("UNETLoader", unet_name="stand-in-sdxl.safetensors", weight_dtype="default"),
                                   None, vae("taesd")],
        "ControlNetLoader": [small("ControlNetLoader", control_net_name="stand-in-sdxl-union.safetensors")],
        "CLIPTextEncode": [text(2048, 1280)]},
    "sd15_depth": {
        "CheckpointLoaderSimple": [unet("sd15"), None, vae("taesd")],
        "ControlNetLoader": [node("ControlNetLoader", control_net_name="stand-in-sd15-depth.safetensors")],
        "CLIPTextEncode": [text(768, 20)]},
    "sam3": {"SAM3_Detect": [node("SolidMask", value=1.0, width=512, height=512)], "CLIPTextEncode": [None],
             "CheckpointLoaderSimple": [None, None, None]},
}


def swaps_for(graph: dict) -> dict:
    """What stands in for the nodes of a graph; nothing if the bundled models are enough."""
    inputs = str([made["inputs"] for made in graph.values()])
    return next((swaps for sign, swaps in SWAPS.items() if sign in inputs), {})


def runnable(graph: dict) -> dict:
    """A copy of a graph in API form, with tiny models and small images."""
    swaps = swaps_for(graph)
    graph = copy.deepcopy(graph)
    return Swapping(graph, swaps).run() if swaps else graph


class Swapping:
    """One graph whose nodes of full-size models are replaced."""

    def __init__(self, graph: dict, swaps: dict):
        self.graph = graph
        self.swaps = swaps
        self.made = {}  # the new graph

    def run(self) -> dict:
        for key, one in self.graph.items():
            if self.stands(key) is None:
                self.made[key] = {**one, "inputs": self.inputs(one)}
        return self.made

    def stands(self, key: str) -> list[Stand] | None:
        """What stands in for each output of a node; None for a node that stays."""
        found = self.swaps.get(self.graph[key]["class_type"])
        return found(self.graph[key]["inputs"]) if callable(found) else found

    def inputs(self, one: dict) -> dict:
        """The inputs of a node that stays, in small sizes."""
        values = {name: self.resolve(value) for name, value in one["inputs"].items()}
        for name, number in SMALL.items():
            if isinstance(values.get(name), int) and values[name] != 1:  # 1: a fraction, the whole
                values[name] = number
        if "drawing" in values:
            values["drawing"] = shrink_drawing(values["drawing"])
        return {name: value for name, value in values.items() if value is not None}

    def resolve(self, value):
        """A value of an input; a link to a replaced node leads to its stand-in, which is added to the graph."""
        if not isinstance(value, list) or self.stands(value[0]) is None:
            return value
        key, slot = value
        stand = self.stands(key)[slot]
        if isinstance(stand, str):
            return self.resolve(self.graph[key]["inputs"][stand])
        if stand is None:
            return None
        shared = isinstance(stand, tuple)  # one node with several outputs, made once
        one, output = stand if shared else (stand, 0)
        name = f"{key}: {one['class_type']}" + ("" if shared else f", {slot}")
        self.made[name] = one
        return [name, output]

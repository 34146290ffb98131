"""Graphs in API form that hold every node of the pack, run by the host's own executor in this process."""
from __future__ import annotations

import asyncio
import copy
import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import execution
import nodes
from comfy.model_patcher import ModelPatcher
from mditface.nodes import NODES
from mditface.nodes.painter import first_drawing
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.graphs import node
from mditface.tests.face_diffuser import test_subject
from mditface.tests.face_diffuser import tiny as face_diffuser
from mditface.tests.interactdiffusion import tiny as interactdiffusion

ROOT = Path(__file__).absolute().parents[2]
TEMPLATES = ROOT / "example_workflows" / "api"
EXTRAS = ("canny", "controlnet", "custom_sampler", "dataset", "differential_diffusion", "flux", "images", "logic",
          "mask", "mediapipe", "model_advanced", "model_patch", "preview_any", "sam3", "sd3")
WIDTH = 64  # of the tiny subject encoder
SMALL = {"width": 64, "height": 64, "steps": 4, "size": 64}


def own_patcher(patcher: ModelPatcher) -> ModelPatcher:
    """A patcher that the host would have made where the test runs."""
    management = comfy.model_management
    return ModelPatcher(patcher.model, management.get_torch_device(), management.unet_offload_device())


def make_sd15(seed: int) -> ModelPatcher:
    """A tiny Stable Diffusion 1.x that reads text as wide as the subject's encoder makes it."""
    config = comfy.supported_models.SD15({**face_diffuser.UNET, "context_dim": WIDTH, "dtype": torch.float32})
    model = comfy.model_base.BaseModel(config, device="cpu")
    model.diffusion_model.load_state_dict(face_diffuser.random_weights(model.diffusion_model, seed))
    return own_patcher(ModelPatcher(model, None, None))


GIVEN = {
    "interaction model": lambda: own_patcher(interactdiffusion.base.__wrapped__()),
    "interaction text": lambda: interactdiffusion.clip.__wrapped__(interactdiffusion.FEATURE),
    "scene": lambda: make_sd15(0),
    "subject model": lambda: make_sd15(1),
    "subject": lambda: test_subject.build(test_subject.weights()),
    "subject text": lambda: face_diffuser.clip.__wrapped__(WIDTH),
}


class Given:
    """A node that gives a tiny model."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"name": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("*",), "make", "devices"

    def make(self, name):
        return (GIVEN[name](),)


class Move:
    """A node that gives an image, a mask or a latent as another node might: on another device, in another type."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",), "device": ("STRING", {}),
                                                        "dtype": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("*",), "move", "devices"

    def move(self, value, device, dtype):
        if isinstance(value, dict):
            return ({**value, "samples": value["samples"].to(device)},)
        return (value.to(device, getattr(torch, dtype)),)


def given(name: str) -> dict:
    return node("Given", name=name)


SWAPS = {
    "ext_interactdiff": {
        "CheckpointLoaderSimple": [given("interaction model"), given("interaction text"), stand_ins.vae("taesd")],
        "CLIPTextEncode": [stand_ins.text(interactdiffusion.CONTEXT, 8)],
        "MDiT_LoadInteractDiffusion": [node("MDiT_LoadInteractDiffusion", weights_name="plugin.safetensors")]},
    "SDM/": {"MDiT_LoadFaceDiffuser": lambda inputs: [given("subject model" if "SDM" in inputs["weights_name"]
                                                            else "scene"),
                                                      given("subject text"), stand_ins.vae("taesd"), given("subject")],
             "CLIPTextEncode": [stand_ins.text(WIDTH, 8)]},
}


class NodeFailed(Exception):
    """A node of a graph raised an error; the message holds its stack."""


def register_nodes():
    """Makes the host know its extra nodes that the graphs need, the pack's nodes, and the probes of the tests."""
    host = Path(os.environ["COMFYUI_PATH"])
    for name in EXTRAS:
        path = host / "comfy_extras" / f"nodes_{name}.py"
        asyncio.run(nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    nodes.NODE_CLASS_MAPPINGS.update({one.GET_SCHEMA().node_id: one for one in NODES})
    path = ROOT / "tests" / "e2e" / "probe_nodes" / "__init__.py"
    spec = importlib.util.spec_from_file_location("mditface_probes", path)
    probes = importlib.util.module_from_spec(spec)
    sys.modules["mditface_probes"] = probes  # its own modules find it there
    spec.loader.exec_module(probes)
    nodes.NODE_CLASS_MAPPINGS.update(probes.NODE_CLASS_MAPPINGS, Given=Given, Move=Move)


def read_template(name: str) -> dict:
    """A template with tiny models and small images."""
    graph = json.loads((TEMPLATES / f"{name}.json").read_text())
    swaps = next((swaps for sign, swaps in SWAPS.items() if sign in str(graph)), None)
    graph = stand_ins.Swapping(graph, swaps).run() if swaps else stand_ins.runnable(graph)
    for one in graph.values():
        if not one["class_type"].startswith("Probe"):
            shrink(one["inputs"])
        if one["inputs"].get("model_name") == "mditface-demo.safetensors":
            one["inputs"]["model_name"] = "tiny.safetensors"
    return graph


def repaint_photo() -> dict:
    """The template that edits a photograph, with another face in the painter."""
    graph = read_template("3 Photo, change the hair")
    (paint,) = (one for one in graph.values() if one["class_type"] == "MDiT_PaintLabelMap")
    paint["inputs"]["drawing"] = first_drawing()
    return graph


def shrink(inputs: dict):
    for name, number in SMALL.items():
        if isinstance(inputs.get(name), int) and inputs[name] > 1:
            inputs[name] = number


def train_adapter() -> dict:
    """Training on images that are their own label maps, then sampling with what was trained."""
    text = [stand_ins.text(24, 20, seed) for seed in range(2)]
    return {
        "base": stand_ins.unet("sd3"), "vae": stand_ins.vae("taef1"), "text": text[0], "empty": text[1],
        "map": node("MDiT_ExampleLabelMap", face="woman"),
        "small": node("ImageScale", image=["map", 0], upscale_method="nearest-exact", width=64, height=64,
                      crop="disabled"),
        "latent": node("VAEEncode", pixels=["small", 0], vae=["vae", 0]),
        "train": node("MDiT_TrainAdapter", model=["base", 0], latents=["latent", 0], conditioning=["text", 0],
                      label_maps=["small", 0], vae=["vae", 0], empty_text=["empty", 0], palette="colours",
                      order="CelebAMask-HQ", steps=2, batch_size=1, learning_rate=0.02, rank=2, seed=0,
                      filename_prefix="trained", precision="fp32", preview_steps=1, gradient_checkpointing=True),
        "curve": node("PreviewImage", images=["train", 1]),
        "model": node("MDiT_ApplyAdapter", model=["base", 0], adapter=["train", 0], weight=1.0),
        "mask": node("MDiT_MaskTokenizer", label_map=["small", 0], vae=["vae", 0], token_reduction="merge"),
        "positive": node("MDiT_ApplyMask", conditioning=["text", 0], mask=["mask", 0], strength=0.8, start=0.0,
                         end=0.9),
        "sampler": node("MDiT_Sampler", model=["model", 0], positive=["positive", 0], negative=["empty", 0],
                        latent_image=["latent", 0], seed=0, steps=2, cfg=2.0, mask_cfg=1.5, sampler_name="euler",
                        scheduler="simple", denoise=1.0),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "picture": node("PreviewImage", images=["decode", 0]),
    }


def move_links(graph: dict, device: str, dtype: str) -> dict:
    """The graph in which a node of the pack gets each image, mask and latent of another node on another device."""
    graph = copy.deepcopy(graph)
    for key, one in list(graph.items()):
        if not one["class_type"].startswith("MDiT_"):
            continue
        for name, value in one["inputs"].items():
            if isinstance(value, list) and find_type(graph, value) in ("IMAGE", "MASK", "LATENT"):
                graph[f"{key} {name}"] = node("Move", value=value, device=device, dtype=dtype)
                one["inputs"][name] = [f"{key} {name}", 0]
    return graph


def find_type(graph: dict, link: list) -> str:
    """The type of what a link carries."""
    return nodes.NODE_CLASS_MAPPINGS[graph[link[0]]["class_type"]].RETURN_TYPES[link[1]]


class Run:
    """A graph that ran, and what its nodes gave."""

    def __init__(self, graph: dict):
        server = SimpleNamespace(client_id=None, last_node_id=None, last_prompt_id=None, sockets_metadata={},
                                 send_sync=lambda *args, **kwargs: None)
        self.graph = graph
        self.executor = execution.PromptExecutor(server, cache_args={"ram": 0, "ram_inactive": 0})
        kinds = {key: nodes.NODE_CLASS_MAPPINGS[one["class_type"]] for key, one in graph.items()}
        ends = [key for key, kind in kinds.items() if getattr(kind, "OUTPUT_NODE", False)]
        self.executor.execute(graph, "devices", {}, ends)
        for event, data in self.executor.status_messages:
            if event == "execution_error":
                raise NodeFailed(f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}\n"
                                 + "".join(data["traceback"]))

    def list_outputs(self, key: str) -> list:
        entry = self.executor.caches.outputs.get(key)
        entry = asyncio.run(entry) if inspect.isawaitable(entry) else entry
        return [value for slot in entry.outputs for value in slot] if entry else []

    def list_tensors(self) -> dict[str, Tensor]:
        """Every tensor that a node of the pack gave and every decoded image, on the CPU in float32."""
        found = {}
        for key, one in self.graph.items():
            if not one["class_type"].startswith(("MDiT_", "VAEDecode")):
                continue
            for i, value in enumerate(self.list_outputs(key)):
                value = value.get("samples") if isinstance(value, dict) else value
                if isinstance(value, Tensor):
                    found[f"{one['class_type']} {key}.{i}"] = value.cpu().float()
        return found

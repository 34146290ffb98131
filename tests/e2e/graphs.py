"""Graphs in API form for the end-to-end tests; their node ids are words."""
from __future__ import annotations

import json
import threading
from collections.abc import Callable

import psutil
import pytest

from devtools.node_info import read_pack
from devtools.server import Interrupted, Server


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def face(model_name: str, label_map: str, *, seed: int = 0, text: str = "young woman, blond hair", width: int = 64,
         height: int = 64, batch: int = 1, **nodes: dict) -> dict:
    """An image from a label map and a text; `nodes` are added or replace the graph's own."""
    return {
        "model": loader(model_name),
        "map": node("LoadImage", image=label_map),
        "mask": tokenizer(["map", 0]),
        "positive": node("MDiT_TextConditioning", clip=["model", 1], text=text, mask=["mask", 0], mask_strength=1.0),
        "negative": node("MDiT_TextConditioning", clip=["model", 1], text=""),
        "latent": node("EmptyLatentImage", width=width, height=height, batch_size=batch),
        "sampler": sampler(seed=seed),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "picture": node("PreviewImage", images=["decode", 0]),
        "report": node("PreviewAny", source=["sampler", 1]),
        **nodes,
    }


def adapted(unet_name: str, adapter_name: str, label_map: str, *, text: int = 0, condition_size: int = 0,
            seed: int = 0, **nodes: dict) -> dict:
    """An image from a host model with an adapter and a label map; `nodes` are added or replace the graph's own."""
    from mditface.tests.adapter.bases import CONTEXT, POOLED
    return {
        "base": node("UNETLoader", unet_name=unet_name, weight_dtype="default"),
        "adapter": node("MDiT_LoadAdapter", adapter_name=adapter_name),
        "model": apply_adapter("base", "adapter", condition_size=condition_size),
        "vae": node("VAELoader", vae_name="taef1"),
        "map": node("LoadImage", image=label_map),
        "mask": tokenizer(["map", 0], vae=["vae", 0]),
        "text": node("Probe_RandomText", seed=text, width=CONTEXT, pooled_width=POOLED),
        "negative": node("Probe_RandomText", seed=100, width=CONTEXT, pooled_width=POOLED),
        "positive": apply_mask("text", "mask"),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "sampler": sampler(seed=seed, cfg=1.0, mask_cfg=1.0),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "picture": node("PreviewImage", images=["decode", 0]),
        "report": node("PreviewAny", source=["sampler", 1]),
        **nodes,
    }


def apply_adapter(model: str, adapter: str, **inputs) -> dict:
    return node("MDiT_ApplyAdapter", model=[model, 0], adapter=[adapter, 0], **{"weight": 1.0, **inputs})


def apply_mask(conditioning: str, mask: str, **inputs) -> dict:
    return node("MDiT_ApplyMask", conditioning=[conditioning, 0], mask=[mask, 0],
                **{"strength": 1.0, "start": 0.0, "end": 1.0, **inputs})


def picture(image: str, **inputs) -> dict:
    return node("MDiT_EncodePicture", picture=[image, 0], **{"vae": ["vae", 0], "placement": "on the image", **inputs})


def loader(model_name: str) -> dict:
    return node("MDiT_LoadModel", model_name=model_name, weight_dtype="default")


def tokenizer(label_map: list, **inputs) -> dict:
    return node("MDiT_MaskTokenizer", label_map=label_map, **{
        "palette": "colours", "order": "CelebAMask-HQ", "token_reduction": "off", "hidden_classes": "", **inputs})


def sampler(model: str = "model", **inputs) -> dict:
    return node("MDiT_Sampler", model=[model, 0], latent_image=["latent", 0], **{
        "positive": ["positive", 0], "negative": ["negative", 0], "seed": 0, "steps": 3, "cfg": 2.0, "mask_cfg": 1.5,
        "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **inputs})


def system_loaders() -> set[str]:
    """The node that begins each system that makes images: the first loader of its file. A parser makes none."""
    loaders = {}
    for name, described in read_pack().items():
        if name.startswith("MDiT_Load") and described["file"] != "parsing":
            loaders.setdefault(described["file"], name)
    return set(loaders.values())


def inspect(server) -> dict:
    """What the host has loaded and what all caches hold; see Probe_Inspect."""
    return json.loads(text_of(server.run({"look": node("Probe_Inspect")}), "look"))


def text_of(entry: dict, node_id: str) -> str:
    """What an output node of a finished run shows as text."""
    return entry["outputs"][node_id]["text"][0]


def cancelled(server: Server, graph: dict, due: Callable[[dict], bool]) -> tuple[str, float]:
    """Runs a graph and presses Cancel at the first progress event whose data is `due`.

    Returns the node that was stopped, and how long the host kept running: in seconds of its own CPU time, so that other
    work on the machine does not count.
    """
    host = psutil.Process(server.process.pid)
    times = []

    def press():
        server.interrupt()
        times.append(host.cpu_times().user)
    pressing = threading.Thread(target=press)

    def on_event(kind, data):
        if kind == "progress" and due(data) and pressing.ident is None:
            pressing.start()
        if kind == "execution_interrupted":
            times.append(host.cpu_times().user)
    with pytest.raises(Interrupted) as caught:
        server.watch(graph, on_event)
    pressing.join()
    (stopped,) = caught.value.args
    return stopped, max(times) - min(times)

"""Graphs in API form for the end-to-end tests; their node ids are words."""
from __future__ import annotations

import json


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def face(model_name: str, label_map: str, *, seed: int = 0, text: str = "young woman, blond hair", width: int = 64,
         height: int = 64, batch: int = 1, **nodes: dict) -> dict:
    """A picture from a label map and a text; `nodes` are added or take the place of the graph's own."""
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


def loader(model_name: str) -> dict:
    return node("MDiT_LoadModel", model_name=model_name, weight_dtype="default")


def tokenizer(label_map: list, **inputs) -> dict:
    return node("MDiT_MaskTokenizer", label_map=label_map, **{
        "palette": "colours", "order": "CelebAMask-HQ", "token_reduction": "off", "hidden_classes": "", **inputs})


def sampler(model: str = "model", **inputs) -> dict:
    return node("MDiT_Sampler", model=[model, 0], positive=["positive", 0], negative=["negative", 0],
                latent_image=["latent", 0], **{
                    "seed": 0, "steps": 3, "cfg": 2.0, "mask_cfg": 1.5, "sampler_name": "euler", "scheduler": "simple",
                    "denoise": 1.0, **inputs})


def inspect(server) -> dict:
    """What the host has loaded and what all caches hold; see Probe_Inspect."""
    return json.loads(text_of(server.run({"look": node("Probe_Inspect")}), "look"))


def text_of(entry: dict, node_id: str) -> str:
    """What an output node of a finished run shows as text."""
    return entry["outputs"][node_id]["text"][0]

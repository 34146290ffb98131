"""Nodes that only tests use: they look inside the running host, or break something on purpose."""
import functools
import gc
import json
import threading
import time
from pathlib import Path

import torch

import comfy.model_management
import comfy.model_patcher
import comfy.utils

from .small_models import LOADERS


def with_static(model, wrap):
    """A clone of an MDiT MODEL; in block i, `wrap(i, static)` stands for the static path."""
    model = model.clone()
    for i, block in enumerate(model.model.diffusion_model.blocks):
        static = functools.partial(type(block).run_static, block)
        model.add_object_patch(f"diffusion_model.blocks.{i}.run_static", wrap(i, static))
    return model


class SlowStatic:
    """A MODEL that sleeps in every block of the static path."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "seconds": ("FLOAT", {"step": 0.001})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "probe"

    def patch(self, model, seconds):
        def slow(i, static):
            return lambda *args, **kwargs: (time.sleep(seconds), static(*args, **kwargs))[1]
        return (with_static(model, slow),)


class FailOnce:
    """A MODEL whose first static pass runs out of memory in the middle."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "probe"
    failed = False  # of the class: running out of memory makes the host forget the node

    def patch(self, model):
        def fail(i, static):
            def block(*args, **kwargs):
                if i == 1 and not FailOnce.failed:
                    FailOnce.failed = True
                    raise comfy.model_management.OOM_EXCEPTION("simulated: no memory left in the static pass")
                return static(*args, **kwargs)
            return block
        return (with_static(model, fail),)


class OtherModel:
    """A MODEL of a family that knows no masks."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "probe"

    def make(self):
        device = torch.device("cpu")
        return (comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), device, device),)


class OtherVAE:
    """A VAE with 4 latent channels at an eighth of the size."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "make", "probe"

    def make(self):
        return (self,)

    def encode(self, pictures):
        return torch.ones(pictures.shape[0], 4, pictures.shape[1] // 8, pictures.shape[2] // 8)


class RandomText:
    """A CONDITIONING of random numbers, as wide as a model wants it: stands in for text encoders."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {
        "seed": ("INT", {}), "width": ("INT", {}), "pooled_width": ("INT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "probe"

    def make(self, seed, width, pooled_width):
        generator = torch.Generator().manual_seed(seed)
        text, pooled = (torch.randn(1, *shape, generator=generator) for shape in ((6, width), (pooled_width,)))
        return ([[text, {"pooled_output": pooled}]],)


class Keypoints:
    """A POSE_KEYPOINT out of JSON: stands in for pose detectors."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"frames": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("POSE_KEYPOINT",), "make", "probe"

    def make(self, frames):
        return (json.loads(frames),)


class Anything:
    """Any value out of JSON, for an input of any type."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("*",), "make", "probe"

    def make(self, value):
        return (json.loads(value),)


def list_odd_objects() -> dict:
    """What other nodes may give in place of an image, a mask, a latent or a conditioning, by name."""
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    latent = torch.zeros(1, 4, 8, 8)
    return {
        "image": image, "image of one channel": image[..., :1], "image of four channels": image[..., [0, 1, 2, 0]],
        "image of two channels": image[..., :2], "image without a batch": image[0], "video": image[None],
        "image of bytes": (image * 255).byte(), "image of bools": image > 0.5, "image of halves": image.half(),
        "image of doubles": image.double(), "image of NaN": image * float("nan"), "image of 1e9": image * 1e9,
        "three images": image.repeat(3, 1, 1, 1), "empty batch": image[:0], "image without pixels": image[:, :0],
        "pixel": image[:, :1, :1], "line": image[:, :1], "wide image": image[:, :16].repeat(1, 1, 64, 1),
        "black": torch.zeros_like(image), "white": torch.ones_like(image), "complex image": image + 1j * image,
        "sparse image": image.to_sparse(), "meta image": image.to("meta"), "mask": image[..., 0],
        "flat mask": image[0, ..., 0], "mask of two images": image[..., 0].repeat(2, 1, 1), "number": torch.tensor(3.0),
        "latent": {"samples": latent}, "latent of 16 channels": {"samples": latent.repeat(1, 4, 1, 1)},
        "latent of a video": {"samples": latent[:, :, None]}, "latent of text": {"samples": "x"}, "latent of none": {},
        "latent of NaN": {"samples": latent * float("nan")}, "empty latent": {"samples": latent[:0]},
        "tiny latent": {"samples": latent[..., :1, :1]}, "latents in a list": [{"samples": latent}],
        "conditioning": [[torch.zeros(1, 6, 24), {}]], "conditioning of text": [["x", {}]],
        "conditioning of two parts": [[torch.zeros(1, 6, 24)]], "flat conditioning": [[torch.zeros(24), {}]],
        "conditioning of None": [[None, None]], "bytes": b"x", "set": {1}, "object": object(), "class": torch.nn.Linear,
        "module": torch.nn.Linear(1, 1), "array": image.numpy(), "tuple": (1, 2), "function": len,
    }


class Odd:
    """An object for an input of any type."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"kind": (list(list_odd_objects()),)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("*",), "make", "probe"

    def make(self, kind):
        return (list_odd_objects()[kind],)


class Seen:
    """An output that takes any value and shows nothing."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",)}})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "look", "probe", True

    def look(self, value):
        return {}


class EmptyBatch:
    """An IMAGE and a LATENT of no pictures."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE", "LATENT"), "make", "probe"

    def make(self):
        return torch.zeros(0, 64, 64, 3), {"samples": torch.zeros(0, 3, 64, 64)}


class Wait:
    """Hands on an IMAGE some seconds later, with progress, or fails."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {
        "image": ("IMAGE",), "seconds": ("FLOAT", {"default": 0.0, "step": 0.001}), "fails": ("BOOLEAN", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "wait", "probe"

    def wait(self, image, seconds, fails):
        progress = comfy.utils.ProgressBar(10)
        for _ in range(10):
            time.sleep(seconds / 10)
            progress.update(1)
        if fails:
            raise ValueError("simulated: the node fails")
        return (image,)


class Inspect:
    """What the host has loaded, what all living caches of masks hold together, and the names of threads, as JSON."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "look", "probe", True
    IS_CHANGED = classmethod(lambda cls: float("nan"))

    def look(self):
        gc.collect()
        caches = [thing for thing in gc.get_objects() if type(thing).__name__ == "StaticMaskCache"]
        found = {"loaded": [type(m.real_model()).__name__ for m in comfy.model_management.current_loaded_models],
                 "caches": len(caches), "entries": sum(len(cache.entries) for cache in caches),
                 "bytes": sum(cache.nbytes for cache in caches), "planned": sum(cache.planned for cache in caches),
                 "threads": sorted(thread.name for thread in threading.enumerate())}
        return {"ui": {"text": [json.dumps(found)]}}


class Interactions:
    """Interactions as JSON."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"interactions": ("MDIT_INTERACTIONS",)}})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "look", "probe", True

    def look(self, interactions):
        return {"ui": {"text": [json.dumps(interactions)]}}


class WordClip:
    """A CLIP whose tokens are the words of a text; its output is zeros."""
    start = (49406, 1.0)
    end = (49407, 1.0)

    def tokenize(self, text):
        words = [(number, 1.0) for number, _ in enumerate(text.split())]
        return {"l": [[self.start, *words, *[self.end] * (76 - len(words))]]}

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.zeros(1, 77, 1), {}]]


class MeanEncoder:
    """A subject's encoder that writes an image's mean to its noun."""

    def encode(self, images, resolution):
        return torch.stack([image.mean() for image in images])[:, None]

    def fuse(self, text, positions, vectors):
        fused = text.clone()
        fused[:, positions] = vectors
        return fused


class SubjectParts:
    """What Load Face-diffuser gives to Encode Subject."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP", "FACE_DIFFUSER_SUBJECT"), "make", "probe"

    def make(self):
        return WordClip(), MeanEncoder()


class Conditioning:
    """The first channel of a CONDITIONING's tokens as JSON."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",)}})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "look", "probe", True

    def look(self, conditioning):
        return {"ui": {"text": [json.dumps(conditioning[0][0][0, :, 0].tolist())]}}


def declare(described: dict) -> type:
    """A node of another pack as foreign.json describes it: host and front end know its sockets; it never runs."""
    return type("Foreign", (), {
        "INPUT_TYPES": classmethod(lambda cls: described["input"]), "FUNCTION": "absent", "CATEGORY": "probe",
        "RETURN_TYPES": tuple(described["output"]), "RETURN_NAMES": tuple(described["output_name"])})


FOREIGN = json.loads((Path(__file__).parent / "foreign.json").read_text())
NODE_CLASS_MAPPINGS = {name: declare(described) for name, described in FOREIGN.items()}
NODE_CLASS_MAPPINGS |= {f"Probe_{node.__name__}": node
                       for node in (SlowStatic, FailOnce, OtherModel, OtherVAE, RandomText, Keypoints, Anything,
                                    EmptyBatch, Odd, Seen, Wait, Inspect, Interactions, SubjectParts, Conditioning,
                                    *LOADERS)}

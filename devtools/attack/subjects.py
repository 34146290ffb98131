"""Tiny models that read masks, of the host's own classes and our stand-alone one, and what a step makes of them."""
from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_merging import ModelMergeSimple
from mditface.mdit.labelmap import CLASSES, PALETTE, to_image
from mditface.mdit.mditface import host
from mditface.mdit.mditface.adapter.reader import make_mask_key
from mditface.mdit.mditface.mask import MaskInput, MaskReference, MaskSource
from mditface.mdit.mditface.pictures import PictureInput
from mditface.tests.adapter import bases
from mditface.tests.adapter.test_composition import control_net, controlled, lora_layers
from mditface.tests.adapter.test_precision import QuantisedOps
from mditface.tests.face_mogle import tiny as face_mogle
from mditface.tests.mditface import runs, tiny
from mditface.tests.mditface.test_exemplar import READING
from mditface.tests.shared import hooks
from mditface.tests.shared.reloading import OTHER
from node_helpers import conditioning_set_values

from .steps import PLAIN, Step

Conditioning = list
WEIGHTS = {"float32": {}, "bf16": {"dtype": torch.bfloat16}, "fp8": {"dtype": torch.float8_e4m3fn},
           "quantised": {"custom_operations": QuantisedOps}}
OTHER_SEED = 9  # of the weights of what is merged in
PROMPTS = ("young woman, blond hair", "man, red hair", "man")


class Subject:
    """A model, and what the fields of a step change about it.

    without: fields that mean nothing here.
    channels, sides: of the latents.
    lora: of the layers that a mask passes.
    replaced: the layer that an object patch replaces.
    """
    without: tuple[str, ...] = ()
    channels = 16
    sides = ((8, 8), (12, 8), (7, 9))
    lora: dict[str, Tensor]
    replaced: str

    def load_base(self, weights: str = "float32", seed: int = 0) -> ModelPatcher:
        """The model as a loader gives it."""
        raise NotImplementedError

    def load_base_again(self, weights: str) -> ModelPatcher:
        """Another copy of it."""
        raise NotImplementedError

    def make_reader(self, base: ModelPatcher, step: Step) -> ModelPatcher:
        """The base with all that reads masks."""
        raise NotImplementedError

    def make_text(self, number: int, step: Step) -> Conditioning:
        """A text without a mask."""
        raise NotImplementedError

    def make_mask(self, labels: Tensor, visible: Tensor, reduction: str) -> MaskSource:
        raise NotImplementedError

    @functools.cached_property
    def layer(self) -> torch.nn.Module:
        """What an object patch puts in place of a layer."""
        width = self.lora_width
        torch.manual_seed(3)
        return torch.nn.Linear(width, 3 * width).requires_grad_(False)

    @property
    def lora_width(self) -> int:
        return next(iter(self.lora.values())).shape[0] // 3

    def build(self, step: Step) -> ModelPatcher:
        """The model of a step, made anew of its base."""
        model = self.load_base(step["weights"])
        if step["early_lora"]:
            model = runs.with_lora(model, step["early_lora"])
        model = self.make_reader(model, step)
        for name, change in CHANGES.items():
            if step[name] != PLAIN[name]:
                model = change(self, model, step)
        return model

    def add_masks(self, cond: Conditioning, step: Step, find_mask: Callable[[int], MaskSource]) -> Conditioning:
        """find_mask: the mask of a step, or with a number above 0 another one."""
        return runs.masked(cond, find_mask(0), step["strength"], *step["range"])


class StandAlone(Subject):
    """Our own model, which reads exemplars, too."""
    without = ("guidance", "adapter_weight", "early_lora", "second", "reference", "control")
    channels = 3
    sides = ((16, 16), (20, 12), (13, 18))
    lora = runs.MASK_LORA
    replaced = "blocks.2.msk.qkv"

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder

        self.load = functools.cache(self.load_file)

    def load_file(self, weights: str, seed: int) -> host.LoadedMDiT:
        path = tiny.write(self.folder / f"mdit-{seed}.safetensors", tiny.config(**READING), seed)
        return host.load_mdit(path, WEIGHTS[weights].get("dtype"))

    def load_base(self, weights="float32", seed=0):
        return self.load(weights, seed).model

    def load_base_again(self, weights):
        return self.load_file(weights, 0).model

    def make_reader(self, base, step):
        return base

    def make_text(self, number, step):
        return tiny.conditioning(self.load("float32", 0).clip, (*PROMPTS, "")[number])

    def make_mask(self, labels, visible, reduction):
        return MaskInput(labels, visible, reduction)


class Adapted(Subject):
    """A model of the host's with an adapter."""
    without = ("exemplar",)

    def __init__(self, family: str, folder: Path, make: Callable[[ModelPatcher, Path], bases.Case], edits: bool):
        """make: makes the adapter of a base. edits: whether the base reads reference latents."""
        self.family = family
        folder.mkdir()
        self.case = make(self.load_base(), folder)
        (folder / "second").mkdir()
        self.second = bases.case(family, self.load_base(), folder / "second", seed=5)
        self.lora = runs.lora(*lora_layers(self.second)[:1], width=self.second.adapter.config.width)
        self.replaced = lora_layers(self.second)[1]
        self.without = (*self.without, *([] if edits else ["reference"]))

    def load_base(self, weights="float32", seed=0):
        return load_base(self.family, weights, seed)

    def make_reader(self, base, step):
        model = self.case.apply(base, step["adapter_weight"])
        return self.second.apply(model) if step["second"] else model

    def make_text(self, number, step):
        values = {} if step["guidance"] is None else {"guidance": step["guidance"]}
        return bases.text(number, 5 + 2 * (number % 2), **values)

    def make_mask(self, labels, visible, reduction):
        return MaskInput(labels, visible, reduction, bases.VAE)

    def add_masks(self, cond, step, find_mask):
        cond = super().add_masks(cond, step, find_mask)
        if step["second"] != "other mask":
            return cond
        return conditioning_set_values(cond, {make_mask_key(self.second.adapter): MaskReference(find_mask(2))})

    def load_base_again(self, weights):
        return load_base.__wrapped__(self.family, weights, 0)


class Pictured(Adapted):
    """With an adapter that reads a picture without classes."""

    def make_mask(self, labels, visible, reduction):
        return PictureInput(to_image(labels, PALETTE), vae=bases.VAE)


@functools.cache
def load_base(family: str, weights: str, seed: int) -> ModelPatcher:
    return bases.load(bases.published(family, seed), family, **WEIGHTS[weights])


def add_control(subject: Subject, positive: Conditioning, negative: Conditioning) -> tuple[Conditioning, Conditioning]:
    """Both with a ControlNet of random weights."""
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    return controlled(subject.family, control_net(subject.family), positive, negative, picture)


def merge(subject: Subject, model: ModelPatcher, step: Step) -> ModelPatcher:
    return ModelMergeSimple().merge(model, subject.load_base(seed=OTHER_SEED), step["merge"])[0]


def replace_layer(subject: Subject, model: ModelPatcher, step: Step) -> ModelPatcher:
    model = model.clone()
    model.add_object_patch(f"diffusion_model.{subject.replaced}", subject.layer)
    return model


def rescale(subject: Subject, model: ModelPatcher, step: Step) -> ModelPatcher:
    model = model.clone()
    model.set_model_rope_options(step["rope"], 0, step["rope"], 0, 1, 0)
    return model


def compute_in(subject: Subject, model: ModelPatcher, step: Step) -> ModelPatcher:
    model = model.clone()
    model.set_model_compute_dtype(getattr(torch, step["dtype"]))
    return model


def negate_prompt(apply_model, args: dict) -> Tensor:
    """What another node may do to the prompt inside of a run, in place."""
    if args["c"].get("y") is not None:
        args["c"]["y"].neg_()
    return apply_model(args["input"], args["timestep"], **args["c"])


WRAPPERS = {"other prompt": hooks.setter("set_model_unet_function_wrapper", negate_prompt),
            "row by row": hooks.split_rows(lambda count: [[i] for i in range(count)])}


def wrap(subject: Subject, model: ModelPatcher, step: Step) -> ModelPatcher:
    return WRAPPERS[step["wrapper"]](model)


def spread(subject: Subject, model: ModelPatcher, step: Step) -> ModelPatcher:
    """The host's multi-GPU: the conditions of a call on two devices, each in a thread of its own."""
    model = model.clone()
    twin = model.clone(model_override=subject.load_base_again(step["weights"]).get_clone_model_override())
    twin.load_device = OTHER
    twin.is_multigpu_base_clone = True
    model.set_additional_models("multigpu", [twin])
    return model


CHANGES: dict[str, Callable[[Subject, ModelPatcher, Step], ModelPatcher]] = {
    "lora": lambda subject, model, step: runs.with_lora(model, step["lora"]),
    "bypass": lambda subject, model, step: runs.with_bypass_lora(model, step["bypass"]),
    "merge": merge, "object": replace_layer, "rope": rescale, "dtype": compute_in, "wrapper": wrap, "devices": spread}
def make_face_mogle(base: ModelPatcher, folder: Path) -> bases.Case:
    return bases.Case("flux", base, face_mogle.load(face_mogle.write(folder)), {})


def adapt(family: str, edits: bool = False, **changes) -> Callable[[Path], Adapted]:
    """Makes a subject with an adapter of our own format."""
    return lambda folder: Adapted(family, folder, functools.partial(bases.case, family, **changes), edits)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "mdit": StandAlone,
    "sd3": adapt("sd3"),
    "sd35": adapt("sd35"),
    "flux": adapt("flux", edits=True),
    "flux-windows": adapt("flux", edits=True, window=1, text_reads_mask=False),
    "flux-prompted": adapt("flux", edits=True, mask_vec="prompt_pooled"),
    "flux2": adapt("flux2", edits=True),
    "klein": adapt("klein", edits=True),
    "chroma": adapt("chroma"),
    "easycontrol": lambda folder: Adapted("flux", folder, bases.easycontrol_case, edits=True),
    "ominicontrol": lambda folder: Pictured("flux", folder, bases.ominicontrol_case, edits=True),
    "face-mogle": lambda folder: Adapted("flux", folder, make_face_mogle, edits=True),
}


def show_classes(hidden: bool) -> Tensor:
    """(19,), 0 for hidden classes: every third one, or none."""
    visible = torch.ones(len(CLASSES))
    if hidden:
        visible[::3] = 0
    return visible

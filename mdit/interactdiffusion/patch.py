"""How interactions reach a Stable Diffusion 1.x model: two wrappers around the host's sampling.

docs/design/interactdiffusion.md, sections 8 and 13.
"""
from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..shared.conds import CarriedCond, RowCond, find_places
from .encode import EncodedInteractions, make_empty_interactions
from .model import Grounding, InteractDiffusion
from .schedule import ScheduleBySteps, ScheduleByTimestep, find_moment
from .weights import InteractionWeights

KEY = "mdit_interactions"
ROWS_KEY = f"{KEY}.rows"

LatentArea = tuple[int, int, int, int]  # height, width, top, left in latent cells


@dataclass(frozen=True)
class Reading:
    """How interactions are read.

    strength: factor on the schedule's scale.
    schedule: scale over the run.
    start, end: fractions of the noise schedule between which they are read; 0 is pure noise.
    """
    strength: float = 1.0
    schedule: ScheduleBySteps | ScheduleByTimestep = ScheduleByTimestep()
    start: float = 0.0
    end: float = 1.0

    def compute_scale(self, model_sampling, sigma: Tensor, sample_sigmas: Tensor) -> float:
        """The factor on the fusers' residuals in a call at `sigma` ()."""
        if not model_sampling.percent_to_sigma(self.end) <= sigma <= model_sampling.percent_to_sigma(self.start):
            return 0.0
        return self.strength * self.schedule.compute_scale(find_moment(model_sampling, sigma, sample_sigmas))


def apply_interactions(patcher, weights: InteractionWeights, interactions: EncodedInteractions | None = None,
                       reading: Reading = Reading()):
    """A clone of a Stable Diffusion 1.x MODEL that reads interactions.

    Every positive conditioning without interactions of its own reads `interactions`. Negative ones read the null
    tokens, as in training. Raises ValueError for a model or interactions that do not fit the weights.
    """
    check_model(patcher, weights)
    if interactions is not None:
        interactions.check(weights.network.sizes)
    patcher = patcher.clone()
    reader = InteractionReader(weights, interactions, reading)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, reader.bind)
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, reader.attach)
    return patcher


def check_model(patcher, weights: InteractionWeights):
    """Raises ValueError unless the model has a transformer for each fuser, and no fusers yet."""
    if patcher is None:
        raise ValueError("model: the loaded file has no model: connect 'Load Checkpoint' or another loader of a "
                         "Stable Diffusion 1.x model")
    network = getattr(patcher.model, "diffusion_model", None)
    kind = type(patcher.model).__name__
    if not isinstance(network, UNetModel):
        raise ValueError(f"model: a {kind} has no UNet: InteractDiffusion needs a Stable Diffusion 1.x model")
    sizes = weights.network.sizes
    expected = {name: (width, sizes.token) for name, width in zip(weights.blocks, sizes.fusers)}
    found = read_blocks(network)
    if found != expected:
        raise ValueError(f"model: this {kind} has {describe_blocks(found)}, the weights are made for "
                         f"{describe_blocks(expected)}: load a Stable Diffusion 1.x model")
    if any(KEY in keys for keys in patcher.wrappers.values()):
        raise ValueError("model: InteractDiffusion is already applied to it: use one 'Apply InteractDiffusion'")


def read_blocks(network: UNetModel) -> dict[str, tuple[int, int]]:
    """(width, width of the text) of each spatial transformer, by its name."""
    return {name: (module.in_channels, module.transformer_blocks[0].attn2.to_k.in_features)
            for name, module in network.named_modules() if isinstance(module, SpatialTransformer)}


def describe_blocks(blocks: dict[str, tuple[int, int]]) -> str:
    widths = sorted({width for width, _ in blocks.values()})
    text_widths = sorted({text_width for _, text_width in blocks.values()})
    return (f"{len(blocks)} attention blocks of widths {widths} for text {' or '.join(map(str, text_widths))} wide")


def check_uncompiled(transformer_options: dict):
    """Raises ValueError for a compiled model: the host's compile node would keep the first call's interactions."""
    if COMPILE_KEY in transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
        raise ValueError("model: it is compiled, and a compiled model cannot follow interactions: remove the node that "
                         "compiles it")


class InteractionReader:
    """Binds each condition's interactions to a run, and adds the fusers that read them to the model's blocks."""

    def __init__(self, weights: InteractionWeights, interactions: EncodedInteractions | None, reading: Reading):
        self.weights = weights
        self.interactions = interactions
        self.reading = reading
        self.none = make_empty_interactions(weights.network.sizes)

    def bind(self, executor, noise: Tensor, *args, **kwargs):
        """OUTER_SAMPLE: gives each condition its interactions, and the host the network to load."""
        guider = executor.class_obj
        chosen = []
        for kind, conds in guider.conds.items():
            chosen += [(cond, self.choose(kind, cond)) for cond in conds]
        if self.reading.strength and any(interactions is not self.none for _, interactions in chosen):
            check_uncompiled(guider.model_options["transformer_options"])
            bound = {interactions: BoundInteractions(interactions, noise.shape[-2:])
                     for _, interactions in chosen}
            for cond, interactions in chosen:
                cond["model_conds"] = {**cond["model_conds"], KEY: CarriedCond(bound[interactions]),
                                       ROWS_KEY: RowCond(torch.arange(noise.shape[0]))}
                loaded = self.weights.copies.list_for(guider.model_patcher)
                cond["additional_models"] = [*cond.get("additional_models", []), *loaded]
        return executor(noise, *args, **kwargs)

    def choose(self, kind: str, cond: dict) -> EncodedInteractions:
        """The interactions of a condition. `kind` is the guider's name for it, such as "positive"."""
        if KEY in cond:
            cond[KEY].check(self.weights.network.sizes)
            return cond[KEY]
        return self.none if self.interactions is None or "negative" in kind else self.interactions

    def attach(self, executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None,
               transformer_options={}, **kwargs):
        """APPLY_MODEL: hands the interactions of each row to the fusers, unless their strength is 0."""
        chunks = kwargs.pop(KEY, None)
        places = kwargs.pop(ROWS_KEY, None)
        if chunks:
            model_sampling = executor.class_obj.model_sampling
            scale = self.reading.compute_scale(model_sampling, t[0], transformer_options["sample_sigmas"])
            if scale:
                for chunk in chunks:
                    chunk.cond.check_size(chunk.area, x)
                patches = transformer_options.get("patches", {})
                rows = [chunks[i] for i, _ in find_places(places, chunks, x)]
                network = self.weights.copies.find(executor.class_obj.current_patcher)
                fusers = FuserPatch(network, rows, scale)
                patches = {**patches, "middle_patch": [*patches.get("middle_patch", ()), fusers]}
                transformer_options = {**transformer_options, "patches": patches}
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


class BoundInteractions:
    """Interactions in one run over latents of (height, width).

    Each fuser's keys and values of the interaction tokens are computed at its first call and stored until the run ends
    (about 4.5 MB for one set of interactions in half precision). The host's multi-GPU calls from several threads, each
    with a network on a device of its own.
    """

    def __init__(self, interactions: EncodedInteractions, latent: tuple[int, int]):
        self.interactions = interactions
        self.latent = tuple(latent)
        self.tokens: dict[tuple, Tensor] = {}
        self.entries: dict[tuple, tuple[Tensor, Tensor]] = {}
        self.lock = threading.Lock()

    def find_entry(self, network: InteractDiffusion, fuser: int, area: LatentArea | None, x: Tensor
                   ) -> tuple[Tensor, Tensor]:
        """Keys and values (1, 3S, C) for a fuser and an area of the latent; None is the whole latent."""
        key = network, fuser, area, x.device, x.dtype
        with self.lock:
            if key not in self.entries:
                tokens = self.find_tokens(network, area, x.device).to(x.dtype)
                self.entries[key] = network.fusers[fuser].project_tokens(tokens)
            return self.entries[key]

    def find_tokens(self, network: InteractDiffusion, area: LatentArea | None, device: torch.device) -> Tensor:
        """(1, 3S, E)"""
        key = network, area, device
        if key not in self.tokens:
            height, width = self.latent
            h, w, top, left = area or (height, width, 0, 0)
            fractions = (left / width, top / height, (left + w) / width, (top + h) / height)
            grounding = self.interactions.crop_to(fractions).to_grounding(network.sizes)
            self.tokens[key] = network.position_net(Grounding._make(tensor.to(device) for tensor in grounding))
        return self.tokens[key]

    def check_size(self, area: LatentArea | None, x: Tensor):
        expected = tuple(area[:2]) if area else self.latent
        if tuple(x.shape[-2:]) != expected:
            raise ValueError(f"another node changed the latent from {expected} to {tuple(x.shape[-2:])} inside the "
                             "model call (tiled sampling, or context windows over height or width?): boxes cannot "
                             "follow it; sample without that node")


class FuserPatch:
    """The middle patch of one model call. `rows` are the interactions of each row of the batch."""

    def __init__(self, network: InteractDiffusion, rows: list[CarriedCond], scale: float):
        self.network = network
        self.rows = rows
        self.scale = scale

    def __call__(self, x: Tensor, options: dict) -> Tensor:
        if x.shape[0] != len(self.rows):
            raise ValueError(f"model: another node changes the batch from {len(self.rows)} to {x.shape[0]} rows inside "
                             "the network, which interactions cannot follow: remove that node")
        i = options["transformer_index"]
        entries = [row.cond.find_entry(self.network, i, row.area, x) for row in self.rows]
        keys = torch.cat([k for k, _ in entries])
        values = torch.cat([v for _, v in entries])
        return self.network.fusers[i](x, keys, values, self.scale, options)

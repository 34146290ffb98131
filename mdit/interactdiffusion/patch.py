"""How interactions reach a Stable Diffusion 1.x model: two wrappers around the host's sampling (spec 8 and 13)."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..shared.conds import CarriedCond
from .encode import EncodedInteractions, nothing
from .schedule import BySteps, ByTimestep, moment
from .weights import InteractionWeights

KEY = "mdit_interactions"


@dataclass(frozen=True)
class Reading:
    """How strongly interactions are read, by what schedule, and in which part of the run (0 is pure noise)."""
    strength: float = 1.0
    schedule: BySteps | ByTimestep = ByTimestep()
    start: float = 0.0
    end: float = 1.0

    def scale(self, model_sampling, sigma: Tensor, sample_sigmas: Tensor) -> float:
        """What the fusers' residuals are multiplied by in a call at `sigma` ()."""
        if not model_sampling.percent_to_sigma(self.end) <= sigma <= model_sampling.percent_to_sigma(self.start):
            return 0.0
        return self.strength * self.schedule.scale(moment(model_sampling, sigma, sample_sigmas))


def apply_interactions(patcher, weights: InteractionWeights, interactions: EncodedInteractions | None = None,
                       reading: Reading = Reading()):
    """A clone of a Stable Diffusion 1.x MODEL that reads interactions.

    `interactions` are read by every conditioning that has none of its own, negative ones excepted: without a word on
    them they read the null tokens, as in training. Raises ValueError for a model or interactions that do not fit.
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
    if patcher is None:
        raise ValueError("model: the loaded file holds no model: connect Load Checkpoint or another loader of a Stable "
                         "Diffusion 1.x model")
    network, sizes = getattr(patcher.model, "diffusion_model", None), weights.network.sizes
    kind = type(patcher.model).__name__
    if not isinstance(network, UNetModel):
        raise ValueError(f"model: a {kind} has no UNet: InteractDiffusion needs a Stable Diffusion 1.x model")
    found = {name: (module.in_channels, module.transformer_blocks[0].attn2.to_k.in_features)
             for name, module in network.named_modules() if isinstance(module, SpatialTransformer)}
    expected = {name: (width, sizes.token) for name, width in zip(weights.blocks, sizes.fusers)}
    if found != expected:
        raise ValueError(f"model: this {kind} has {shape_of(found)}, the weights are made for {shape_of(expected)}: "
                         "load a Stable Diffusion 1.x model")
    if any(KEY in keys for keys in patcher.wrappers.values()):
        raise ValueError("model: InteractDiffusion is applied to it already: use one node")


def check_uncompiled(transformer_options: dict):
    """The host's compile node guards nothing of what the fusers read: they would go on with the first call's."""
    if COMPILE_KEY in transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
        raise ValueError("model: it is compiled, and a compiled model cannot follow interactions: remove the node that "
                         "compiles it")


def shape_of(blocks: dict[str, tuple[int, int]]) -> str:
    widths, texts = (sorted(set(found)) for found in zip(*blocks.values()))
    return f"{len(blocks)} attention blocks of widths {widths} for text {' or '.join(map(str, texts))} wide"


class InteractionReader:
    """Binds each conditioning's interactions to a run, and puts the fusers that read them into the model's blocks."""

    def __init__(self, weights: InteractionWeights, interactions: EncodedInteractions | None, reading: Reading):
        self.weights, self.interactions, self.reading = weights, interactions, reading
        self.nothing = nothing(weights.network.sizes)

    def bind(self, executor, noise: Tensor, *args, **kwargs):
        """OUTER_SAMPLE: gives each condition its interactions, and the host the network to load."""
        guider = executor.class_obj
        chosen = [(cond, self.choose(kind, cond)) for kind, conds in guider.conds.items() for cond in conds]
        if self.reading.strength and any(interactions is not self.nothing for _, interactions in chosen):
            check_uncompiled(guider.model_options["transformer_options"])
            bound = {interactions: BoundInteractions(interactions, self.weights, noise.shape[-2:])
                     for _, interactions in chosen}
            for cond, interactions in chosen:
                cond["model_conds"] = {**cond["model_conds"], KEY: CarriedCond(bound[interactions])}
                cond["additional_models"] = [*cond.get("additional_models", []), self.weights.patcher]
        return executor(noise, *args, **kwargs)

    def choose(self, kind: str, cond: dict) -> EncodedInteractions:
        """The interactions of a condition, whose `kind` is the guider's name for it."""
        if KEY in cond:
            cond[KEY].check(self.weights.network.sizes)
            return cond[KEY]
        return self.nothing if self.interactions is None or "negative" in kind else self.interactions

    def attach(self, executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None,
               transformer_options={}, **kwargs):
        """APPLY_MODEL: hands the chunks' interactions to the fusers, where any strength is left to these."""
        chunks = kwargs.pop(KEY, None)
        if chunks:
            scale = self.reading.scale(executor.class_obj.model_sampling, t[0], transformer_options["sample_sigmas"])
            if scale:
                for chunk in chunks:
                    chunk.cond.check_size(chunk.area, x)
                patches = transformer_options.get("patches", {})
                added = [*patches.get("middle_patch", ()), FuserPatch(self.weights.network.fusers, chunks, scale)]
                transformer_options = {**transformer_options, "patches": {**patches, "middle_patch": added}}
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


class BoundInteractions:
    """Interactions in one run over latents of (height, width): the keys and values of their tokens, computed when a
    fuser first asks and kept to the run's end (about 4.5 MB a set in half precision)."""

    def __init__(self, interactions: EncodedInteractions, weights: InteractionWeights, latent: tuple[int, int]):
        self.interactions, self.network, self.latent = interactions, weights.network, tuple(latent)
        self.tokens: dict[tuple | None, Tensor] = {}
        self.kept: dict[tuple, tuple[Tensor, Tensor]] = {}

    def keys(self, i: int, area: tuple | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (1, 3N, C) for fuser i and the region `area` (h, w, y, x in latent cells; None for all)."""
        if (i, area) not in self.kept:
            if area not in self.tokens:
                self.tokens[area] = self.ground(area, x.device)  # (1, 3N, T)
            self.kept[i, area] = self.network.fusers[i].keys(self.tokens[area].to(x.dtype))
        return self.kept[i, area]

    def ground(self, area: tuple | None, device: torch.device) -> Tensor:
        height, width = self.latent
        h, w, top, left = area or (height, width, 0, 0)
        window = (left / width, top / height, (left + w) / width, (top + h) / height)
        given = self.interactions.within(window).ground(self.network.sizes)
        return self.network.position_net(type(given)(*(part.to(device) for part in given)))

    def check_size(self, area: tuple | None, x: Tensor):
        expected = tuple(area[:2]) if area else self.latent
        if tuple(x.shape[-2:]) != expected:
            raise ValueError(f"another node changed the latent from {expected} to {tuple(x.shape[-2:])} inside the "
                             "model call (tiled sampling?): boxes cannot follow it; sample without that node")


class FuserPatch:
    """The middle patch of one model call: each chunk takes an equal share of the rows."""

    def __init__(self, fusers: torch.nn.ModuleList, chunks: list[CarriedCond], scale: float):
        self.fusers, self.chunks, self.scale = fusers, chunks, scale

    def __call__(self, x: Tensor, options: dict) -> Tensor:
        i, n = options["transformer_index"], x.shape[0] // len(self.chunks)
        kept = [chunk.cond.keys(i, chunk.area, x) for chunk in self.chunks]
        k, v = (torch.cat([part.expand(n, -1, -1) for part in parts]) for parts in zip(*kept))  # (B, 3N, C)
        return self.fusers[i](x, k, v, self.scale, options)

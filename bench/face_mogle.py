"""Cost of Face-MoGLE on FLUX.1 beside a ControlNet and EasyControl (docs/design/face-mogle.md, section 7).

    python dev.py bench face_mogle [--size 512] [--steps 28] [--seconds 240]

All shapes are the published ones; weights are random, because costs do not depend on them. On the CPU one block of
each kind stands for all, as in `dev.py bench overhead`, in fp32 on one thread. A step has one row, since cfg is 1. Of
each part of a call the fastest round counts. What is computed once (`once_s`: modulation, experts; without the VAE) is
spread over the steps. The last line is one JSON object: seconds a step, and the bytes that a method adds, in bf16 at
full depth: weights, and what is stored of the mask.
"""
from __future__ import annotations

import argparse
import json
import time
from functools import partial

import torch
from torch import Tensor

import comfy.ops
from mditface.mdit import labelmap
from mditface.mdit.face_mogle.gate import Gate
from mditface.mdit.face_mogle.mixer import ExpertMixer, LoadedGate
from mditface.mdit.mditface.adapter.condition_lora import LAYERS, SIZES, FEATURES
from mditface.mdit.mditface.adapter.config import PROMPT_POOLED, AdapterConfig
from mditface.mdit.mditface.adapter.families import EMBEDDING
from mditface.mdit.mditface.adapter.reader import JointReader
from mditface.mdit.mditface.adapter.terms import Adapter
from mditface.mdit.mditface.attention import MaskRows
from mditface.mdit.mditface.entries import make_key_bias
from mditface.mdit.mditface.mask import BoundMask, MaskInput, MaskReference
from mditface.mdit.mditface.reader import OPTIONS_KEY, CacheOptions, ChunkRun

from .costs.backbones import MIB, count_weight_bytes
from .costs.case import BF16, Case, ImageVAE, MeteredReader, read_labels
from .costs.measure import Meter, measure_in_turn, sum_fastest

RANK = 4
EASYCONTROL_RANK = 128
LEAST_ROUNDS = 3
OFF = {OPTIONS_KEY: CacheOptions("off")}
Terms = dict[str, dict[str, Tensor]]


def draw_term(inputs: int, outputs: int, rank: int) -> dict[str, Tensor]:
    return {"down": torch.randn(rank, inputs) * inputs ** -0.5, "up": torch.randn(outputs, rank) * rank ** -0.5}


def make_condition_terms(width: int, depth: tuple[int, int]) -> Terms:
    """The terms of Face-MoGLE's LoRA."""
    terms = {EMBEDDING: draw_term(FEATURES, width, RANK)}
    for (kind, layers), count in zip(LAYERS.items(), depth):
        for module, name in layers.items():
            n_in, n_out = SIZES.get(module, (1, 1))
            for i in range(count):
                terms[f"{kind}.{i}.{name}"] = draw_term(n_in * width, n_out * width, RANK)
    return terms


def make_easycontrol_terms(width: int, depth: tuple[int, int]) -> Terms:
    names = [f"double.{i}.{layer}" for i in range(depth[0]) for layer in ("qkv_q", "qkv_k", "qkv_v", "proj")]
    names += [f"single.{i}.linear1_{part}" for i in range(depth[1]) for part in "qkv"]
    return {name: draw_term(width, width, EASYCONTROL_RANK) for name in names}


def count_term_bytes(case: Case, terms: Terms) -> int:
    """In bf16 at full depth."""
    total = 0
    for name, halves in terms.items():
        kind, _, rest = name.partition(".")
        first = case.doubles if kind == "single" else 0
        count = case.counts[first + int(rest.partition(".")[0])] if rest else 1
        total += count * BF16 * sum(x.numel() for x in halves.values())
    return total


def make_mask(case: Case, reduction: str) -> MaskInput:
    return MaskInput(read_labels(case.size), torch.ones(len(labelmap.CLASSES)), reduction,
                     ImageVAE(case.model.latent_format))


class FaceMoGLE(JointReader):
    """Face-MoGLE on a case; what is stored of the mask is computed by `compute_once`."""

    def __init__(self, case: Case):
        self.case = case
        depth = (case.doubles, len(case.counts) - case.doubles)
        width = case.sizes.width
        self.terms = make_condition_terms(width, depth)
        config = AdapterConfig("flux", width, depth, RANK, RANK, mask_vec=PROMPT_POOLED, joint=True)
        network = Gate(device="meta", operations=comfy.ops.manual_cast)
        shapes = network.state_dict()
        gate = LoadedGate({name: torch.randn(x.shape) * x.shape[-1] ** -0.5 for name, x in shapes.items()})
        adapter = Adapter(config, self.terms).with_mixer(ExpertMixer(gate))
        super().__init__(adapter, weight=1.0, condition=0)
        reference = MaskReference(make_mask(case, "off"))
        self.bound = self.bind_mask(reference, case.x.shape, case.model, self.get_layout(case.model), None)
        self.gate_bytes = BF16 * sum(x.numel() for x in gate.patcher.model.parameters())

    def make_stream(self, model):
        """Tells the meter for how many blocks a modulation stands."""
        stream = super().make_stream(model)
        modulate = stream.modulate

        def begin(i: int, vec: Tensor):
            self.case.meter.stand_for(self.case.counts[i])
            return modulate(i, vec)
        stream.modulate = begin
        return stream

    def compute_once(self):
        self.entry = super().find_entry(self.case.model, self.bound, None, self.case.model.conds, (), self.case.device,
                                        OFF)

    def find_entry(self, *args):
        return self.entry

    def run(self) -> Tensor:
        """One model call."""
        case = self.case
        run = ChunkRun((self.bound, None, (), None), slice(0, case.rows), None)
        rows = (self.make_rows(case.model, run, case.x, case.t, {}),)
        return self.call_model(case.model, rows, case.x, case.t, None, case.context, None, {})

    def count_bytes(self) -> int:
        """Of LoRA, gate and what is stored, in bf16 at full depth; the experts' outputs are fp32."""
        prepared, *modulations = self.entry.blocks
        kept = sum(x.nbytes for x in prepared)
        for count, block in zip(self.case.counts, modulations):
            kept += count * BF16 * sum(x.numel() for x in block)
        return count_term_bytes(self.case, self.terms) + self.gate_bytes + kept


class EasyControl(MeteredReader):
    """EasyControl's condition adapter on a case, with the mask in one of the token reductions."""

    def __init__(self, case: Case, reduction: str):
        depth = (case.doubles, len(case.counts) - case.doubles)
        self.case = case
        self.terms = make_easycontrol_terms(case.sizes.width, depth)
        config = AdapterConfig("flux", case.sizes.width, depth, EASYCONTROL_RANK, EASYCONTROL_RANK,
                               mask_vec=PROMPT_POOLED, condition=case.size, corner=True, proj_after=True)
        super().__init__(Adapter(config, self.terms), case.meter, case.counts)
        reference = MaskReference(make_mask(case, reduction))
        self.bound = BoundMask(reference, case.x.shape, case.model, self.get_layout(case.model))

    def compute_once(self):
        self.entry = self.find_entry(self.case.model, self.bound, None, self.case.model.conds, (), self.case.device,
                                     OFF)

    def run(self) -> Tensor:
        case = self.case
        rows = (MaskRows(slice(0, case.rows), self.entry, make_key_bias(self.entry, 1.0)),)
        return self.call_model(case.model, rows, case.x, case.t, None, case.context, None, {})

    def count_bytes(self) -> int:
        blocks = zip(self.case.counts, self.entry.blocks)
        return count_term_bytes(self.case, self.terms) + sum(n * BF16 * x.numel() for n, block in blocks for x in block)


@torch.inference_mode()
def measure(size: int, steps: int, seconds: float) -> dict:
    """The JSON object."""
    case = Case("flux", size, 1, None, False, torch.float32, torch.device("cpu"))
    methods = {"face_mogle": FaceMoGLE(case), "easycontrol": EasyControl(case, "off"),
               "easycontrol_merge": EasyControl(case, "merge")}
    control = case.sizes.make_controlnet(size, False, case.dtype, case.device)
    calls = {"base": case.run_base, "controlnet": partial(case.run_controlled, control)}
    meters = dict.fromkeys(("base", *methods), case.meter) | {"controlnet": Meter(control.counts)}
    for name, method in methods.items():
        calls |= {f"{name}_once": method.compute_once, name: method.run}
        meters[f"{name}_once"] = case.meter
    start = time.perf_counter()
    first = {name: meters[name].measure_seconds(call) for name, call in calls.items()}
    round_s = time.perf_counter() - start
    cost, rounds = measure_in_turn(calls, lambda name, call: meters[name].measure_seconds(call), combine=sum_fastest,
                                   least=LEAST_ROUNDS, budget=seconds - round_s, first=first, round_s=round_s)
    base = cost["base"]
    found = {"controlnet": {"extra_s": cost["controlnet"], "once_s": 0.0, "bytes": count_weight_bytes(control)}}
    for name, method in methods.items():
        once = cost[f"{name}_once"]
        found[name] = {"extra_s": cost[name] + once / steps - base, "once_s": once, "bytes": method.count_bytes()}
    for values in found.values():
        values["of_base"] = values["extra_s"] / base
    return {"size": size, "steps": steps, "rounds": rounds, "text_tokens": case.text_tokens, "base_s": base,
            "methods": found}


def format_table(result: dict) -> str:
    lines = [f"FLUX.1, {result['size']} px, {result['text_tokens']} text tokens, full width, blocks of each kind stand "
             f"for all; bare model {result['base_s']:.1f} s a step, {result['rounds']} rounds",
             f"{'':20}{'extra s/step':>13}{'of the base':>13}{'once, s':>10}{'MiB':>8}"]
    for name, values in result["methods"].items():
        lines.append(f"{name:20}{values['extra_s']:13.2f}{values['of_base']:13.3f}{values['once_s']:10.2f}"
                     f"{values['bytes'] / MIB:8.0f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="dev.py bench face_mogle", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="side of the image (default: 512)")
    parser.add_argument("--steps", type=int, default=28, help="steps of a run (default: 28)")
    parser.add_argument("--seconds", type=float, default=240.0, help="time for rounds (default: 240); three are made")
    options = parser.parse_args(argv)
    if options.size < 32 or options.size % 16:
        parser.error(f"--size: {options.size} is not a multiple of 16 from 32 on")
    torch.set_num_threads(1)
    result = measure(options.size, options.steps, options.seconds)
    print(format_table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

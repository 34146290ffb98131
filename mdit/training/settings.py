"""The configuration of a run: what all targets share, and how a YAML file is read and checked."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..shared.digests import recall_file_digest
from ..shared.text_files import read_text, shorten

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Precision = Annotated[Literal["no", "bf16", "fp16"],
                      BeforeValidator(lambda x: "no" if x is False or x == "fp32" else x)]  # a bare no is False in YAML
CONTENT = "content of "  # before the name of a file's key, in what a run depends on
ELSEWHERE = ("data", "heldout", "output", "weights", "cache", "sheet", "steps", "workers", "every")
MESSAGES = {"extra_forbidden": "unknown key", "missing": "missing key"}


class Section(BaseModel):
    """Refuses keys that are no field."""
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Section):
    """Learning rates of AdamW and, where given, of Muon for the matrices inside the blocks.

    kind: what takes AdamW's place, with its rate: AdamW with moments of 8 bits, or Prodigy, whose rate is 1.
    clip: largest norm of the gradient.
    """
    adamw: Positive
    kind: Literal["adamw", "adamw-8bit", "prodigy"] = "adamw"
    muon: Positive | None = None
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive = 1.0


class Schedule(Section):
    """A ramp over `warmup` steps, a plateau, and a fall to zero over the last fraction `decay` of the run."""
    warmup: Count = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.4
    shape: Literal["linear", "cosine"] = "linear"


class Every(Section):
    """Numbers of steps from one line of the log, checkpoint, sample sheet or measurement to the next."""
    log: Count = 20
    checkpoint: Count = 200
    sheet: Count = 400
    metrics: Count = 400


class Settings(Section):
    """What all targets have.

    data, heldout: folders or shards of samples.
    output: folder of checkpoints, log and sheets.
    weights: the finished file.
    ema: decay of the moving average of the weights; 0 makes no average.
    accumulate: number of batches in a step, one after another; their gradients are added up.
    precision: of the computation; `fp32` is another name of `no`, the word of accelerate.
    """
    target: str
    data: Path
    heldout: Path | None = None
    output: Path
    weights: Path
    steps: Count
    batch: Count
    accumulate: Count = 1
    optimiser: Optimizer
    schedule: Schedule = Schedule()
    ema: Fraction = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Precision = "bf16"
    gradient_checkpointing: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    every: Every = Every()

    def describe_recipe(self) -> dict:
        """What the weights depend on: all but lengths, folders and intervals. Files are known by their contents."""
        recipe = self.model_dump(mode="json", exclude=set(ELSEWHERE))
        for name in list(recipe):
            value = getattr(self, name)
            files = [file for file in (value if isinstance(value, tuple) else [value]) if isinstance(file, Path)]
            if files and all(file.is_file() for file in files):
                del recipe[name]
                digests = [recall_file_digest(file) for file in files]
                recipe[CONTENT + name] = digests if isinstance(value, tuple) else digests[0]
        return recipe


class EncodedSettings(Settings):
    """Settings of a target whose samples are encoded by the host's VAE and text encoders.

    vae, clip: files of the host.
    cache: folder of the encoded samples.
    size: its square is the area of each bucket of sizes, in pixels.
    mirror: fraction of the samples that are mirrored, with left and right classes swapped.
    shift: moves the noise levels as SD3's sampling does; above 1, high levels come more often.
    """
    vae: Path | None = None
    clip: tuple[Path, ...] = ()
    cache: Path | None = None
    size: Annotated[int, Field(ge=16)] = 512
    mirror: Fraction = 0.0
    shift: Positive = 1.0


def add_defaults(recipe: dict, section: type[BaseModel]) -> dict:
    """A recipe of an older version with the keys that came since, at their defaults."""
    values = dict(recipe)
    for name, field in section.model_fields.items():
        if name not in values:
            values[name] = field.default
        elif isinstance(values[name], dict) and hasattr(field.annotation, "model_fields"):
            values[name] = add_defaults(values[name], field.annotation)
    return values


def read_settings(path: Path, changes: list[str], kinds: dict[str, type[Settings]]) -> Settings:
    """The settings of a YAML file after `changes` of the form key=value; a dot separates a section from its key.

    Raises FileNotFoundError, or ValueError that names every unknown, missing and invalid key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}: copy one of mdit/recipes/configs")
    values = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: the file must contain keys and values, as in mdit/recipes/configs")
    for change in changes:
        apply_change(values, change)
    target = values.get("target")
    if not isinstance(target, str) or target not in kinds:
        raise ValueError(f"{path}: target: {shorten(target)} must be one of {', '.join(kinds)}")
    try:
        return kinds[target].model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: " + "; ".join(map(describe, error.errors()))) from None


def apply_change(values: dict, change: str) -> None:
    name, equals, text = change.partition("=")
    *sections, key = name.split(".")
    if not equals or not key:
        raise ValueError(f"'{change}': a change of the configuration has the form key=value, such as "
                         "optimiser.adamw=1e-4")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"'{change}': {section} is not a section of the configuration")
    values[key] = parse_yaml(text, f"'{change}'")


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text. Raises ValueError, with the name of the text, for anything else."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: it is no YAML ({shorten(error)}): compare it with mdit/recipes/configs") from error


def describe(error: dict) -> str:
    """`key: message` for one of pydantic's errors."""
    name = ".".join(map(str, error["loc"]))
    return f"{name}: {MESSAGES.get(error['type'], error['msg'])}"

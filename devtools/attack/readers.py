"""Every reader of files and values: how a mutant is made for it, and the call that reads the mutant."""
from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import load_file, save_file

import comfy.ops
from mditface.mdit.datasets.layouts import open_dataset
from mditface.mdit.dynast.host import load_dynast
from mditface.mdit.dynast.pose import from_keypoints
from mditface.mdit.face_diffuser.weights import load_face_diffuser
from mditface.mdit.face_mogle.mixer import load_gate
from mditface.mdit.interactdiffusion.text import parse_interactions
from mditface.mdit.interactdiffusion.weights import load_interactdiffusion
from mditface.mdit.labelmap import decode_drawing, encode_drawing, find_classes, read_landmarks
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.mditface.host import load_mdit
from mditface.mdit.mmface.host import load_mmface
from mditface.mdit.mmface.text import load_clip
from mditface.mdit.parsing import WEIGHTS
from mditface.mdit.parsing.host import load_patched_parser
from mditface.mdit.pt_dit.host import load_pt_dit
from mditface.mdit.pt_dit.vae import load_vae
from mditface.mdit.shared.boxes import read_boxes
from mditface.mdit.training.settings import read_settings
from mditface.mdit.training.targets.adapter import AdapterSettings
from mditface.nodes.routes import answer_content
from mditface.tests.adapter import bases
from mditface.tests.dynast import tiny as dynast
from mditface.tests.face_mogle import tiny as face_mogle
from mditface.tests.interactdiffusion import tiny as interactdiffusion
from mditface.tests.mditface import tiny as mditface
from mditface.tests.mmface import tiny as mmface
from mditface.tests.parsing import weights as parsing
from mditface.tests.pt_dit import tiny as pt_dit

from .images import make_image
from .tensors import put_in_place, write_pickled, write_safetensors
from .values import mutate_bytes, mutate_text, mutate_value

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SETTINGS = ROOT / "mdit" / "recipes" / "configs" / "adapter-sd35.yaml"
IN_PLACE = 0.05  # of the mutants are no files at all
TEXT = "person [0.1, 0.2, 0.4, 0.9] = feeding = cat [0.3, 0.5, 0.7, 0.8]; man = holding = \"hair drier\""
ITEMS = [{"subject": "person", "action": "feeding", "object": "cat", "subject_box": [0.1, 0.2, 0.4, 0.9],
          "object_box": [0.3, 0.5, 0.7, 0.8]}]
POSE = {"canvas_width": 512, "canvas_height": 512, "people": [{"pose_keypoints_2d": [100, 200, 1, 300, 250, 0.9] * 9}]}
BOXES = [[{"x": 10, "y": 20, "width": 100, "height": 50, "label": "face", "score": 0.9}], [[10, 20, 110, 70]]]
FACE = {"image_size": [64, 64], "frames": [[{"landmarks_xy": [[k % 64, k // 8] for k in range(478)]}]]}


class Mutant(NamedTuple):
    """A call that reads a mutant, and the word that a refusal must hold: the file's or the input's name."""
    call: Callable[[], object]
    name: str


class Reader(NamedTuple):
    """make: a mutant, in a folder of its own. valid: reads what is not mutated, once, before the attack."""
    make: Callable[[random.Random, Path], Mutant]
    valid: Callable[[Path], object]


class Seed(NamedTuple):
    """A file that its reader accepts: weights, header, and a JSON text that lies next to it, by its name."""
    weights: dict[str, torch.Tensor]
    header: dict[str, str]
    neighbour: dict[str, str]


def make_file_reader(load: Callable[[str], object], seed: Callable[[], Seed],
                     endings: tuple[str, ...] = (".safetensors",)) -> Reader:
    """The reader of a file of tensors."""
    def make(rng: random.Random, folder: Path) -> Mutant:
        path = folder / f"mutant{rng.choice(endings)}"
        found = seed()
        texts = {name: mutate_json(rng, text) if rng.random() < 0.3 else text.encode()
                 for name, text in found.neighbour.items()}
        write_all(folder, texts)
        if rng.random() < IN_PLACE:
            put_in_place(rng, path)
        else:
            write = write_safetensors if path.suffix == ".safetensors" else write_pickled
            write(rng, path, found.weights, found.header)
        return Mutant(functools.partial(load, str(path)), str(folder))

    def read_valid(folder: Path) -> object:
        found = seed()
        write_all(folder, {name: text.encode() for name, text in found.neighbour.items()})
        weights = {name: weight.clone() for name, weight in found.weights.items()}  # some are one tensor twice
        save_file(weights, folder / "valid.safetensors", found.header)
        return load(str(folder / "valid.safetensors"))
    return Reader(make, read_valid)


def mutate_json(rng: random.Random, text: str) -> bytes:
    """A JSON file with other values, another text, or other bytes."""
    change = rng.randrange(3)
    if change == 0:
        return json.dumps(mutate_value(rng, json.loads(text))).encode()
    return mutate_text(rng, text).encode("utf-16" if rng.random() < 0.2 else "utf-8", "replace") if change == 1 else (
        mutate_bytes(rng, text.encode()))


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def make_value_reader(read: Callable[[Any], object], change: Callable[[random.Random], Any], valid: Any,
                      name: str) -> Reader:
    """The reader of a value of the input `name`; `change` makes a mutant of it."""
    return Reader(lambda rng, folder: Mutant(functools.partial(read, change(rng)), name), lambda folder: read(valid))


@functools.cache
def seed_mdit() -> Seed:
    from mditface.mdit.mditface import host
    from mditface.mdit.mditface.text import TextEncoder
    text = mditface.random_weights(TextEncoder(mditface.TEXT, operations=comfy.ops.disable_weight_init), 1)
    weights = mditface.random_weights(mditface.network(), 0)
    weights |= {host.TEXT_PREFIX + name: weight for name, weight in text.items()}
    return Seed(weights, mditface.CONFIG.to_metadata() | mditface.TEXT.to_metadata(), {})


@functools.cache
def seed_mmface() -> Seed:
    return Seed(mmface.random_weights(mmface.network()), {}, {})


@functools.cache
def seed_pt_dit() -> Seed:
    return Seed(pt_dit.random_weights(pt_dit.network()), {}, {"config.json": pt_dit.JSON})


@functools.cache
def seed_golden(name: str) -> Seed:
    return Seed(load_file(GOLDEN / name), {}, {})


@functools.cache
def seed_segformer() -> Seed:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = parsing.segformer(Path(folder))
        return Seed(load_file(path), {"format": "pt"}, {"config.json": path.with_name("config.json").read_text()})


def seed_adapter() -> Seed:
    config = bases.config("sd3")
    return Seed(bases.terms("sd3", config, 0), config.to_metadata(), {})


def read_picture(content: bytes) -> dict:
    """The painter's route, whose errors are answers."""
    answer = answer_content(content)
    if "error" in answer:
        raise ValueError(f"painter: {answer['error']}")
    return answer


def make_dataset(rng: random.Random, folder: Path) -> Mutant:
    """A data set of one face with odd files; every error of a sample names the folder."""
    for name in ("face", "mask", "text"):
        (folder / name).mkdir()
    write_all(folder, {"face/0.png": make_image(rng), "mask/0.png": make_image(rng),
                       "text/0.txt": mutate_bytes(rng, b"a young woman\n")})
    return Mutant(lambda: open_dataset(folder)[0], str(folder))


def read_pose(frames: Any) -> object:
    return from_keypoints(frames, 64)


def load_flow(path: str) -> object:
    return load_mmface(path, objective="flow")


def make_settings(rng: random.Random, folder: Path) -> Mutant:
    """The configuration of a training run with other values, another text, or other bytes."""
    text = SETTINGS.read_text()
    values = json.dumps(mutate_value(rng, yaml.safe_load(text)))
    content = rng.choice((values.encode(), mutate_bytes(rng, text.encode()),
                          mutate_text(rng, text).encode("utf-8", "replace")))
    write_all(folder, {"mutant.yaml": content})
    return Mutant(functools.partial(read_adapter_settings, folder / "mutant.yaml"), str(folder))


def read_adapter_settings(path: Path) -> object:
    return read_settings(path, [], {"adapter": AdapterSettings})


PICKLED = (".safetensors", ".pth", ".pth")
READERS = {
    "mdit": make_file_reader(load_mdit, seed_mdit),
    "adapter": make_file_reader(load_adapter, seed_adapter),
    "easycontrol": make_file_reader(load_adapter, lambda: Seed(bases.easycontrol(), {}, {})),
    "condition-lora": make_file_reader(load_adapter, lambda: Seed(bases.ominicontrol(), {}, {})),
    "gate": make_file_reader(load_gate, lambda: Seed(face_mogle.gate(), {}, {}), PICKLED),
    "mmface": make_file_reader(load_flow, seed_mmface, PICKLED),
    "mmface-clip": make_file_reader(load_clip, functools.cache(lambda: Seed(mmface.text_weights(), {}, {})), PICKLED),
    "pt-dit": make_file_reader(load_pt_dit, seed_pt_dit, PICKLED),
    "pt-dit-vae": make_file_reader(load_vae, lambda: seed_golden("pt-dit/vae_model.safetensors"), PICKLED),
    "dynast": make_file_reader(load_dynast, lambda: Seed(dynast.published(), {}, {}), PICKLED),
    "face-diffuser": make_file_reader(
        load_face_diffuser, lambda: seed_golden("face-diffuser/sdm_tiny.safetensors"), PICKLED),
    "interactdiffusion": make_file_reader(
        load_interactdiffusion, lambda: Seed(interactdiffusion.plugin(), {}, {}), PICKLED),
    "parser": make_file_reader(load_patched_parser, lambda: Seed(load_file(WEIGHTS), {}, {}), PICKLED),
    "bisenet": make_file_reader(load_patched_parser, functools.cache(lambda: Seed(parsing.bisenet(), {}, {})), PICKLED),
    "segformer": make_file_reader(load_patched_parser, seed_segformer, PICKLED),
    "painter": make_value_reader(read_picture, make_image, make_image(random.Random(0)), "painter"),
    "dataset": Reader(make_dataset, lambda folder: None),
    "settings": Reader(make_settings, lambda folder: read_adapter_settings(SETTINGS)),
    "drawing": make_value_reader(
        decode_drawing, lambda rng: mutate_text(rng, encode_drawing(mditface.labels()[0])),
        encode_drawing(mditface.labels()[0]), "drawing"),
    "interactions": make_value_reader(parse_interactions, lambda rng: mutate_text(rng, TEXT), "", "text"),
    "interactions-json": make_value_reader(
        lambda items: parse_interactions(json.dumps(items)), lambda rng: mutate_value(rng, ITEMS), ITEMS, "text"),
    "classes": make_value_reader(find_classes, lambda rng: mutate_text(rng, "hair, hat; skin"), "hair", "classes"),
    "key-points": make_value_reader(read_pose, lambda rng: mutate_value(rng, [POSE]), [POSE], "keypoints"),
    "boxes": make_value_reader(
        lambda boxes: read_boxes(boxes, (512, 512), "bboxes"), lambda rng: mutate_value(rng, rng.choice(BOXES)),
        BOXES[0], "bboxes"),
    "landmarks": make_value_reader(
        lambda value: read_landmarks(value, "face_landmarks"), lambda rng: mutate_value(rng, FACE), FACE,
        "face_landmarks"),
}

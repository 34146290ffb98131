"""Mutants of files of tensors by structure: names, shapes, types, headers, containers, and what lies in place."""
from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from .values import DEEP, draw_value, mutate_bytes, mutate_text, mutate_value

Weights = dict[str, Any]
PROOF = "proof"  # a file that code in a pickle would make


class Code:
    """Runs a call when it is unpickled."""

    def __init__(self, call: Callable, *arguments):
        self.call = call
        self.arguments = arguments

    def __reduce__(self):
        return self.call, self.arguments


def choose_name(rng: random.Random, weights: Weights) -> str:
    return rng.choice(list(weights))


def rename(rng: random.Random, weights: Weights) -> None:
    name = choose_name(rng, weights)
    weights[mutate_text(rng, name)[:2000]] = weights.pop(name)


def renumber(rng: random.Random, weights: Weights) -> None:
    """Gives a weight of a block another number."""
    name = choose_name(rng, weights)
    number = rng.choice(("99999999", "-1", "0", "257", "1e3", "\u00b2", "9" * 5000))
    weights[".".join(number if part.isdigit() else part for part in name.split("."))] = weights[name]


def change_shape(rng: random.Random, weights: Weights) -> None:
    name = choose_name(rng, weights)
    weight = weights[name]
    flat = weight.flatten()
    turned = weight.mT if weight.ndim > 1 else weight
    weights[name] = rng.choice((
        flat, weight[None], flat[:0], flat[:1].sum(), turned,
        torch.zeros(10 ** 5, 1), torch.zeros(1, 1, 1, 1, 1, 1), torch.zeros(0, 10 ** 9), torch.zeros(64, 4, 1, 1)))


def change_type(rng: random.Random, weights: Weights) -> None:
    name = choose_name(rng, weights)
    weights[name] = weights[name].to(rng.choice((
        torch.int64, torch.int8, torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float64,
        torch.float8_e4m3fn, torch.complex64)))


def change_numbers(rng: random.Random, weights: Weights) -> None:
    name = choose_name(rng, weights)
    if weights[name].is_floating_point():
        weights[name] = torch.full_like(weights[name], rng.choice((torch.nan, torch.inf, 0.0, 1e4)))


def drop(rng: random.Random, weights: Weights) -> None:
    for name in rng.sample(list(weights), rng.choice((1, 1, len(weights) // 2))):
        del weights[name]


def add(rng: random.Random, weights: Weights) -> None:
    weights[mutate_text(rng, choose_name(rng, weights))[:2000]] = torch.zeros(rng.choice((1, 1000)))


EDITS = (rename, renumber, change_shape, change_type, change_numbers, drop, add)


def edit_weights(rng: random.Random, weights: dict[str, Tensor]) -> Weights:
    """The weights after one to three edits."""
    weights = dict(weights)
    for _ in range(rng.randint(1, 3)):
        if weights:
            rng.choice(EDITS)(rng, weights)
    return {name: weight.clone() for name, weight in weights.items()}


def edit_header(rng: random.Random, header: dict[str, str]) -> dict[str, str]:
    """The header with one JSON text changed, in its values or as a text."""
    header = dict(header)
    key = rng.choice(list(header))
    change = rng.randrange(4)
    if change == 0:
        header[key] = mutate_text(rng, header[key])
    elif change == 1:
        header[key] = "[" * DEEP
    elif change == 2:
        del header[key]
    else:
        text = header[key]
        header[key] = json.dumps(mutate_value(rng, json.loads(text) if text.startswith("{") else text))
    return header


def write_safetensors(rng: random.Random, path: Path, weights: dict[str, Tensor], header: dict[str, str]) -> None:
    change = rng.randrange(4)
    if change == 0:
        weights = edit_weights(rng, weights)
    elif change == 1 and header:
        header = edit_header(rng, header)
    weights = {repair(name): weight.contiguous().clone() for name, weight in weights.items()}
    content = save(weights, {key: repair(text) for key, text in header.items()})
    if change == 2:
        content = mutate_bytes(rng, content)
    elif change == 3:
        content = lie(rng, content)
    path.write_bytes(content)


def repair(text: str) -> str:
    """A text without halves of letters, which the format cannot hold."""
    return text.encode("utf-8", "replace").decode()


def lie(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file whose list of tensors is changed, with the right length of the header."""
    length = int.from_bytes(content[:8], "little")
    listed = mutate_value(rng, json.loads(content[8:8 + length]))
    text = json.dumps(listed).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + content[8 + length:]


def list_odd_objects(rng: random.Random, weights: dict[str, Tensor], folder: Path) -> tuple:
    """What a pickle may hold in place of a tensor, or of all of them."""
    name = choose_name(rng, weights)
    proof = str(folder / PROOF)
    return (
        {**weights, name: torch.ones(1).expand(10 ** 10)}, {**weights, name: torch.ones(10 ** 9, device="meta")},
        {**weights, name: torch.eye(3).to_sparse()}, {**weights, name: torch.nn.Parameter(weights[name].float())},
        {**weights, name: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)},
        {**weights, name: draw_value(rng)}, {**weights, 5: weights[name]}, {**weights, None: weights[name]},
        {**weights, (name,): weights[name]}, {**weights, name.encode(): weights[name]},
        {**weights, "code": Code(os.system, f"touch {proof}")}, {**weights, "code": Code(open, proof, "w")},
        {**weights, "code": Code(eval, f"open({proof!r}, 'w')")}, {**weights, "code": Code(bytearray, 10 ** 10)},
        {**weights, "code": Code(torch.Tensor, 10 ** 10)},
        {"state_dict": weights}, {"state_dict": draw_value(rng)}, {"model": draw_value(rng)}, {"model": list(weights)},
        {"state_dict": {"model": {"state_dict": weights}}}, {"model": {**weights, name: [weights]}},
        list(weights.values()), weights[name], draw_value(rng),
        dict.fromkeys(map(str, range(300)), torch.ones(10 ** 6)))


def write_pickled(rng: random.Random, path: Path, weights: dict[str, Tensor], header: dict[str, str]) -> None:
    change = rng.randrange(6)
    content: Any = weights
    if change == 0:
        content = edit_weights(rng, weights)
    elif change == 1:
        content = rng.choice(list_odd_objects(rng, weights, path.parent))
    with io.BytesIO() as file:
        torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.8)
        written = file.getvalue()
    if change == 2:
        written = mutate_bytes(rng, written)
    elif change == 3:
        written = change_archive(rng, written)
    elif change == 4:
        written = pickle.dumps(rng.choice(list_odd_objects(rng, {"a": torch.ones(1)}, path.parent)), rng.choice((2, 4)))
    path.write_bytes(written)


def change_archive(rng: random.Random, content: bytes) -> bytes:
    """An archive with a record that is dropped, changed, doubled or large, and its records packed or not."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return mutate_bytes(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*records, *[key for key in records if key.endswith("data.pkl")] * 5])
    records[name] = rng.choice((b"", records[name][:-1], mutate_bytes(rng, records[name]), bytes(2 ** 24)))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key, record in records.items():
            archive.writestr(rng.choice((key, key, key, f"other/{key}")), record)
    return changed.getvalue()


def put_in_place(rng: random.Random, path: Path) -> None:
    """Something that is no file, or of another format, in a file's place."""
    name = rng.choice(("fifo", "folder", "zero", "loop", "terabyte", "empty", "absent", "page"))
    if name == "fifo":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name in ("zero", "loop"):
        path.symlink_to("/dev/zero" if name == "zero" else path)
    elif name != "absent":
        path.write_bytes(b"<html>404 Not Found</html>" * (name == "page"))
    if name == "terabyte":
        os.truncate(path, 2 ** 40)

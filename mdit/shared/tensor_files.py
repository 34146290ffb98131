"""Files of tensors that nobody vouches for, opened in one place: no code of theirs is run and no size is believed."""
from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

import comfy.utils
from comfy.cli_args import args

from .pickles import check_old_pickles, check_pickle
from .text_files import Refused, check_file, shorten

LARGEST_FILE = 2 ** 36  # bytes; no model of the pack's families is larger
LARGEST_HEADER = 2 ** 23  # bytes of a safetensors header, which has about 100 for each tensor
LARGEST_PICKLE = 2 ** 24
MOST_RECORDS = 2 ** 16
MOST_SHARED = 2  # times the file's size that its tensors may have: some files hold one tensor under two names
SAFETENSORS = (".safetensors", ".sft")
ZIP_MARK = b"PK\x03\x04"
PICKLE_MARK = b"\x80"
DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
          torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
CONFIGURATION = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
                 "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any")
HARMLESS = {"builtins.dict": dict, "builtins.list": list, "builtins.int": int,
            "collections.defaultdict": lambda *_: {}}  # the restricted loader can fill ordinary dicts only


class Inert:
    """Replaces a class that a checkpoint's configuration names. Nothing of it is read."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def open_tensors(path: str) -> tuple[Any, dict[str, str]]:
    """The content of a safetensors file or of one that torch saved, and the header of the former.

    The content of the latter is any object; its tensors are plain ones that the file really holds.
    Raises FileNotFoundError where there is none, Refused for a file that is unsafe, and errors of the format's library
    for one that is damaged.
    """
    size = check_file(path, LARGEST_FILE)
    if path.lower().endswith(SAFETENSORS):
        check_safetensors(path)
        found, header = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    else:
        found = load_pickled(path)
        header = None
    check_tensors(list(find_tensors(found)), size)
    return found, header or {}


def check_safetensors(path: str) -> None:
    """Reads the header by the rules of the format, as not every reader of the host does."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise Refused(f"it cannot be read as a safetensors file (a header of {length} bytes): it is truncated or of "
                         "another format; download it again")
    with safe_open(path, "pt"):
        pass


def load_pickled(path: str) -> Any:
    """What torch's restricted loader reads. It refuses every name that it does not know.

    `Inert` replaces the names of trainers' configurations.
    """
    with open(path, "rb") as file:
        is_archive = check_pickled(file)
    known = [(Inert, name) for name in CONFIGURATION] + [(kind, name) for name, kind in HARMLESS.items()]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive and not args.disable_mmap)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        raise Refused(f"it holds more than weights ({shorten(culprit[1]) if culprit else 'unreadable'}): it is "
                         "refused because such a file can run code; take the original file") from error


def check_pickled(file: BinaryIO) -> bool:
    """Whether a file is an archive, as torch saves since version 1.6. Raises Refused unless its parts are sound."""
    mark = file.read(len(ZIP_MARK))
    file.seek(0)
    if mark == ZIP_MARK:
        check_archive(file)
        return True
    if not mark.startswith(PICKLE_MARK):
        raise Refused("it cannot be read as a PyTorch file: it is truncated or of another format; download it again")
    check_old_pickles(file)
    return False


def check_archive(file: BinaryIO) -> None:
    """Raises Refused for an archive that torch did not write: with records that are packed, or that overlap."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if len(records) > MOST_RECORDS or any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise Refused("its records are compressed, or there are too many: torch does not save such files; take "
                             "the original file")
        if sum(record.file_size for record in records) > size:
            raise Refused("its records are larger than the file: it is damaged; download it again")
        for record in records:
            if record.filename.endswith("data.pkl") and record.file_size <= LARGEST_PICKLE:
                check_pickle(io.BytesIO(archive.read(record)))
            elif record.filename.endswith("data.pkl"):
                raise Refused(f"its list of tensors has {record.file_size} bytes: take the original file")


def find_tensors(found: Any) -> Iterator[Tensor]:
    """The tensors in dicts, lists and tuples, however deep; those of a container that occurs twice once."""
    waiting = [found]
    seen = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, dict) else item


def check_tensors(tensors: list[Tensor], size: int) -> None:
    """Raises Refused unless all tensors are plain, of known types, and held by a file of `size` bytes."""
    for tensor in tensors:
        if (tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized
                or tensor.dtype not in DTYPES):
            raise Refused(f"it holds a tensor of a kind that models do not have ({tensor.layout}, {tensor.dtype}, "
                             f"{tensor.device}): take the original file")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    largest = max((tensor.nbytes - tensor.untyped_storage().nbytes() for tensor in tensors), default=0)
    total = sum(tensor.nbytes for tensor in tensors)
    if largest > 0 or sum(storages.values()) > size or total > MOST_SHARED * size:
        raise Refused(f"its tensors take {total} bytes, more than the file holds: it is damaged; download it again")

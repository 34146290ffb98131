"""Files of tensors that lie or would keep a reader busy are refused in words, at once and without memory."""
import io
import os
import resource
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from mditface.mdit.shared.pickles import check_pickle
from mditface.mdit.shared.weight_files import read_state_dict, read_tensors

GOOD = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}


def saved(content, **options):
    return lambda path: torch.save(content, path, **options)


def packed(path):
    """A small file that unpacks to a large one."""
    torch.save(GOOD, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records["weights/data/0"] = bytes(2 ** 26)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def sparse_terabyte(path):
    saved(GOOD)(path)
    os.truncate(path, 2 ** 40)


def nested_tuples(path):
    """A key that takes 2 ** 64 steps to hash."""
    steps = b"\x80\x02}q\x00)q\x01" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(1, 65))
    write_archive(path, steps + b"K\x01s.")


def write_archive(path, steps):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", steps)
        archive.writestr("weights/version", "3\n")


def long_pickle(path):
    write_archive(path, b"\x80\x02]" + b"]a" * 400_000 + b".")


def resized(path):
    """A tensor of more numbers than its record has."""
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x04\x85", b"M\xff\xff\x85"))


REFUSED = {
    "expanded": (saved({**GOOD, "b": torch.ones(1).expand(10 ** 10)}), "more than the file holds"),
    "one storage": (saved(dict.fromkeys(map(str, range(900)), torch.ones(50_000))), "more than the file holds"),
    "resized": (resized, "holds|cannot be read"),
    "packed": (packed, "records are compressed"),
    "meta": (saved({**GOOD, "b": torch.ones(10 ** 9, device="meta")}), "of a kind that models do not have"),
    "sparse": (saved({**GOOD, "b": torch.eye(3).to_sparse()}), "of a kind that models do not have"),
    "complex": (saved({**GOOD, "b": torch.ones(3, dtype=torch.complex64)}), "of a kind that models do not have"),
    "quantized": (saved({**GOOD, "b": torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)}),
                  "of a kind that models do not have"),
    "deep": (saved({"state_dict": {**GOOD, 5: torch.ones(1)}}), "no weights with names"),
    "tuples": (nested_tuples, "tuples in tuples"),
    "steps": (long_pickle, "more than 500000"),
    "large object": (saved({**GOOD, "b": bytearray(3)}), "objects of any size"),
    "folder": (os.mkdir, "not a file"),
    "pipe": (os.mkfifo, "not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a file"),
    "terabyte": (sparse_terabyte, "the most is"),
    "empty": (lambda path: path.touch(), "another format"),
    "tar": (lambda path: path.write_bytes(b"storages".ljust(100, b"\0") + b"0000644\0" * 20 + bytes(2000)), "format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    write, message = REFUSED[name]
    write(path := tmp_path / "weights.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(ValueError, match=f"^weights_name: '.*weights.pth'.*({message})"):
        read_state_dict(str(path), "weights_name")
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # in kB


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="^weights_name: there is no file '.*absent.pth'"):
        read_state_dict(str(tmp_path / "absent.pth"), "weights_name")


@pytest.mark.parametrize("edit", [
    lambda content: struct.pack("<Q", 2 ** 40) + content[8:],
    lambda content: content[:-1], lambda content: content + b"x",
    lambda content: content.replace(b'"shape":[2,3]', b'"shape":[9,9]'),
    lambda content: content.replace(b'"F32"', b'"F99"', 1), lambda content: b"", lambda content: content[:5]])
def test_a_safetensors_file_that_lies_is_refused(tmp_path, edit):
    save_file(GOOD, path := tmp_path / "weights.safetensors")
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(ValueError, match="^weights_name: '.*safetensors'.*cannot be read as a safetensors file"):
        read_tensors(str(path), "weights_name")


@pytest.mark.parametrize("old", [False, True])
def test_what_trainers_save_is_read(tmp_path, old):
    shared = torch.ones(50)
    content = {"state_dict": OrderedDict({**GOOD, "one": shared, "other": shared, "step": 3}),
               "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "groups": [{"betas": (0.9, 0.999)}]}}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=not old)
    found = read_state_dict(str(tmp_path / "weights.pth"), "weights_name")
    torch.testing.assert_close(found, {**GOOD, "one": shared, "other": shared})


@pytest.mark.parametrize("content", [
    {"a": [1, 2.5, None, True, -3, 10 ** 12, "text"]}, [((1, 2), (3,)), ()], OrderedDict(a={"b": {"c": (1,)}})])
def test_ordinary_pickles_pass(content):
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        check_pickle(io.BytesIO(archive.read("archive/data.pkl")))

"""Data sets of faces: every layout, the check on opening, mirrors, tar shards and the command."""
import io
import itertools
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mditface.mdit.labelmap import CLASSES, DISPLAY_NAMES, PALETTE, PARSER_ORDER
from mditface.mdit.datasets import open_dataset
from mditface.mdit.datasets.__main__ import summarize
from mditface.mdit.datasets.augment import mirror_sample

RNG = np.random.default_rng(0)
SIDE = 32


def label_map(rng, side=SIDE):
    return rng.integers(0, 19, (side // 4, side // 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1)


def as_grey(labels):
    return Image.fromarray(labels)


def as_colours(labels):
    return Image.fromarray(np.array(PALETTE, np.uint8)[labels])


def as_rgb_grey(labels):
    return as_grey(labels).convert("RGB")


def as_palette(labels):
    picture = as_grey(labels)
    picture.putpalette([*RNG.integers(1, 50, 256 * 3)])  # colours without a meaning
    return picture


def as_renumbered_palette(labels):
    numbers = RNG.permutation(256)[:19]
    palette = np.zeros((256, 3), np.uint8)
    palette[numbers] = PALETTE
    picture = Image.fromarray(numbers.astype(np.uint8)[labels])
    picture.putpalette(palette.flatten().tolist())
    return picture


def as_sixteen_bit(labels):
    return Image.fromarray(labels.astype(np.uint16))


def as_spread_grey(labels):
    return Image.fromarray(np.round(labels * (255 / 18)).astype(np.uint8))


def as_swapped_colours(labels):
    return Image.fromarray(np.asarray(as_colours(labels))[..., ::-1].copy())


def as_hidden_colours(labels):
    """Transparent where the label map has a class."""
    picture = as_colours(labels)
    picture.putalpha(Image.fromarray(np.where(labels > 0, 0, 255).astype(np.uint8)))
    return picture


FORMS = (
    as_sixteen_bit, as_spread_grey, as_swapped_colours, as_hidden_colours, as_grey, as_colours, as_rgb_grey,
    as_palette, as_renumbered_palette)


def write_pairs(folder, count=4, form=as_grey, side=SIDE):
    """MM-CelebA-HQ layout, pictures in label colours at twice the size; returns the label maps."""
    for name in ("face", "mask", "text"):
        (folder / name).mkdir(parents=True)
    maps = [label_map(np.random.default_rng(k), side) for k in range(count)]
    for k, labels in enumerate(maps):
        as_colours(labels.repeat(2, 0).repeat(2, 1)).save(folder / "face" / f"{k}.{'png' if k % 2 else 'jpg'}")
        form(labels).save(folder / "mask" / f"{k}.png")
        (folder / "text" / f"{k}.txt").write_text(f"face {k}\n\n  another caption  \n")
    return maps


def write_celeba(folder):
    """CelebAMask-HQ's layout: picture 3 with the parts skin, nose and hair that overlap, picture 10 with cloth."""
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for part in ("0", "5"):
        (folder / "CelebAMask-HQ-mask-anno" / part).mkdir(parents=True)
    for number in (3, 10):
        Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(folder / "CelebA-HQ-img" / f"{number}.jpg")
    rows = {"0/00003_skin": (0, 24), "0/00003_nose": (4, 12), "0/00003_hair": (8, 32), "5/00010_cloth": (0, 16)}
    for name, (top, bottom) in rows.items():
        part = np.zeros((SIDE, SIDE, 3), np.uint8)
        part[top:bottom] = 255
        Image.fromarray(part).save(folder / "CelebAMask-HQ-mask-anno" / f"{name}.png")


def write_renders(folder, counts=(3, 2)):
    folder.mkdir(parents=True, exist_ok=True)
    for k, count in enumerate(counts):
        labels = np.stack([label_map(RNG) for _ in range(count)])
        np.savez(folder / f"{k:05d}.npz", image=np.array(PALETTE, np.uint8)[labels], label=labels,
                 caption=[f"shard {k} row {row}" for row in range(count)], attributes=["{}"] * count)


def write_tar(file, files):
    with tarfile.open(file, "w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pairs(tmp_path):
    write_pairs(tmp_path / "pairs")
    return tmp_path / "pairs"


@pytest.fixture
def run(root):
    def run(*arguments):
        command = [sys.executable, "-m", "mdit.datasets", *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)
    return run


# Layouts


@pytest.mark.parametrize("form", FORMS)
def test_label_maps_of_every_form(tmp_path, form):
    maps = write_pairs(tmp_path, form=form)
    dataset = open_dataset(tmp_path, size=SIDE)
    assert dataset.names == ["0", "1", "2", "3"]
    for sample, labels in zip((dataset[k] for k in range(4)), maps):
        assert sample["image"].shape == (3, SIDE, SIDE) and sample["image"].dtype == torch.uint8
        assert sample["labels"].dtype == torch.uint8 and np.array_equal(sample["labels"], labels)
    assert dataset[2]["captions"] == ["face 2", "another caption"] and dataset[2]["name"] == "2"


def test_pictures_keep_their_size_and_place(pairs):
    sample = open_dataset(str(pairs))[1]  # a PNG
    assert open_dataset(pairs).sizes[1] == (2 * SIDE, 2 * SIDE) == tuple(sample["labels"].shape)
    assert np.array_equal(sample["image"].permute(1, 2, 0), np.array(PALETTE)[sample["labels"]])


def test_order_of_the_classes(tmp_path, pairs):
    parsed = [CLASSES[k] for k in PARSER_ORDER]
    asked = open_dataset(pairs)[0]["labels"]
    theirs = open_dataset(pairs, classes=parsed)[0]["labels"]
    assert torch.equal(theirs, torch.tensor(PARSER_ORDER, dtype=torch.uint8)[asked.long()])
    (pairs / "classes.txt").write_text("\n".join(DISPLAY_NAMES[k] for k in PARSER_ORDER) + "\n")
    assert torch.equal(open_dataset(pairs)[0]["labels"], theirs)
    (pairs / "classes.txt").write_text("skin\nnoze\n")
    with pytest.raises(ValueError, match="classes.txt: 'noze' is no class"):
        open_dataset(pairs)


def test_numbers_come_in_the_order_of_the_splits(tmp_path):
    write_pairs(tmp_path, 11)
    dataset = open_dataset(tmp_path)
    assert dataset.names == [str(k) for k in range(11)]
    assert [dataset[k]["name"] for k in (9, 10)] == ["9", "10"]


def test_parts_are_painted_in_class_order(tmp_path):
    write_celeba(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.names == ["3", "10"]
    column = [1] * 4 + [2] * 4 + [13] * 24  # nose over skin, hair over both
    assert dataset[0]["labels"][:, 0].tolist() == column
    assert dataset[1]["labels"][:, 5].tolist() == [18] * 16 + [0] * 16
    assert dataset[0]["captions"] == []


def test_renders(tmp_path):
    write_renders(tmp_path)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 5 and dataset.names[3] == "00001-0000"
    sample = dataset[4]
    assert sample["captions"] == ["shard 1 row 1"]
    assert np.array_equal(sample["image"].permute(1, 2, 0), np.array(PALETTE)[sample["labels"]])
    assert open_dataset(tmp_path, size=16)[4]["labels"].shape == (16, 16)


def test_a_sample_is_a_copy(tmp_path):
    write_renders(tmp_path)
    dataset = open_dataset(tmp_path)
    dataset[0]["image"].zero_()
    assert dataset[0]["image"].any()


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set here.*face/NAME.jpg.*CelebA-HQ-img.*tar.*npz"):
        open_dataset(tmp_path)
    (tmp_path / "face").mkdir()
    (tmp_path / "mask").mkdir()
    with pytest.raises(FileNotFoundError, match="no image is in them"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="size 0: "):
        open_dataset(tmp_path, size=0)


def test_resizing_aligns_picture_and_labels(tmp_path):
    """The grid of a picture of other proportions is cut in the middle, both at the same place."""
    write_pairs(tmp_path, 1)
    labels = label_map(RNG, 64)[:, :32]
    Image.fromarray(labels.repeat(4, 0).repeat(4, 1) * 10).convert("RGB").save(tmp_path / "face" / "0.jpg", quality=100)
    Image.fromarray(labels).save(tmp_path / "mask" / "0.png")
    sample = open_dataset(tmp_path, size=64)[0]
    assert sample["image"].shape[1:] == sample["labels"].shape == (64, 64)
    assert torch.equal(sample["labels"], torch.from_numpy(labels[16:48].repeat(2, 0).repeat(2, 1)))
    error = (sample["image"][0].float() / 10 - sample["labels"]).abs()
    assert error[2:6, 2:6].max() < 0.5 and error.median() < 0.3


# Mirrors


def test_mirror_swaps_sides(pairs):
    sample = open_dataset(pairs)[1]
    seen = mirror_sample(sample)
    left, right = CLASSES.index("l_eye"), CLASSES.index("r_eye")
    assert (sample["labels"] == left).any() or (sample["labels"] == right).any()
    assert torch.equal(seen["image"], sample["image"].flip(-1))
    assert torch.equal(seen["labels"] == left, (sample["labels"] == right).flip(-1))
    assert torch.equal(mirror_sample(seen)["labels"], sample["labels"])


# The check on opening


def break_nothing_readable(folder):
    (folder / "face" / "0.jpg").write_bytes(b"no picture")


def break_jpeg_end(folder):
    Image.fromarray(RNG.integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(folder / "face" / "0.jpg")
    file = folder / "face" / "0.jpg"
    file.write_bytes(file.read_bytes()[:-3000])


def break_png_end(folder):
    file = folder / "face" / "1.png"
    file.write_bytes(file.read_bytes()[:-100])


def break_mask_end(folder):
    file = folder / "mask" / "1.png"
    file.write_bytes(file.read_bytes()[:-30])


def break_aspect(folder):
    Image.new("L", (32, 40)).save(folder / "mask" / "2.png")


def break_values(folder):
    Image.new("L", (32, 32), 19).save(folder / "mask" / "2.png")


def break_colours(folder):
    Image.new("RGB", (32, 32), (120, 200, 240)).save(folder / "mask" / "2.png")


def break_into_stencil(folder):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    mask.save(folder / "mask" / "2.png")


def break_by_jpeg(folder):
    Image.new("L", (32, 32), 3).save(folder / "mask" / "2.png", "JPEG")


BROKEN = {
    "mask/2.png: black and white only": break_into_stencil,
    "mask/2.png: class indices as a JPEG": break_by_jpeg,
    "mask/3.png is missing": lambda folder: (folder / "mask" / "3.png").unlink(),
    "face/3.jpg is missing": lambda folder: (folder / "face" / "3.png").unlink(),
    "text/3.txt is missing": lambda folder: (folder / "text" / "3.txt").unlink(),
    "text/2.txt is empty": lambda folder: (folder / "text" / "2.txt").write_text("\n \n"),
    "face/0.jpg cannot be read": break_nothing_readable,
    "face/0.jpg cannot be read .*truncated": break_jpeg_end,
    "face/1.png cannot be read": break_png_end,
    "mask/1.png: ": break_mask_end,
    "mask/2.png is 32x40, the image 64x64: their aspects differ": break_aspect,
    "mask/2.png: label values up to 19": break_values,
    "mask/2.png: .*far from every entry": break_colours,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_faults_are_found_on_opening(pairs, fault):
    BROKEN[fault](pairs)
    with pytest.raises(ValueError, match=rf"1 of 4 samples cannot be used:\n  {fault}"):
        open_dataset(pairs)


def test_captions_may_be_left_out_as_a_whole(pairs):
    for file in (pairs / "text").iterdir():
        file.unlink()
    (pairs / "text").rmdir()
    assert open_dataset(pairs)[0]["captions"] == []
    assert "\ncaptions: none\n" in summarize(open_dataset(pairs))


def test_the_first_ten_faults_are_listed(tmp_path):
    write_pairs(tmp_path, 14)
    for k in range(13):
        (tmp_path / "mask" / f"{k}.png").unlink()
    with pytest.raises(ValueError, match="13 of 14 samples cannot be used") as error:
        open_dataset(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[10] == "  mask/9.png is missing" and lines[11] == "  ... and 3 more" and "Repair" in lines[12]


def test_two_pictures_of_one_name(pairs):
    as_grey(label_map(RNG)).save(pairs / "face" / "0.png")
    with pytest.raises(ValueError, match="have one name"):
        open_dataset(pairs)


def test_faults_of_parts(tmp_path):
    write_celeba(tmp_path)
    anno = tmp_path / "CelebAMask-HQ-mask-anno"
    (anno / "5" / "00010_cloth.png").unlink()
    with pytest.raises(ValueError, match="part files of CelebA-HQ-img/10.jpg are missing"):
        open_dataset(tmp_path)
    (anno / "5" / "00010_tail.png").touch()
    with pytest.raises(ValueError, match="00010_tail.png: 'tail' is no class"):
        open_dataset(tmp_path)


def test_faults_of_renders(tmp_path):
    write_renders(tmp_path)
    (tmp_path / "00002.npz").write_bytes((tmp_path / "00001.npz").read_bytes()[:-50])
    labels = np.full((1, 8, 8), 19, np.uint8)
    np.savez(tmp_path / "00003.npz", image=np.zeros((1, 8, 8, 3), np.uint8), label=labels, caption=["x"])
    np.savez(tmp_path / "00004.npz", image=np.zeros((2, 8, 8, 3), np.uint8), label=labels, caption=["x"])
    np.savez(tmp_path / "00005.npz", image=np.zeros((1, 8, 8, 3)), label=labels * 0, caption=["x"])
    (tmp_path / "00006.part.npz").touch()
    with pytest.raises(ValueError, match="4 of 6 shards.*\n  00002.npz cannot be read.*\n  00003.npz: label values "
                                         "up to 19.*\n  00004.npz: images .*do not fit together\n  00005.npz: .*float"):
        open_dataset(tmp_path)


# Tar shards


@pytest.fixture
def tars():
    pytest.importorskip("webdataset")
    from mditface.mdit.datasets import pack
    return pack


def same_samples(one, two):
    for a, b in itertools.zip_longest(one, two):
        assert a["name"] == b["name"] and a["captions"] == b["captions"]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["labels"], b["labels"])


@pytest.mark.parametrize("write", [write_pairs, write_celeba, write_renders])
def test_packed_sets_are_the_same(tars, tmp_path, write):
    write(tmp_path / "set")
    dataset = open_dataset(tmp_path / "set")
    tars.pack(tmp_path / "set", tmp_path / "tars", 2)
    tars.pack(tmp_path / "tars", tmp_path / "again", 3)
    for folder, shard in (("tars", 2), ("again", 3)):
        packed = open_dataset(tmp_path / folder)
        assert len(packed.shards) == -(-len(dataset) // shard) and packed.names == dataset.names
        same_samples(packed, (dataset[k] for k in range(len(dataset))))
    assert next(iter(open_dataset(tmp_path / "tars", size=16)))["image"].shape == (3, 16, 16)


def test_packing_goes_on_where_it_stopped(tars, pairs, tmp_path, monkeypatch):
    tars.pack(pairs, tmp_path / "whole", 1)
    kept = []
    original = tars.write_tar

    def stop_at_third(file, entries):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(file)
        return original(file, entries)

    monkeypatch.setattr(tars, "write_tar", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        tars.pack(pairs, tmp_path / "out", 1)
    monkeypatch.undo()
    times = [file.stat().st_mtime_ns for file in kept]
    tars.pack(pairs, tmp_path / "out", 1)
    assert [file.stat().st_mtime_ns for file in kept] == times
    for file in (tmp_path / "whole").glob("*.tar"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert not list((tmp_path / "out").glob("*.part"))


def test_shards_of_something_else_are_left_alone(tars, pairs, tmp_path):
    tars.pack(pairs, tmp_path / "out", 2)
    with pytest.raises(ValueError, match="shards of other samples or of another --shard"):
        tars.pack(pairs, tmp_path / "out", 3)
    (tmp_path / "out" / "pack.json").unlink()
    with pytest.raises(ValueError, match="choose an empty folder"):
        tars.pack(pairs, tmp_path / "out", 2)
    for file in ("face/0.jpg", "mask/0.png", "text/0.txt"):
        (pairs / file).rename((pairs / file).with_stem("a.b"))
    with pytest.raises(ValueError, match="the first is a.b"):
        tars.pack(pairs, tmp_path / "other", 2)
    with pytest.raises(ValueError, match="--shard 0"):
        tars.pack(pairs, tmp_path / "other", 0)


def test_foreign_tars_in_another_order(tars, tmp_path):
    labels = label_map(RNG)
    theirs = np.argsort(PARSER_ORDER).astype(np.uint8)[labels]
    write_tar(tmp_path / "a.tar", {"x.JPG": png(labels), "x.mask.png": png(theirs)})
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES[k] for k in PARSER_ORDER))
    tars.pack(tmp_path, tmp_path / "out", 1)
    for folder in (tmp_path, tmp_path / "out"):
        sample, = open_dataset(folder)
        assert np.array_equal(sample["labels"], labels) and sample["captions"] == []


def test_faults_of_tars(tars, tmp_path):
    picture = png(label_map(RNG))
    write_tar(tmp_path / "a.tar", {"x.png": picture, "x.mask.png": picture, "y.png": picture, "z.mask.png": picture})
    with pytest.raises(ValueError, match="2 of 3 samples.*\n  a.tar: y has no y.mask.png, only files with the endings "
                                         "png\n  a.tar: z has no image"):
        open_dataset(tmp_path)
    write_tar(tmp_path / "a.tar", {})
    with pytest.raises(FileNotFoundError, match="hold no sample"):
        open_dataset(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"\1" * 2000)
    with pytest.raises(ValueError, match="1 of 1 shards cannot be used:\n  a.tar cannot be read"):
        open_dataset(tmp_path)
    write_tar(tmp_path / "a.tar", {"x.png": picture, "x.mask.png": b"nothing"})
    with pytest.raises(ValueError, match="a.tar: sample x cannot be used"):
        list(open_dataset(tmp_path))


def test_machines_and_workers_share_the_shards(tars, tmp_path, monkeypatch):
    write_renders(tmp_path / "set", (8,))
    tars.pack(tmp_path / "set", tmp_path / "tars", 1)
    dataset = open_dataset(tmp_path / "tars")
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        loader = DataLoader(dataset, 2, num_workers=2, collate_fn=list)
        seen += [sample["name"] for batch in loader for sample in batch]
    assert sorted(seen) == sorted(dataset.names)
    monkeypatch.setenv("WORLD_SIZE", "9")
    with pytest.raises(ValueError, match="8 shards cannot be shared by 9 processes"):
        iter(dataset)


# The command


def test_check_prints_a_summary(run, pairs):
    shown = run("check", pairs)
    assert shown.returncode == 0, shown.stderr
    for text in ("4 samples, 4 of them read", "sizes: 64x64 (4)", "captions: 8, of 4 of 4 samples, 2.0 words",
                 "\nskin "):
        assert text in shown.stdout
    (pairs / "mask" / "0.png").unlink()
    failed = run("check", pairs)
    assert failed.returncode == 1 and "mask/0.png is missing" in failed.stderr and "Traceback" not in failed.stderr


def test_pack_command(run, tars, pairs, tmp_path):
    assert run("pack", pairs, tmp_path / "out", "--shard", 3).returncode == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["00000.tar", "00001.tar", "pack.json"]

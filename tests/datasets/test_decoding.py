"""Images and texts as people have them: orientation, depth, alpha, profiles, encodings."""
import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from mditface.mdit.datasets import decoding, open_dataset
from mditface.mdit.datasets.images import read_image, read_labels, read_part
from mditface.mdit.labelmap import PALETTE
from mditface.mdit.recipes.dynast.pairs import read_people
from mditface.tests.datasets.test_datasets import label_map, png, write_celeba, write_pairs, write_tar
from mditface.tests.labelmap.test_files import deep_png

RED, BLUE = (254, 0, 0), (0, 0, 254)
UPRIGHT = np.zeros((32, 16, 3), np.uint8)  # red on top
UPRIGHT[:16] = RED
UPRIGHT[16:] = BLUE
STORED = {  # what a camera stores, by orientation
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT), 7: UPRIGHT[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(UPRIGHT, -1)}


def write(file, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))).save(file, **options)
    return file


def is_upright(image, upto=30):
    """Whether a tensor (3, H, W) is close to the upright picture, for formats that lose some."""
    expected = torch.tensor(UPRIGHT).permute(2, 0, 1).int()
    return image.shape == expected.shape and (image.int() - expected).abs().max() < upto


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = dict(quality=100) if suffix in ("jpg", "webp") else {}
    file = write(tmp_path / f"a.{suffix}", STORED[orientation], exif=exif, **options)
    assert decoding.inspect_image(file) == (32, 16)
    gray = write(tmp_path / f"b.{suffix}", np.ascontiguousarray(STORED[orientation][..., 0]), exif=exif, **options)
    assert (read_image(gray)[0].int() - torch.tensor(UPRIGHT[..., 0]).int()).abs().max() < 30
    assert is_upright(read_image(file), 90), "chroma is stored at half the resolution"


@pytest.mark.parametrize("packed", [False, True])
def test_a_sample_stands_upright_under_its_label_map(tmp_path, packed):
    for name in ("face", "mask"):
        (tmp_path / name).mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    face = write(tmp_path / "face" / "a.jpg", STORED[6], exif=exif, quality=100)
    labels = (UPRIGHT[..., 0] > 0).astype(np.uint8)
    write(tmp_path / "mask" / "a.png", labels)
    source = tmp_path
    if packed:
        source = tmp_path / "tars"
        source.mkdir()
        write_tar(source / "a.tar", {"a.jpg": face.read_bytes(), "a.mask.png": png(labels)})
    sample, = open_dataset(source)
    assert is_upright(sample["image"], 90) and np.array_equal(sample["labels"], labels)


def levels(image):
    return read_image(image).amax((1, 2)).tolist()


def test_16_bit_levels_are_scaled(tmp_path):
    deep = np.full((8, 8), 128 * 257, np.uint16)
    assert levels(write(tmp_path / "a.png", deep)) == [128] * 3
    assert levels(write(tmp_path / "a.tif", deep.astype(np.int32))) == [128] * 3
    with pytest.raises(ValueError, match="gray levels from -1 to 70000: save it with 8 or 16 bits"):
        read_image(write(tmp_path / "b.tif", np.array([[-1, 70000]], np.int32)))


@pytest.mark.parametrize("make", [
    lambda: Image.fromarray(np.full((8, 8, 4), (10, 20, 30, 0), np.uint8)),
    lambda: Image.fromarray(np.full((8, 8, 2), (10, 0), np.uint8)),
    lambda: Image.fromarray(np.full((8, 8), 3, np.uint8))], ids=["RGBA", "LA", "transparent index"])
def test_transparent_pixels_are_white(tmp_path, make):
    image = make()
    options = {}
    if image.mode == "L":
        image.putpalette([9] * 768)
        options = dict(transparency=3)
    assert levels(write(tmp_path / "a.png", image, **options)) == [255] * 3


def test_palettes_and_bilevel_images(tmp_path):
    image = Image.fromarray(np.full((8, 8), 3, np.uint8))
    image.putpalette([0] * 9 + [10, 20, 30] + [0] * 756)
    assert levels(write(tmp_path / "a.png", image)) == [10, 20, 30]
    assert levels(write(tmp_path / "b.png", Image.new("1", (8, 8), 1))) == [255] * 3


def test_cmyk(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert levels(write(tmp_path / "a.jpg", red, quality=100)) == pytest.approx([255, 0, 0], abs=3)


def linear_profile():
    """The bytes of a profile with sRGB's primaries and linear levels: sRGB's with its curves replaced."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(content[128:132], "big")
    for k in range(count):
        entry = 132 + 12 * k
        tag, start = bytes(content[entry:entry + 4]), int.from_bytes(content[entry + 4:entry + 8], "big")
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            content[start:start + 12] = b"para" + bytes(4) + bytes(4)  # y = x ** gamma
            content[start + 12:start + 16] = (1 << 16).to_bytes(4, "big")
    return bytes(content).replace("sRGB".encode("utf-16-be"), "Line".encode("utf-16-be"))


def test_color_profiles_are_applied(tmp_path):
    image = Image.new("RGB", (8, 8), (55, 55, 55))
    found = levels(write(tmp_path / "a.png", image, icc_profile=linear_profile()))
    assert found == [pytest.approx(128, abs=2)] * 3, "0.2140 of the light is level 128 in sRGB"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kept in (srgb, b"no profile"):
        assert levels(write(tmp_path / "b.png", image, icc_profile=kept)) == [55] * 3
    gray = Image.new("L", (8, 8), 55)
    assert levels(write(tmp_path / "c.png", gray, icc_profile=linear_profile())) == [55] * 3, "not a profile of grays"


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_animations_are_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    file = tmp_path / f"a.{suffix}"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    for read in (decoding.inspect_image, read_image):
        with pytest.raises(ValueError, match="it has 2 frames or pages: save one"):
            read(file)


def test_the_main_image_of_a_phones_file_is_read(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:], quality=100)
    assert decoding.inspect_image(tmp_path / "a.jpg") == (16, 16) and levels(tmp_path / "a.jpg")[0] > 250


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif"])
def test_cut_off_files_of_other_formats(tmp_path, suffix):
    file = write(tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match=f"a.{suffix} cannot be read"):
        decoding.inspect_image(file)


def become_webp(file):
    Image.open(file).save(file.with_suffix(".webp"), lossless=True)
    file.unlink()


def test_files_of_other_formats_are_read_or_named(tmp_path):
    write_pairs(tmp_path, 3)
    become_webp(tmp_path / "face" / "1.png")
    (tmp_path / "face" / "0.jpg").rename(tmp_path / "face" / "0.heic")
    (tmp_path / "mask" / "2.png").rename(tmp_path / "mask" / "2.gif")
    with pytest.raises(ValueError, match="2 of 3 samples") as error:
        open_dataset(tmp_path)
    assert "face/0.jpg is missing; 0.heic is there, but this format is not read: convert it" in str(error.value)
    assert "mask/2.png is missing; 2.gif is there" in str(error.value)


def test_a_shard_takes_other_formats_as_png(tmp_path):
    write_pairs(tmp_path, 2)
    become_webp(tmp_path / "face" / "1.png")
    faces = open_dataset(tmp_path)
    files = faces.sources[1].make_tar_files()
    assert set(files) == {"png", "mask.png", "txt"}
    assert torch.equal(read_image(io.BytesIO(files["png"])), faces[1]["image"])


# Label maps and part files

ORDER = tuple(range(19))
LABELS = np.zeros((32, 16), np.uint8)  # skin on top, hair below
LABELS[:16], LABELS[16:] = 1, 13


def turned(array, orientation):
    return {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.T, 6: np.rot90(array),
            7: array[::-1, ::-1].T, 8: np.rot90(array, -1)}[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_label_maps_are_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    colors = np.array(PALETTE, np.uint8)[turned(LABELS, orientation)]
    file = write(tmp_path / f"a.{suffix}", colors, exif=exif, **(dict(lossless=True) if suffix == "webp" else {}))
    assert np.array_equal(read_labels(file, ORDER), LABELS)
    part = write(tmp_path / f"b.{suffix}", turned(LABELS == 1, orientation).astype(np.uint8) * 255, exif=exif)
    assert np.array_equal(read_part(part), LABELS == 1)


def test_animated_label_maps_are_refused(tmp_path):
    frames = [Image.fromarray(np.array(PALETTE, np.uint8)[labels]) for labels in (LABELS, LABELS[::-1])]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    for read in (lambda file: read_labels(file, ORDER), read_part):
        with pytest.raises(ValueError, match="it has 2 frames"):
            read(tmp_path / "a.png")


def test_indices_that_pillow_drops_are_refused(tmp_path):
    """Colors of 16 bit lose their lower half."""
    levels = label_map(np.random.default_rng(0))[..., None].repeat(3, -1).astype(np.uint16)
    assert np.array_equal(read_labels(deep_png(levels * 257), ORDER), levels[..., 0])
    with pytest.raises(ValueError, match="channels of 16 bit, and levels below 256 alone"):
        read_labels(deep_png(levels), ORDER)


def test_indices_in_a_phones_jpeg_are_refused(tmp_path):
    frames = [Image.fromarray(LABELS)] * 2
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="class indices as a JPEG"):
        read_labels(tmp_path / "a.jpg", ORDER)


def hidden(part):
    """A part file whose alpha is 0 outside the part, as some programs save it."""
    alpha = Image.fromarray(part.astype(np.uint8) * 255)
    return Image.merge("RGBA", [alpha] * 4)


PARTS = {
    "png": lambda part: Image.fromarray(part.astype(np.uint8) * 255),
    "png 0 and 1": lambda part: Image.fromarray(part.astype(np.uint8)),
    "png bilevel": lambda part: Image.fromarray(part), "png alpha": hidden,
    "png 16 bit": lambda part: Image.fromarray(part.astype(np.uint16) * 65535),
    "png palette": lambda part: Image.fromarray(part.astype(np.uint8) * 255).convert("P"),
    "jpg": lambda part: Image.fromarray(part.astype(np.uint8) * 255), "bmp": lambda part: Image.fromarray(part),
    "webp": lambda part: Image.fromarray(part.astype(np.uint8) * 255).convert("RGB"),
    "jpg CMYK": lambda part: Image.fromarray(part.astype(np.uint8) * 255).convert("RGB").convert("CMYK"),
    "tif": lambda part: Image.fromarray(part.astype(np.uint8) * 255)}


@pytest.mark.parametrize("kind", PARTS)
def test_part_files_of_every_kind(tmp_path, kind):
    write_celeba(tmp_path)
    expected = [sample["labels"].clone() for sample in open_dataset(tmp_path)]
    for file in (tmp_path / "CelebAMask-HQ-mask-anno").glob("*/*.png"):
        part = np.asarray(Image.open(file).convert("L")) > 0
        file.unlink()
        PARTS[kind](part).save(file.with_suffix(f".{kind.split()[0]}"))
    for sample, labels in zip(open_dataset(tmp_path), expected):
        assert (sample["labels"] == labels).float().mean() > (0.9 if kind in ("jpg", "webp", "jpg CMYK") else 0.9999)
        assert set(sample["labels"].unique().tolist()) == set(labels.unique().tolist())


def test_part_files_of_no_known_format_are_named(tmp_path):
    write_celeba(tmp_path)
    file = tmp_path / "CelebAMask-HQ-mask-anno" / "0" / "00003_hair.png"
    file.rename(file.with_suffix(".gif"))
    with pytest.raises(ValueError, match="00003_hair.gif has a format that is not read: convert it"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp"])
def test_masks_of_every_format_in_tars(tmp_path, suffix):
    file = write(tmp_path / f"a.{suffix}", np.array(PALETTE, np.uint8)[LABELS],
                 **(dict(lossless=True) if suffix == "webp" else {}))
    write_tar(tmp_path / "a.tar", {"x.png": png(UPRIGHT), f"x.mask.{suffix}": file.read_bytes(), "x.txt": b"a face"})
    file.unlink()
    sample, = open_dataset(tmp_path)
    assert np.array_equal(sample["labels"], LABELS)
    write_tar(tmp_path / "a.tar", {"x.png": png(UPRIGHT), "x.mask.gif": b"", "x.txt": b"a face"})
    with pytest.raises(ValueError, match="x has no x.mask.png, only files with the endings mask.gif, png, txt"):
        open_dataset(tmp_path)


# Texts

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
BE = {"utf-16-be": b"\xfe\xff", "utf-32-be": b"\0\0\xfe\xff"}
CAPTION = "a face \u4eba\r\na caf\u00e9"


@pytest.mark.parametrize("content", [
    *(CAPTION.encode(name) for name in ENCODINGS), *(mark + CAPTION.encode(name) for name, mark in BE.items())])
def test_captions_in_marked_encodings(tmp_path, content):
    write_pairs(tmp_path, 2)
    (tmp_path / "text" / "1.txt").write_bytes(content)
    expected = ["a face \u4eba", "a caf\u00e9"]
    assert open_dataset(tmp_path)[1]["captions"] == expected
    picture = png(label_map(np.random.default_rng(0)))
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "a.tar", {"x.png": picture, "x.mask.png": picture, "x.txt": content})
    assert next(iter(open_dataset(tmp_path / "tars")))["captions"] == expected


@pytest.mark.parametrize("content, said", [
    ("caf\u00e9".encode("latin-1"), "the text is not UTF-8 \\(byte 3\\): save it as UTF-8"),
    ("a face".encode("utf-16-le"), "the text has zero bytes, as UTF-16 without a mark"),
    (b"\xff\xfea", "the text is not UTF-16")])
def test_texts_in_other_encodings_are_named(tmp_path, content, said):
    write_pairs(tmp_path, 2)
    (tmp_path / "text" / "1.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"1 of 2 samples cannot be used:\n  text/1.txt: {said}"):
        open_dataset(tmp_path)
    picture = png(label_map(np.random.default_rng(0)))
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "a.tar", {"x.png": picture, "x.mask.png": picture, "x.txt": content})
    with pytest.raises(ValueError, match=f"a.tar: sample x cannot be used \\(.*{said}"):
        next(iter(open_dataset(tmp_path / "tars")))


def test_lists_beside_the_images_have_the_same_encodings(tmp_path):
    write_pairs(tmp_path, 1)
    (tmp_path / "classes.txt").write_text("skin\n" * 19, "utf-16")
    assert set(open_dataset(tmp_path)[0]["labels"].unique().tolist()) == {1}
    (tmp_path / "classes.txt").write_bytes(b"skin\r" * 19)
    assert len(open_dataset(tmp_path)) == 1
    (tmp_path / "people.txt").write_text("0.jpg \u4eba\n", "utf-16")
    assert read_people(tmp_path, ["0"]) == ["\u4eba"]
    (tmp_path / "classes.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="classes.txt: the text is not UTF-8"):
        open_dataset(tmp_path)

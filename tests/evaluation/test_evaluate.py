"""Images for a test set, and the evaluation command."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.datasets import Renders
from mditface.mdit.evaluation import evaluate, generate, report
from mditface.mdit.evaluation.metrics.scores import INCEPTION
from mditface.mdit.labelmap import PALETTE
from mditface.mdit.render.appearance import sample_appearance
from mditface.mdit.render.caption import Caption
from mditface.tests.evaluation.test_metrics import SIDE, Base


@pytest.fixture(scope="module")
def models(root):
    return generate.load_models(root / "mdit" / "mditface" / "weights" / "mditface-demo.safetensors")


@pytest.fixture
def shard(tmp_path):
    """A folder of renders in name, whose pictures show their label map's colours."""
    return write_shard(tmp_path / "renders", 60, seed=0)


def write_shard(folder, count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 19, (count, 8, 8), dtype=np.uint8).repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
    appearances = [sample_appearance(rng) for _ in labels]
    folder.mkdir()
    np.savez(folder / "00000.npz", image=np.array(PALETTE, np.uint8)[labels], label=labels,
             caption=list(map(Caption.short, appearances)), attributes=list(map(json.dumps, appearances)))
    return folder


def test_picture_does_not_depend_on_those_it_is_drawn_with(models, shard):
    generator = generate.Generator(models, generate.Options(steps=2), SIDE)
    labels, captions = Renders(shard).labels[:3], ["young woman, red hair", "old man " * 30, "old man, bald"]
    numbers = [3, 64, 65]
    together = generator(labels, captions, numbers)
    assert together.shape == (3, SIDE, SIDE, 3) and together.dtype == torch.uint8
    for i, number in enumerate(numbers):
        alone = generator(labels[i:i + 1], captions[i:i + 1], [number])[0]
        assert (alone.int() - together[i].int()).abs().max() <= 1
    for number in (4, 3 + generate.NOISE_BLOCK):
        other = generator(labels[:1], captions[:1], [number])[0]
        assert (other.int() - together[0].int()).abs().max() > 20


def test_folder_is_filled_where_pictures_are_missing(tmp_path):
    drawn = []

    def generator(labels, captions, numbers):
        drawn.append(tuple(numbers))
        return torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8)

    samples = [(number, {"labels": torch.zeros(4, 4), "caption": ""}) for number in range(7)]
    path = generate.make_image_path(tmp_path, *samples[1])
    generate.write_image(path, torch.full((4, 4, 3), 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="gather: 6 images are not drawn yet, the first has the number 0"):
        generate.require_images(tmp_path, samples)
    generate.fill_folder(tmp_path, samples, generator, batch=3)
    assert drawn == [(0, 2, 3), (4, 5, 6)]
    assert np.array(Image.open(path)).max() == 9
    assert len(list(tmp_path.iterdir())) == 7
    generate.require_images(tmp_path, samples)


def test_an_image_is_known_by_what_it_is_drawn_from(tmp_path):
    def name(number=3, label=0, caption="a woman"):
        return generate.make_image_path(tmp_path, number, {"labels": torch.full((4, 4), label), "caption": caption})

    assert len({name(), name(number=4), name(label=1), name(caption="a man")}) == 4 and name() == name()


def test_other_options_and_weights_have_folders_of_their_own(tmp_path):
    weights = [tmp_path / "a", tmp_path / "b"]
    for path in weights:
        path.write_text(path.name)
    folders = {generate.make_image_folder(tmp_path, [path], SIDE, options) for path in weights
               for options in (generate.Options(), generate.Options(seed=1))}
    assert len(folders) == 4
    assert generate.make_image_folder(tmp_path, weights[:1], SIDE, generate.Options()) in folders


def test_missing_model_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        generate.load_models(tmp_path / "none.safetensors")


def test_samples_have_numbers_captions_and_appearances(shard):
    dataset = evaluate.open_dataset(shard, SIDE)
    appearances = evaluate.read_appearances(shard)
    chosen = list(evaluate.Samples(dataset, 2, 3, appearances))
    assert [number for number, _ in chosen] == [2, 3, 4]
    assert chosen[0][1]["caption"] == Caption.short(appearances[2])
    assert torch.equal(chosen[2][1]["labels"], Renders(shard).labels[4])
    with pytest.raises(ValueError, match="none from number 60"):
        evaluate.Samples(dataset, 60)
    whole = evaluate.Samples(dataset, 2, 10)
    shares = [[number for number, _ in whole.take_share(part, 3)] for part in (1, 2, 3)]
    assert sum(shares, []) == list(range(2, 12)) and min(map(len, shares)) == 3


def test_samples_of_tars_are_those_of_the_folder(shard, tmp_path):
    pytest.importorskip("webdataset")
    from mditface.mdit.datasets.pack import pack
    packed_folder = tmp_path / "tars"
    pack(shard, packed_folder, 25)
    tars, renders = (evaluate.Samples(evaluate.open_dataset(folder, SIDE), 24, 3) for folder in (packed_folder, shard))
    assert len(tars) == 3
    for (number, packed), (other, plain) in zip(tars, renders, strict=True):
        assert number == other and packed["caption"] == next(iter(plain["captions"]))
        assert torch.equal(packed["image"], plain["image"]) and torch.equal(packed["labels"], plain["labels"])


def test_command_writes_the_report_and_goes_on(shard, tmp_path, root, capsys, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.jit.script(Base()).save(weights / INCEPTION)
    out, fit = tmp_path / "out", write_shard(tmp_path / "fit", 60, seed=1)
    command = ["--source", shard, "--out", out, "--model", root / "mdit/mditface/weights/mditface-demo.safetensors",
               "--count", 3, "--steps", 1, "--weights", weights, "--fit", fit]
    evaluate.main(list(map(str, command)))
    report = json.loads((out / "report.json").read_text())
    assert {"fid", "kid"} == set(report["measures"]) and {"cmmd", "text", "structure"} == set(report["skipped"])
    assert report["labels"]["real"]["pixel_accuracy"] < 1
    assert {"background_color", "glasses", "sex", "lipstick"} <= set(report["attributes"]["generated"])
    table = (out / "report.md").read_text()
    assert table.strip() == capsys.readouterr().out.strip()
    assert table.startswith(f"mditface-demo.safetensors: 3 images of {SIDE} px, 1 steps of euler (linear_quadratic), ")
    assert "| pixel accuracy | " in table and "cmmd: not measured, no clip-vit-large-patch14-336 in " in table
    assert "published at https://huggingface.co/openai/clip-vit-large-patch14-336." in table
    assert Image.open(out / "sheet.png").size == (3 * 3 * SIDE, SIDE)
    monkeypatch.setattr(generate.Generator, "draw", None)  # nothing is drawn again
    evaluate.main(list(map(str, command)))
    assert json.loads((out / "report.json").read_text()) == report


def test_machines_draw_shares_and_one_gathers(shard, tmp_path, root, monkeypatch):
    out, moved = tmp_path / "out", tmp_path / "moved"
    weights = root / "mdit/mditface/weights/mditface-demo.safetensors"

    def run(source, *more):
        command = ["--source", source, "--out", out, "--model", weights, "--count", 4, "--steps", 1, *more]
        evaluate.main(list(map(str, command)))

    run(shard, "--shard", "1/2", "--draw-only")
    with pytest.raises(ValueError, match="gather: 2 images are not drawn yet, the first has the number 2"):
        run(shard, "--gather")
    shard.rename(moved)
    run(moved, "--shard", "2/2", "--draw-only")
    assert not (out / "report.json").exists()
    monkeypatch.setattr(generate.Generator, "draw", None)  # nothing is drawn again
    run(moved, "--gather")
    assert json.loads((out / "report.json").read_text())["count"] == 4


def test_sheet_shows_map_picture_and_real_picture():
    picture, image = np.full((4, 4, 3), 7, np.uint8), torch.full((3, 4, 4), 9, dtype=torch.uint8)
    pixels = np.array(report.draw_sheet([(picture, image, torch.ones(4, 4, dtype=torch.uint8))]))
    assert [tuple(pixels[0, x]) for x in (0, 4, 8)] == [PALETTE[1], (7, 7, 7), (9, 9, 9)]


@pytest.mark.parametrize("arguments, told", [
    (["--steps", "0"], "at least 1"), ([], "--source"), (["--shard", "0/2"], "--shard"), (["--shard", "x"], "--shard"),
    (["--shard", "1/2"], "add --draw-only"), (["--gather", "--draw-only"], "--gather draws nothing"),
    (["--vae", "v"], "of an --adapter")])
def test_bad_arguments_are_told(arguments, told, capsys):
    required = ["--source", "a", "--model", "b", "--out", "c"] if arguments else []
    with pytest.raises(SystemExit):
        evaluate.main([*required, *arguments])
    assert told in capsys.readouterr().err

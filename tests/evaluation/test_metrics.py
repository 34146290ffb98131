"""The measures of generated faces, against slow formulas and networks of a test's size."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTokenizer,
                          CLIPVisionConfig)

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.evaluation.metrics import attributes
from mditface.mdit.evaluation.metrics.agreement import LabelAgreement, open_parser
from mditface.mdit.parsing import measure_agreement
from mditface.mdit.evaluation.metrics.distances import (
    frechet_distance, gaussian_mmd, kernel_distance, self_similarity, structure_distance)
from mditface.mdit.evaluation.metrics.networks import CLIP_MEAN, CLIP_STD, ClipEmbedding, ClipScore, DinoKeys, Inception
from mditface.mdit.evaluation.metrics.scores import CLIP_BASE, DINO, FILES, INCEPTION, StructureScore, open_scores
from mditface.mdit.render.appearance import sample_appearance

CPU = torch.device("cpu")
SIDE = 128


def features(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=rng) @ torch.randn(width, width, generator=rng) + shift


def faces(count: int, seed: int = 0, size: int = SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).byte()


# Distances


def test_frechet_distance_is_that_of_the_gaussians():
    real, generated = features(40, 5, 0).double().numpy(), features(30, 5, 1, 0.7).double().numpy()

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T

    a, b = np.cov(real.T), np.cov(generated.T)
    expected = (((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b)
                - 2 * np.trace(root(root(a) @ b @ root(a))))
    assert frechet_distance(torch.tensor(real), torch.tensor(generated)) == pytest.approx(expected, rel=1e-9)


def slow_mmd(real: np.ndarray, generated: np.ndarray, kernel, unbiased: bool) -> float:
    def mean(a, b, skip):
        pairs = [kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if not (skip and i == j)]
        return math.fsum(pairs) / len(pairs)
    return mean(real, real, unbiased) + mean(generated, generated, unbiased) - 2 * mean(real, generated, False)


def cubic(x, y):
    return (float(x @ y) / len(x) + 1) ** 3


def test_kernel_distance_is_the_unbiased_mmd():
    real, generated = features(14, 6, 0).double(), features(14, 6, 1, 0.5).double()
    expected = 1000 * slow_mmd(real.numpy(), generated.numpy(), cubic, unbiased=True)
    assert kernel_distance(real, generated) == pytest.approx(expected, rel=1e-9)  # each subset is the whole set


def test_kernel_distance_averages_subsets_of_the_smaller_set():
    real, generated = features(10, 6, 0).double(), features(40, 6, 1, 0.5).double()
    expected = 1000 * slow_mmd(real.numpy(), generated.numpy(), cubic, unbiased=True)
    state = torch.random.get_rng_state()
    assert kernel_distance(real, generated) == pytest.approx(expected, rel=0.3)
    assert kernel_distance(real, generated) == kernel_distance(real, generated)
    assert torch.equal(state, torch.random.get_rng_state())


def test_gaussian_mmd_counts_the_diagonal():
    real, generated = (F.normalize(features(n, 4, n), dim=1).double() for n in (9, 7))

    def gaussian(x, y):
        return math.exp(-float(((x - y) ** 2).sum()) / 200)

    expected = 1000 * slow_mmd(real.numpy(), generated.numpy(), gaussian, unbiased=False)
    assert gaussian_mmd(real, generated) == pytest.approx(expected, rel=1e-6)
    assert gaussian_mmd(real, real) == pytest.approx(0, abs=1e-9)


def test_structure_distance_compares_cosines():
    a, b = features(2 * 5, 3, 0).view(2, 5, 3), features(2 * 5, 3, 1).view(2, 5, 3)

    def cosine(x, y):
        return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))

    for k in range(2):
        pairs = [(i, j) for i in range(5) for j in range(5)]
        assert self_similarity(a)[k, 1, 3] == pytest.approx(cosine(a[k, 1], a[k, 3]), abs=1e-6)
        expected = sum((cosine(a[k, i], a[k, j]) - cosine(b[k, i], b[k, j])) ** 2 for i, j in pairs) / 25
        assert structure_distance(a, b)[k] == pytest.approx(expected, abs=1e-6)


def test_distances_need_two_pictures():
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match="at least two"):
            distance(features(1, 3, 0), features(5, 3, 0))


# Label agreement


def test_agreement_counts_absent_classes_as_one():
    asked, parsed = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 5]])
    scores = measure_agreement(parsed, asked)
    assert scores["pixel_accuracy"] == 0.5
    assert scores["mean_iou"] == pytest.approx((2 / 3 + 0 + 0 + 16) / 19)  # background, skin and the parser's l_brow
    assert scores["mean_iou_present"] == pytest.approx((2 / 3 + 0) / 2)
    assert set(measure_agreement(asked, asked).values()) == {1.0}


def test_class_iou_is_over_the_pixels_of_all_pictures():
    maps = iter([np.array([[0, 1, 1, 1]]), np.array([[0, 0, 0, 1]])])
    labels = LabelAgreement(lambda image: next(maps))
    for _ in range(2):
        labels.update(np.zeros((1, 4, 3), np.uint8), np.array([[0, 0, 1, 1]]))
    scores = labels.compute()
    assert scores["class_iou"]["background"] == pytest.approx(3 / 5)
    assert scores["class_iou"]["skin"] == pytest.approx(3 / 5)
    assert scores["class_iou"]["hat"] is None
    assert scores["pixel_accuracy"] == pytest.approx(0.75)


def test_parsers_by_name_and_their_faults(tmp_path):
    assert open_parser("numpy:zeros_like") is np.zeros_like
    assert open_parser()(np.zeros((20, 30, 3), np.uint8)).shape == (20, 30)
    with pytest.raises(ValueError, match="nowhere:parse"):
        open_parser("nowhere:parse")
    with pytest.raises(ValueError, match="cannot be called"):
        open_parser("math:pi")
    with pytest.raises(FileNotFoundError):
        open_parser(str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="keep the size"):
        measure_agreement(np.zeros((2, 2), int), np.zeros((4, 4), int))
    with pytest.raises(ValueError, match="class 19"):
        measure_agreement(np.full((2, 2), 19), np.zeros((2, 2), int))


# Networks


class Layers(torch.nn.Module):
    """Gives each picture's mean 2048 times."""

    def forward(self, x):
        return x.mean((1, 2, 3), keepdim=True).expand(-1, 2048, 1, 1)


class Base(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x):
        return self.layers(x)


def test_inception_reads_clean_fids_file(tmp_path):
    torch.jit.script(Base()).save(tmp_path / INCEPTION)
    pictures = torch.stack([torch.full((3, 40, 30), level, dtype=torch.uint8) for level in (0, 192)])
    out = Inception(tmp_path, CPU)(pictures)
    assert out.shape == (2, 2048)
    assert out[:, 0].tolist() == pytest.approx([-1.0, 0.5])


@pytest.fixture
def clip(tmp_path):
    """A CLIP folder of a test's size."""
    folder = tmp_path / CLIP_BASE
    layers = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz",
             *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(**layers, vocab_size=len(words), max_position_embeddings=12, bos_token_id=0, eos_token_id=1)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), projection_dim=8, vision_config=CLIPVisionConfig(
        **layers, image_size=32, patch_size=8, projection_dim=8).to_dict()))
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=12)
    image = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image, tokenizer).save_pretrained(folder)
    return folder, model.eval()


def normalised(pictures):
    return (pictures / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def test_clip_embedding_has_unit_length(clip):
    folder, model = clip
    pictures = faces(3, size=32)
    with torch.no_grad():
        pooled = model.vision_model(normalised(pictures)).pooler_output
        expected = F.normalize(model.visual_projection(pooled), dim=1)
    assert torch.allclose(ClipEmbedding(folder, CPU)(pictures), expected, atol=1e-5)
    assert ClipEmbedding(folder, CPU)(faces(1, size=80)).norm() == pytest.approx(1, abs=1e-5)


def test_clip_score_is_the_cosine_times_the_scale(clip):
    folder, model = clip
    pictures, captions = faces(2, size=32), ["ab c", "a very long caption beyond the limit of the encoder"]
    tokens = CLIPProcessor.from_pretrained(folder).tokenizer(captions, return_tensors="pt", padding=True,
                                                             truncation=True)
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(normalised(pictures)).pooler_output)
        text = model.text_projection(model.text_model(**tokens).pooler_output)
        expected = F.cosine_similarity(image, text) * model.logit_scale.exp()
    assert torch.allclose(ClipScore(folder, CPU)(pictures, captions), expected, atol=1e-3)


def published_dino(width: int, depth: int, side: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, side * side + 1, width),
              "patch_embed.proj.weight": (width, 3, 8, 8), "patch_embed.proj.bias": (width,),
              "norm.weight": (width,), "norm.bias": (width,)}
    for i in range(depth):
        for name, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes |= {f"blocks.{i}.{name}.weight": (rows * width, columns * width),
                       f"blocks.{i}.{name}.bias": (rows * width,)}
        shapes |= {f"blocks.{i}.norm{k}.{kind}": (width,) for k in (1, 2) for kind in ("weight", "bias")}
    return {name: torch.randn(shape, generator=rng) * 0.1 for name, shape in shapes.items()}


def slow_dino_keys(w: dict[str, torch.Tensor], x: torch.Tensor, depth: int) -> torch.Tensor:
    """The published network's forward, up to the last layer's keys."""
    width, heads = w["cls_token"].shape[-1], w["cls_token"].shape[-1] // 64

    def norm(x, name):
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 8).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for i in range(depth):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = qkv.view(*x.shape[:2], 3, heads, 64).permute(2, 0, 3, 1, 4)
        if i == depth - 1:
            return k.transpose(1, 2).flatten(2)
        out = (q @ k.transpose(-1, -2) / 8).softmax(-1) @ v
        x = x + linear(out.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")


def test_dino_keys_are_those_of_the_published_network(tmp_path):
    weights, pictures = published_dino(width=128, depth=3, side=4), faces(2, size=32)
    torch.save(weights, tmp_path / DINO)
    keys = DinoKeys(tmp_path / DINO, 32, CPU)(pictures)
    assert torch.allclose(keys, slow_dino_keys(weights, pictures / 255, 3), atol=1e-4)


def test_dino_positions_stretch_to_larger_pictures(tmp_path):
    weights, pictures = published_dino(width=128, depth=3, side=4), faces(2, size=48)
    torch.save(weights, tmp_path / DINO)
    grid = weights["pos_embed"][:, 1:].view(1, 4, 4, 128).permute(0, 3, 1, 2)
    stretched = F.interpolate(grid, scale_factor=6.1 / 4, mode="bicubic").permute(0, 2, 3, 1).reshape(1, 36, 128)
    stretched = weights | {"pos_embed": torch.cat([weights["pos_embed"][:, :1], stretched], 1)}
    keys = DinoKeys(tmp_path / DINO, 48, CPU)(pictures)
    assert torch.allclose(keys, slow_dino_keys(stretched, pictures / 255, 3), atol=1e-4)
    score = StructureScore(DinoKeys(tmp_path / DINO, 48, CPU))
    score.update(pictures, pictures, [])
    assert score.compute()["structure"]["generated"] == pytest.approx(0, abs=1e-9)


def test_measures_without_weights_are_named(tmp_path):
    scores, skipped = open_scores(None, SIDE, CPU)
    assert scores == [] and set(skipped) == set(FILES)
    torch.jit.script(Base()).save(tmp_path / INCEPTION)
    scores, skipped = open_scores(tmp_path, SIDE, CPU)
    assert set(skipped) == {"cmmd", "text", "structure"} and DINO in skipped["structure"]
    for seed in (0, 1):
        scores[0].update(faces(2, seed), faces(2, seed), [""] * 2)
    assert scores[0].compute()["fid"]["generated"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(FileNotFoundError, match="weights: no folder"):
        open_scores(tmp_path / "none", SIDE, CPU)


# Attributes


def painted_appearance(appearance: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (64, 64, 3) and its label map that show glasses, sex (by the jaw) and lipstick."""
    label = np.zeros((64, 64), np.uint8)
    width = 20 if appearance["sex"] == "man" else 14
    label[10:54, 32 - width:32 + width] = CLASSES.index("skin")
    label[44:48, 24:40] = CLASSES.index("u_lip")
    if appearance["hat"] != "none":
        label[4:14, 20:44] = CLASSES.index("hat")
    if appearance["glasses"] != "none":
        label[22:30, 20:44] = CLASSES.index("eye_g")
    image = np.full((64, 64, 3), 180, np.uint8)
    if appearance["facial_hair"] != "none":
        image[34:54][label[34:54] == CLASSES.index("skin")] = 60
    image[label == CLASSES.index("u_lip")] = (160, 110, 100) if appearance["lipstick"] == "none" else (200, 20, 40)
    image[label == CLASSES.index("eye_g")] = 40 if appearance["glasses"] == "sunglasses" else 170
    return (image + rng.integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8), label


def test_attributes_are_read_from_the_parsed_regions():
    rng = np.random.default_rng(0)
    appearances = [sample_appearance(rng) for _ in range(120)]
    images, labels = map(np.stack, zip(*(painted_appearance(appearance, rng) for appearance in appearances)))
    rules = attributes.ShapeRules(images[:80], labels[:80], appearances[:80])
    for image, label, appearance in zip(images[80:], labels[80:], appearances[80:]):
        asked = {name: attributes.find_asked_value(name, appearance) for name in attributes.JUDGED}
        assert rules(image, label) == asked


def test_picture_without_a_face_is_judged_all_the_same():
    assert not attributes.compute_region_statistics(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)).any()

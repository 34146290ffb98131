"""Marked prompts, images and conditionings."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.model_management
import comfy.ops
from mditface.mdit.face_diffuser.marker import MARKER, tokenize
from mditface.mdit.face_diffuser.stages import Borders, Stage, compute_leading_sigmas, find_step
from mditface.mdit.face_diffuser.subject import SubjectEncoder, prepare_image
from mditface.mdit.face_diffuser.weights import SUBJECT_PARTS, FileContent, build_subject
from mditface.mdit.shared.weight_files import take_out
from mditface.nodes.face_diffuser import SubjectConditioning
from mditface.tests.face_diffuser.tiny import clip, model, random_weights

CONFIG = dict(model_type="clip_vision_model", num_channels=3, hidden_act="quick_gelu", hidden_size=64,
              num_attention_heads=1, num_hidden_layers=1, patch_size=14, image_size=28, projection_dim=64,
              intermediate_size=32)
WORDS = ["man", "woman", "a", "tall", "superheroine", "chef", "in", "the", "garden", "(red:1.3)", "hat,"]


def weights() -> dict[str, torch.Tensor]:
    return random_weights(SubjectEncoder(CONFIG, comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu"))


@pytest.fixture(scope="module")
def subject():
    return build(weights())


def build(weights):
    weights = dict(weights)
    parts = {part: take_out(weights, part) for part in SUBJECT_PARTS}
    return build_subject(FileContent("file", parts))


def random_images(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 40, 30, 3, generator=torch.Generator().manual_seed(seed))


def encode(subject, text, *images, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    slots = {f"image_{number}": image for number, image in enumerate(images, 1)}
    known, plain = SubjectConditioning.execute(clip(), subject, text, slots, **kwargs).result
    return known[0][0], plain[0][0]


def changed(known, plain) -> list[int]:
    return (known != plain).any(-1)[0].nonzero().flatten().tolist()


def test_only_the_nouns_change(subject):
    known, plain = encode(subject, f"a man {MARKER} and a tall woman {MARKER} in a garden", random_images(2))
    assert changed(known, plain) == [2, 6]


def test_the_encoder_is_loaded_by_the_host_after_the_text_encoder(subject, monkeypatch):
    loads, load = [], comfy.model_management.load_models_gpu

    def spy(models, *args, **kwargs):
        loads.extend(models)
        return load(models, *args, **kwargs)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    encode(subject, f"a man {MARKER}", random_images())
    assert loads[-1] is subject.patcher and any(patcher.is_clone(clip().patcher) for patcher in loads[:-1])
    assert {id(module) for module in subject.patcher.model.children()} == {
        id(subject.network.image_encoder), id(subject.network.postfuse_module)}


def test_weights_of_two_types_as_published():
    """bfloat16 except for what was trained; the computation is in float32."""
    rounded = {key: weight.bfloat16() if key.startswith("image_encoder.vision_model.embeddings") else weight
               for key, weight in weights().items()}
    found, expected = (build(kind).encode(list(random_images()), 64)
                       for kind in (rounded, {key: weight.float() for key, weight in rounded.items()}))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_text_alone_is_that_of_the_host(subject):
    text = f"a man {MARKER} in a (red:1.2) hat"
    _, plain = encode(subject, text, random_images())
    expected = clip().encode_from_tokens_scheduled(clip().tokenize(text.replace(MARKER, "")))[0][0]
    torch.testing.assert_close(plain, expected, rtol=0, atol=0)


def test_images_belong_to_markers_in_their_order(subject):
    text, (one, two) = f"a man {MARKER} and a man {MARKER}", random_images(2).split(1)
    known, _ = encode(subject, text, one, two)
    together, _ = encode(subject, text, torch.cat([one, two]))
    swapped, plain = encode(subject, text, two, one)
    assert torch.equal(known, together) and not torch.equal(known, swapped)
    assert changed(known, swapped) == changed(known, plain) == [2, 5]


def test_a_long_prompt_continues_in_another_chunk(subject):
    known, plain = encode(subject, "very " * 80 + f"old man {MARKER} in a garden", random_images())
    assert plain.shape[1] == 154 and changed(known, plain) == [77 + 1 + 81 - 75]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=2, max_size=5))
def test_positions_are_those_of_the_last_tokens(pieces):
    """The tokens are those of the whole text, in the same order."""
    texts = [" ".join(piece) for piece in pieces]
    tokens, positions = tokenize(clip(), f" {MARKER} ".join(texts))
    flat = [pair for row in tokens["l"] for pair in row]
    ends = {49407}

    def content(rows):
        return [pair for row in rows for pair in row[1:] if pair[0] not in ends]
    assert all(len(row) == 77 for row in tokens["l"])
    assert content(tokens["l"]) == content(clip().tokenize(" ".join(texts))["l"])
    for count, position in enumerate(positions, 1):
        before = content(clip().tokenize(" ".join(texts[:count]))["l"])
        assert flat[position] == before[-1]
    assert positions == sorted(set(positions)) and len(positions) == len(pieces) - 1


@pytest.mark.parametrize("text, words", [
    ("a man in a garden", "it has no <|image|>"), (f"{MARKER} a man", "marker 1 has no noun before it"),
    (f"a man {MARKER}{MARKER}", "marker 2 has no noun"), (f"a man {MARKER} \n {MARKER}", "marker 2 has no noun"),
    (f"(a man {MARKER} in red:1.2)", "is inside brackets"), (f"a (man {MARKER}", "a bracket is left open"),
])
def test_markers_out_of_place(subject, text, words):
    with pytest.raises(ValueError) as caught:
        SubjectConditioning.execute(clip(), subject, text, {"image_1": random_images(2)})
    assert str(caught.value).startswith("text: ") and words in str(caught.value)


def test_plain_brackets_are_no_emphasis(subject):
    known, plain = encode(subject, rf"a \( man {MARKER} in (red) silk", random_images())
    assert len(changed(known, plain)) == 1


@pytest.mark.parametrize("markers, count", [(1, 2), (2, 1), (1, 0), (5, 5)])
def test_images_and_markers_that_do_not_match(subject, markers, count):
    with pytest.raises(ValueError, match=f"images: {count} images for {markers} .*connect one image .* 4 at most"):
        encode(subject, f"a man {MARKER} " * markers, random_images(5)[:count])


def test_what_the_other_file_lacks():
    with pytest.raises(ValueError, match="subject: the scene model's file .TDM. has no image encoder"):
        SubjectConditioning.execute(clip(), None, f"a man {MARKER}", {"image_1": random_images()})


def test_another_text_encoder(subject):
    with pytest.raises(ValueError, match="clip: its output is 32 wide, the subject's encoder needs 64"):
        SubjectConditioning.execute(clip(32), subject, f"a man {MARKER}", {"image_1": random_images()})

    class Two:
        def tokenize(self, text):
            return {"l": [], "g": []}
    with pytest.raises(ValueError, match="clip: it is not the text encoder of a Stable Diffusion 1.x model"):
        tokenize(Two(), f"a man {MARKER}")


@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 40))
@settings(max_examples=30, deadline=None)
def test_prepared_images(height, width, resolution):
    image = torch.ones(height, width, 4)
    prepared = prepare_image(image, resolution)
    assert prepared.shape == (3, resolution, resolution) and 0 <= prepared.min() <= prepared.max() <= 1
    torch.testing.assert_close(prepared * 255, (prepared * 255).round(), rtol=0, atol=1e-4)
    if height == width:
        assert prepared.min() == 1


# Stages and schedules


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 200))
def test_stages_follow_each_other(one, other, steps):
    borders = Borders(*sorted((one, other)))
    stages = [borders.find_stage(step, steps).value for step in range(steps)]
    assert stages == sorted(stages)
    assert one > 0 < other or Stage.SCENE.value not in stages
    assert max(one, other) < 1 or Stage.SUBJECT.value not in stages


@given(st.integers(1, 999))
def test_every_step_knows_itself(steps):
    sigmas = compute_leading_sigmas(model().get_model_object("model_sampling"), steps)
    assert len(sigmas) == steps + 1
    assert [find_step(sigma, sigmas) for sigma in sigmas[:-1:7]] == list(range(0, steps, 7))
    assert find_step(sigmas[0] * 2, sigmas) == 0 and find_step(sigmas[-1], sigmas) == steps - 1


def test_the_published_schedule():
    sampling = model().get_model_object("model_sampling")
    sigmas = compute_leading_sigmas(sampling, 50, to_clean=False)
    assert torch.equal(sigmas, torch.cat([sampling.sigmas[1:982:20].flip(0), sampling.sigmas[:1]]))

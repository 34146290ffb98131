"""Label maps from pictures, from the host's detector and masks, and the nodes that show them, over HTTP."""
import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import CLASSES, PALETTE, from_landmarks, to_image
from mditface.tests.e2e.graphs import cancelled, face, node, text_of, tokenizer
from mditface.tests.parsing import weights

BUNDLED = "face-parser.safetensors"


@pytest.fixture(scope="module")
def photo(server, tmp_path_factory):
    """A picture of 512 x 512 noise; the name under which LoadImage finds it."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=torch.manual_seed(0)), (512, 512))
    Image.fromarray((noise[0].movedim(0, -1) * 255).byte().numpy()).save(path)
    return server.upload(path)


@pytest.fixture(scope="module")
def detector_file(weights_file):
    return weights_file("detection", "face-of-the-tests", weights.face_landmarker())


@pytest.fixture
def healthy(model_file, label_map_file):
    return face(model_file("good"), label_map_file("good", 64, 64), seed=1)


def load(photo):
    return node("LoadImage", image=photo)


def shown(picture):
    return node("PreviewImage", images=[picture, 0])


def parse(image, **inputs):
    return node("MDiT_ParseFace", image=[image, 0], **inputs)


def landmarks(detector_file):
    return {"detector": node("LoadMediaPipeFaceLandmarker", model_name=detector_file),
            "landmarks": node("MediaPipeFaceLandmarker", face_detection_model=["detector", 0], image=["photo", 0],
                              detector_variant="short", num_faces=1, min_confidence=0.5,
                              missing_frame_fallback="empty")}


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()))


# Parse

def bisenet(server) -> str:
    path = server.base / "models" / "face_parsing" / "nameless.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(weights.bisenet(), path)
    return path.name


def segformer(server) -> str:
    folder = server.base / "models" / "face_parsing" / "published"
    return f"published/{weights.segformer(folder).name}"


@pytest.mark.parametrize("file", [lambda server: BUNDLED, bisenet, segformer], ids=["bundled", "bisenet", "segformer"])
def test_a_picture_becomes_a_label_map(server, photo, file):
    name = file(server)
    assert name in server.object_info()["MDiT_LoadFaceParser"]["input"]["required"]["parser_name"][1]["options"]
    entry = server.run({
        "photo": load(photo), "parser": node("MDiT_LoadFaceParser", parser_name=name),
        "parse": parse("photo", parser=["parser", 0]), "map": shown("parse"),
        "mask": node("MaskToImage", mask=["parse", 1]), "confidence": shown("mask")})
    label_map, confidence = server.images(entry)
    assert label_map.size == confidence.size == (512, 512)
    assert colours(label_map) <= set(PALETTE) and (0, 0, 0) not in colours(confidence)


def test_a_file_that_is_no_parser_is_refused(photo, refused, weights_file):
    name = weights_file("face_parsing", "lora", {"lora.up": torch.zeros(2)})
    refused({"photo": load(photo), "parser": node("MDiT_LoadFaceParser", parser_name=name),
             "parse": parse("photo", parser=["parser", 0]), "map": shown("parse")},
            "parser", "parser_name: ", "no face parser that this pack can load")


def test_a_long_batch_is_cancelled_within_a_second(server):
    graph = {"batch": node("EmptyImage", width=64, height=64, batch_size=3000, color=0), "parse": parse("batch"),
             "map": shown("parse")}
    stopped, seconds = cancelled(server, graph, lambda data: data["node"] == "parse")
    assert stopped == "parse" and seconds < 1


# The host's face detector

def test_a_detected_face_is_cut_out_parsed_and_put_back(server, photo, detector_file):
    entry = server.run({
        "photo": load(photo), **landmarks(detector_file),
        "crop": node("MDiT_CropFace", image=["photo", 0], index=0, context=0.6, size=256, bboxes=["landmarks", 1]),
        "parse": parse("crop"),
        "paste": node("MDiT_PasteFace", image=["photo", 0], faces=["parse", 0], regions=["crop", 1], feather=0.1,
                      label_map=True),
        "cut": shown("crop"), "pasted": shown("paste")})
    cut, pasted = server.images(entry)
    assert (cut.size, pasted.size) == ((256, 256), (512, 512))
    left, top, side = 108, 7, 234  # 2.2 times the landmarks' height about their middle
    region = pasted.crop((left, top, left + side, top + side))
    assert colours(region) <= set(PALETTE) and not colours(pasted) <= set(PALETTE)


def test_a_face_that_is_not_there_is_refused(photo, detector_file, refused):
    refused({"photo": load(photo), **landmarks(detector_file),
             "crop": node("MDiT_CropFace", image=["photo", 0], index=1, context=0.6, size=256, bboxes=["landmarks", 1]),
             "cut": shown("crop")}, "crop", "index: face 1 does not exist, image 0 has 1")


def draw_faces(model_file, photo, label_map_file, prompts, **crop):
    """Crop, draw anew and paste, one prompt for each face: the recipe of docs/systems/label-maps.md."""
    texts = {f"text{i}": node("PrimitiveString", value=prompt) for i, prompt in enumerate(prompts)}
    return face(
        model_file("good"), label_map_file("three", 512, 512), **texts, photo=load(photo), picture=shown("paste"),
        crop=node("MDiT_CropFace", image=["photo", 0], label_map=["map", 0], context=0.2, size=64,
                  **{"index": -1, "order": "left to right", **crop}),
        maps=node("RebatchImages", images=["crop", 3], batch_size=1), mask=tokenizer(["maps", 0]),
        prompts=node("CreateList", **{f"inputs.input{i}": [name, 0] for i, name in enumerate(texts)}),
        positive=node("MDiT_TextConditioning", clip=["model", 1], text=["prompts", 0], mask=["mask", 0],
                      mask_strength=1.0),
        together=node("RebatchImages", images=["decode", 0], batch_size=4096),
        paste=node("MDiT_PasteFace", image=["photo", 0], faces=["together", 0], regions=["crop", 1], feather=0.0,
                   label_map=False))


THREE = {"__value__": [[dict(x=340, y=200, width=100, height=100), dict(x=20, y=180, width=110, height=110),
                        dict(x=190, y=190, width=90, height=90)]]}
PROMPTS = ("old man, grey hair", "young woman, blond hair", "man, black beard")


def test_each_face_takes_its_own_prompt_from_left_to_right(server, model_file, photo, label_map_file):
    def draw(prompts, **crop):
        entry = server.run(draw_faces(model_file, photo, label_map_file, prompts, bboxes=THREE, **crop))
        return np.asarray(server.image(entry).convert("RGB"))
    together = draw(PROMPTS)
    for i, (prompt, left, top, side) in enumerate(zip(PROMPTS, (-2, 172, 318), (158, 172, 178), (154, 126, 140))):
        window = slice(top, top + side), slice(max(0, left), left + side)
        alone = draw([prompt], index=i)
        assert np.array_equal(together[window], alone[window])
        assert not np.array_equal(together[window], draw([PROMPTS[i - 1]], index=i)[window])


def test_an_image_without_a_face_passes_through(server, model_file, photo, label_map_file, refused):
    nothing = {"none": node("SolidMask", value=0.0, width=512, height=512)}
    graph = draw_faces(model_file, photo, label_map_file, ["man"], mask=["none", 0], missing="pass through")
    entry = server.run({**graph, **nothing, "seen": parse("crop"), "look": shown("seen"), "drawn": shown("decode")})
    pasted, = server.images(entry)
    expected = server.image(server.run({"photo": load(photo), "look": shown("photo")}))
    assert np.array_equal(np.asarray(pasted.convert("RGB")), np.asarray(expected.convert("RGB")))
    refused({**draw_faces(model_file, photo, label_map_file, ["man"], mask=["none", 0]), **nothing}, "crop",
            "mask: there is no face in image 0")


def test_landmarks_are_painted_where_the_hosts_face_mask_lies(server, photo, detector_file):
    entry = server.run({
        "photo": load(photo), **landmarks(detector_file),
        "build": node("MDiT_LabelMapFromLandmarks", face_landmarks=["landmarks", 0]), "map": shown("build"),
        "mask": node("MediaPipeFaceMask", face_landmarks=["landmarks", 0], regions="all"),
        "white": node("MaskToImage", mask=["mask", 0]), "oval": shown("white")})
    label_map, oval = (np.asarray(picture.convert("RGB")) for picture in server.images(entry))
    assert np.array_equal(label_map.any(-1), oval[..., 0] > 127)
    known = np.array(weights.known_face()["landmarks"], np.float32)
    expected = to_image(from_landmarks([[known]], torch.zeros(1, 512, 512, dtype=torch.uint8)))[0] * 255
    assert (label_map == expected.round().byte().numpy()).all(-1).mean() > 0.999


def test_the_hosts_masks_are_painted_over_landmarks(server, photo, detector_file):
    """As the masks of SAM3 are: the host's MASK, here one of the lower half."""
    entry = server.run({
        "photo": load(photo), **landmarks(detector_file),
        "build": node("MDiT_LabelMapFromLandmarks", face_landmarks=["landmarks", 0]),
        "clothes": node("SolidMask", value=1.0, width=512, height=256),
        "none": node("SolidMask", value=0.0, width=512, height=512),
        "mask": node("MaskComposite", destination=["none", 0], source=["clothes", 0], x=0, y=256, operation="add"),
        "masks": node("MDiT_LabelMapFromMasks", classes="cloth", width=0, height=0, label_map=["build", 0],
                      **{"masks.mask0": ["mask", 0]}),
        "map": shown("masks")})
    label_map = np.asarray(server.image(entry).convert("RGB"))
    assert (label_map[256:] == PALETTE[CLASSES.index("cloth")]).all()
    above = colours(Image.fromarray(label_map[:256]))
    assert above > {PALETTE[CLASSES.index(name)] for name in ("skin", "nose", "l_eye")}


# Show

def test_the_preview_shows_and_reports(server, photo, label_map_file, artefacts):
    entry = server.run({
        "photo": load(photo), "map": node("LoadImage", image=label_map_file("shown", 320, 256)),
        "look": node("MDiT_PreviewLabelMap", label_map=["map", 0], palette="colours", order="CelebAMask-HQ",
                     picture=["photo", 0], opacity=0.5), "report": node("PreviewAny", source=["look", 1])})
    assert text_of(entry, "look") == text_of(entry, "report")
    assert "label agreement" in text_of(entry, "look") and "%" in text_of(entry, "look")
    sheet = server.image(entry)
    assert sheet.height == 512 and sheet.width > 3 * 512
    sheet.save(artefacts / "preview-label-map.png")


def test_the_cache_is_shown_after_each_run(server, model_file, label_map_file):
    def graph(seed):
        return face(model_file("good"), label_map_file("cached", 64, 64), seed=seed,
                    info=node("MDiT_CacheInfo", source=["positive", 0], after=["sampler", 0]),
                    hits=node("PreviewAny", source=["info", 3]))
    first = server.run(graph(1))
    assert text_of(first, "info").startswith("cache entries 1, cache bytes ")
    assert "cpu" in text_of(first, "info") or "cuda" in text_of(first, "info")
    hits = int(text_of(first, "hits"))
    assert int(text_of(server.run(graph(2)), "hits")) == hits + 3


# Describe, compare, pick

def describe(label_map, **inputs):
    return node("MDiT_DescribeLabelMap", label_map=label_map, palette="colours", order="CelebAMask-HQ", **inputs)


def test_words_run_once_for_each_map_and_edits_are_found(server):
    plain = dict(palette="colours", order="CelebAMask-HQ")
    entry = server.run({
        "woman": node("MDiT_ExampleLabelMap", face="woman"), "man": node("MDiT_ExampleLabelMap", face="man"),
        "both": node("ImageBatch", image1=["woman", 0], image2=["man", 0]),
        "words": describe(["both", 0], language="English", prompt="photo"),
        "said": node("PreviewAny", source=["words", 0]),
        "edit": node("MDiT_EditLabelMap", label_map=["woman", 0], class_name="hair", operation="grow",
                     **{"operation.pixels": 20}),
        "changed": node("MDiT_ChangedRegion", before=["woman", 0], after=["edit", 0], grow=0, feather=0, **plain),
        "told": node("PreviewAny", source=["changed", 2]),
        "best": node("MDiT_PickByAgreement", images=["both", 0], label_map=["man", 0], count=1,
                     measure="label agreement", **plain),
        "report": node("PreviewAny", source=["best", 2]), "shown": shown("best")})
    assert entry["outputs"]["said"]["text"] == ["a person with long hair, mouth open, photo",
                                                "a person with no hair, glasses, photo"]
    assert "hair grew by" in text_of(entry, "told")
    assert text_of(entry, "report").count("label agreement") == 2 and len(server.images(entry)) == 1


def test_a_map_of_background_alone_has_no_words(refused):
    graph = {"empty": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
             "words": describe(["empty", 0], language="English", prompt=""),
             "said": node("PreviewAny", source=["words", 0])}
    refused(graph, "words", "label_map: label map 1 is background alone")

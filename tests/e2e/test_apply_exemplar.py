"""An exemplar in a graph on the booted server: with the pack's sampler, the host's, the guider, and the cache."""
import numpy as np
import pytest

from mditface.tests.e2e.graphs import face, inspect, node, text_of
from mditface.tests.mditface import tiny

STOCK = dict(seed=0, steps=3, cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0)


@pytest.fixture(scope="module")
def names(model_file, label_map_file):
    """Of a model with a branch, and of the label maps of target and exemplar."""
    model = model_file("exemplar", tiny.config(exemplar_blocks=(0, 2), exemplar_candidates=2))
    return model, label_map_file("target", 64, 64), label_map_file("exemplar", 64, 64, seed=1)


@pytest.fixture(scope="module")
def graph(names):
    """A face after a picture of flat colour with a label map of its own; `nodes` replace the graph's own."""
    model, target, own = names

    def make(colour=0xC04020, strength=1.0, **nodes) -> dict:
        made = face(model, target, **{
            "words": node("MDiT_TextConditioning", clip=["model", 1], text="young woman", mask=["mask", 0],
                         mask_strength=1.0),
            "look": node("EmptyImage", width=64, height=64, batch_size=1, color=colour),
            "own": node("LoadImage", image=own),
            "positive": apply("words", strength=strength), **nodes})
        return made
    return make


def apply(conditioning: str, exemplar: str = "look", label_map: str = "own", **inputs) -> dict:
    return node("MDiT_ApplyExemplar", conditioning=[conditioning, 0], exemplar=[exemplar, 0], label_map=[label_map, 0],
                vae=["model", 2], **{"strength": 1.0, "palette": "colours", "order": "CelebAMask-HQ", **inputs})


@pytest.fixture
def healthy(graph):
    return graph()


def pixels(server, graph) -> tuple[np.ndarray, dict]:
    entry = server.run(graph)
    return np.asarray(server.image(entry)).astype(float), entry


def differ(one, other) -> bool:
    return abs(one - other).mean() > 0.5


def test_the_exemplar_changes_the_picture_and_strength_zero_is_off(server, graph):
    one, entry = pixels(server, graph())
    counts = text_of(entry, "report").partition("\n")[2]
    assert counts.startswith("static passes 2, cache hits ")  # of the mask and of the exemplar
    assert differ(one, pixels(server, graph(colour=0x20C040))[0])
    bare = graph(positive=graph()["words"])
    assert np.array_equal(pixels(server, graph(strength=0.0))[0], pixels(server, bare)[0])
    assert differ(one, pixels(server, bare)[0])


def test_seeds_and_prompts_reuse_the_pass(server, graph):
    pixels(server, graph(colour=0x204060))
    sampler = graph()["sampler"]
    again = graph(colour=0x204060, sampler={**sampler, "inputs": {**sampler["inputs"], "seed": 5}})
    assert text_of(pixels(server, again)[1], "report").partition("\n")[2].startswith("static passes 0,")
    info = node("MDiT_CacheInfo", source=["positive", 0], after=["sampler", 0])
    shown = server.run({**again, "info": info, "shown": node("PreviewAny", source=["info", 0])})
    assert text_of(shown, "shown").startswith("cache entries 2,")


def test_the_stock_sampler_and_the_guider_read_it_too(server, graph):
    for sampler in (node("KSampler", model=["model", 0], positive=["positive", 0], negative=["negative", 0],
                         latent_image=["latent", 0], **STOCK), graph()["sampler"]):
        pictures = []
        for colour in (0x204060, 0xF0F0F0):
            made = graph(colour=colour, sampler=sampler)
            if sampler["class_type"] == "KSampler":
                del made["report"]
            pictures.append(pixels(server, made)[0])
        assert differ(*pictures)


def test_freeing_the_hosts_memory_empties_its_cache(server, graph):
    server.run(graph())
    assert inspect(server)["bytes"] > 0
    server.free()
    assert inspect(server)["caches"] == 0
    assert text_of(server.run(graph()), "report").partition("\n")[2].startswith("static passes 2,")


def test_a_model_without_a_branch(graph, model_file, refused):
    plain = node("MDiT_LoadModel", model_name=model_file("good"), weight_dtype="default")
    refused(graph(model=plain), "sampler", "model: 'good.safetensors' (MDiTBaseModel) has no branch",
            "remove 'Apply Exemplar (MDiT)'")


def test_a_conditioning_without_a_mask(graph, refused):
    bare = node("MDiT_TextConditioning", clip=["model", 1], text="man")
    refused(graph(words=bare), "positive", "conditioning: it has no mask")


def test_a_label_map_of_another_picture(graph, label_map_file, refused):
    wide = node("LoadImage", image=label_map_file("wide", 96, 32))
    refused(graph(own=wide), "positive",
            "label_map: 96 x 32 pixels have another aspect ratio than the exemplar's 64 x 64")
    refused(graph(own=node("EmptyImage", width=64, height=64, batch_size=1, color=0)), "positive",
            "label_map: it contains only background")


def test_a_vae_of_another_model(graph, refused):
    other = apply("words")
    other["inputs"]["vae"] = ["other", 0]
    refused(graph(positive=other, other=node("Probe_OtherVAE")), "sampler", "vae: the one at 'Apply Exemplar (MDiT)'",
            "connect the VAE that belongs to the model")

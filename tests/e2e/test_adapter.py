"""Masks on the host's own models: the adapter's nodes in a graph with the host's loaders, samplers and VAE."""
import numpy as np
import pytest
import torch

from comfy.taesd.taesd import Decoder, Encoder
from mditface.tests.adapter import bases
from mditface.tests.e2e.graphs import (
    adapted, apply_adapter, apply_mask, face, node, picture, sampler, text_of, tokenizer)

KINDS = ("easycontrol", "sd3")
SUBJECT = "EasyControl subject, 64 rows down"
STEPS = 3


def host_sampler(model: str = "model", **inputs) -> dict:
    return node("KSampler", model=[model, 0], positive=["positive", 0], negative=["negative", 0],
                latent_image=["latent", 0], **{"seed": 0, "steps": STEPS, "cfg": 1.0, "sampler_name": "euler",
                                               "scheduler": "simple", "denoise": 1.0, **inputs})


@pytest.fixture(scope="module", autouse=True)
def vae(server, weights_file):
    """What the host's VAE loader lists as 'taef1', with random weights that draw around medium grey."""
    for name, network, grey in (("taef1_encoder", Encoder(16), 0.0), ("taef1_decoder", Decoder(16), 0.6)):
        weights = {key: weight if weight.ndim > 1 else torch.zeros_like(weight)
                   for key, weight in bases.random_weights(network).items()}
        weights[list(weights)[-1]] += grey
        weights_file("vae_approx", name, weights)
    server.free()  # the name stood for another file in other tests


@pytest.fixture(scope="module")
def adapter_file(weights_file):
    """Writes an adapter of our own format for a family, with changes of its header."""
    def write(name, family, seed=0, **changes):
        config = bases.config(family, **changes)
        return weights_file("mdit_adapters", name, bases.terms(family, config, seed), config.to_metadata())
    return write


@pytest.fixture(scope="module")
def files(weights_file, adapter_file):
    """(base, adapter) of each kind; EasyControl's stands in the folder `loras`, where people may have put it."""
    flux, sd3 = (weights_file("diffusion_models", f"tiny-{name}", bases.published(name)) for name in ("flux", "sd3"))
    return {"easycontrol": (flux, weights_file("loras", "easycontrol", bases.easycontrol())),
            "ominicontrol": (flux, weights_file("loras", "ominicontrol", bases.ominicontrol())),
            "sd3": (sd3, adapter_file("own-sd3", "sd3")), "flux": (flux, adapter_file("own-flux", "flux"))}


@pytest.fixture(scope="module")
def graph(files, label_map_file):
    """Makes a good graph of a kind, with changes."""
    label_map = label_map_file("adapted", 64, 64)

    def make(kind, **changes):
        size = bases.CONDITION if kind == "easycontrol" or placed_beside(changes) else 0
        return adapted(*files[kind], label_map, condition_size=size, **changes)
    return make


def placed_beside(nodes: dict) -> bool:
    """Whether a mask of the graph's changes is a subject, which small tests fit to a small square."""
    return any("subject" in made["inputs"].get("placement", "") for made in nodes.values() if isinstance(made, dict))


def pixels(server, graph) -> tuple[np.ndarray, dict]:
    entry = server.run(graph)
    return np.asarray(server.image(entry)).astype(float), entry


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    return abs(one - other).mean() > 0.5


def without_mask(graph: dict) -> dict:
    sampler = graph["sampler"]
    return graph | {"sampler": {**sampler, "inputs": {**sampler["inputs"], "positive": ["text", 0]}}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_changes_the_picture(server, graph, kind):
    picture, entry = pixels(server, graph(kind))
    assert text_of(entry, "report").partition("\n")[2].startswith("static passes 1, cache hits ")
    bare, entry = pixels(server, without_mask(graph(kind)))
    assert text_of(entry, "report").partition("\n")[2].startswith("static passes 0, cache hits 0,")
    assert differ(picture, bare)
    unpatched = graph(kind, sampler=host_sampler("base"))
    del unpatched["report"]
    assert (pixels(server, without_mask(unpatched))[0] == bare).all()


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_reuses_the_pass(server, graph, kind):
    fresh = tokenizer(["map", 0], vae=["vae", 0], hidden_classes="hat")
    reports = [text_of(server.run(graph(kind, seed=seed, mask=fresh)), "report") for seed in (0, 1)]
    assert reports[0].partition("\n")[2].startswith(f"static passes 1, cache hits {STEPS - 1},")
    assert reports[1].partition("\n")[2].startswith(f"static passes 0, cache hits {STEPS},")
    assert "read" not in reports[1]  # no complaint


def test_another_prompt_reuses_the_pass_of_an_adapter_that_does_not_read_it(server, graph):
    passes = [text_of(server.run(graph(kind, text=text)), "report").partition("\n")[2][:len("static passes 0")]
              for kind in KINDS for text in (0, 1)]
    assert passes[1::2] == ["static passes 1", "static passes 0"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_sampler_makes_the_same_picture(server, graph, kind):
    ours, _ = pixels(server, graph(kind))
    stock = graph(kind, sampler=host_sampler())
    del stock["report"]
    theirs, _ = pixels(server, stock)
    assert abs(ours - theirs).max() <= 1  # of 255: the two runs need not batch alike


@pytest.mark.parametrize("kind, placement", [("easycontrol", "on the image"), ("easycontrol", SUBJECT),
                                             ("sd3", "on the image"), ("ominicontrol", "on the image"),
                                             ("ominicontrol", "OminiControl subject, 32 columns right")])
def test_a_picture_is_read_once_and_changes_the_image(server, graph, kind, placement):
    def read(source: str, **changes) -> tuple[np.ndarray, str]:
        image, entry = pixels(server, graph(kind, mask=picture(source, placement=placement), edges=edges, **changes))
        return image, text_of(entry, "report")

    edges = node("Canny", image=["map", 0], low_threshold=0.1, high_threshold=0.3)
    first, report = read("edges")
    assert report.partition("\n")[2].startswith(f"static passes 1, cache hits {STEPS - 1},")
    assert read("edges", seed=1)[1].partition("\n")[2].startswith(f"static passes 0, cache hits {STEPS},")
    second, report = read("map")
    assert report.partition("\n")[2].startswith("static passes 1,")
    assert differ(first, second)
    assert differ(first, pixels(server, without_mask(graph(kind)))[0])
    again, report = read("edges")
    assert (again == first).all()


def test_a_subject_and_a_picture_on_the_image_together(server, files, graph):
    both = graph("easycontrol", adapter2=node("MDiT_LoadAdapter", adapter_name=files["flux"][1]),
                 both=apply_adapter("model", "adapter2"), sampler=sampler("both", cfg=1.0, mask_cfg=1.0),
                 mask=picture("map", placement=SUBJECT), mask2=picture("map"),
                 one=apply_mask("text", "mask", adapter=["adapter", 0]),
                 positive=apply_mask("one", "mask2", adapter=["adapter2", 0]))
    image, entry = pixels(server, both)
    assert text_of(entry, "report").partition("\n")[2].startswith("static passes 2,")
    assert differ(image, pixels(server, without_mask(graph("easycontrol")))[0])


def test_two_adapters_read_two_masks(server, files, graph, label_map_file):
    second = dict(
        adapter2=node("MDiT_LoadAdapter", adapter_name=files["flux"][1]), both=apply_adapter("model", "adapter2"),
        map2=node("LoadImage", image=label_map_file("second", 64, 64, seed=3)),
        mask2=tokenizer(["map2", 0], vae=["vae", 0]))
    first = apply_mask("text", "mask", adapter=["adapter", 0])
    pictures = []
    for positives in (dict(positive=first), dict(positive=apply_mask("text", "mask2", adapter=["adapter2", 0])),
                      dict(one=first, positive=apply_mask("one", "mask2", adapter=["adapter2", 0]))):
        both = graph("easycontrol", sampler=sampler("both", cfg=1.0, mask_cfg=1.0), **second, **positives)
        picture, entry = pixels(server, both)
        pictures.append(picture)
    assert all(differ(*pair) for pair in zip(pictures, pictures[1:] + pictures[:1]))
    assert text_of(entry, "report").partition("\n")[2].startswith("static passes 0, cache hits ")


@pytest.fixture
def healthy(graph):
    return graph("sd3", seed=9)


def test_adapters_that_do_not_fit(files, adapter_file, graph, refused):
    def loaded(name):
        return graph("sd3", adapter=node("MDiT_LoadAdapter", adapter_name=name))
    refused(loaded(files["flux"][1]), "model", "adapter: ", "family flux", "family sd3", "load an adapter")
    refused(loaded(adapter_file("wide", "sd3", width=128)), "model", "width 128 and 3", "width 192 and 3")
    refused(loaded(adapter_file("deep", "sd3", depth=(4, 0))), "model", "192 and 4 blocks", "192 and 3 blocks")


def test_a_file_that_is_no_adapter(weights_file, graph, refused):
    name = weights_file("loras", "plain", {"lora_unet_blocks_0.lora_up.weight": torch.zeros(4, 4)})
    refused(graph("sd3", adapter=node("MDiT_LoadAdapter", adapter_name=name)), "adapter", "adapter_name: ", name,
            "neither an MDiTFace adapter", "'Load LoRA'")
    half = {key: weight for key, weight in bases.ominicontrol().items() if "single" not in key}
    del half["transformer.x_embedder.lora_A.weight"]
    name = weights_file("loras", "half", half)
    refused(graph("sd3", adapter=node("MDiT_LoadAdapter", adapter_name=name)), "adapter", "adapter_name: ", name,
            "lacks terms for", "'Load LoRA'")


def test_a_model_without_an_adapter(graph, refused):
    refused(graph("sd3", sampler=sampler("base")), "sampler", "model: a SD3", "'Apply Adapter (MDiT)'")


def test_pictures_that_do_not_fit(graph, refused, model_file, label_map_file):
    refused(graph("sd3", mask=picture("map", placement=SUBJECT)), "sampler", f"placement: '{SUBJECT}'", "on the image")
    other = graph("sd3", other=node("Probe_OtherVAE"), mask=picture("map", vae=["other", 0]))
    refused(other, "sampler", "the one at 'Picture to Mask (MDiT)'", "connect the VAE that belongs to the model")
    alone = face(model_file("alone"), label_map_file("adapted", 64, 64), mask=picture("map", vae=["model", 2]))
    refused(alone, "sampler", "mask: this model reads classes", "connect 'Label Map to Mask (MDiT)'")


def test_a_mask_of_another_vae_or_of_none(graph, refused):
    other = graph("sd3", other=node("Probe_OtherVAE"), mask=tokenizer(["map", 0], vae=["other", 0]))
    refused(other, "sampler", "(4, 8, 8)", "works on (16, 8, 8)", "connect the VAE that belongs to the model")
    refused(graph("sd3", mask=tokenizer(["map", 0])), "sampler", "'vae' input of 'Label Map to Mask (MDiT)'")

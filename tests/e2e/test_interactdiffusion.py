"""InteractDiffusion in graphs on the booted server, from the authors' files to the image."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from comfy.taesd.taesd import Decoder, Encoder
from mditface.tests.e2e.graphs import node
from mditface.tests.interactdiffusion import published, tiny

LINE = "person [0.05, 0.2, 0.35, 0.75] = feeding = cat [0.3, 0.45, 0.7, 0.8]"
SCHEDULE = {"schedule": "timestep", "schedule.full": 0.8, "schedule.fade_until": 0.0}


@pytest.fixture(scope="module", autouse=True)
def vae(weights_file):
    """The VAE that the host's loader lists as 'taesd': small, with random weights that decode to about medium gray."""
    for name, network in (("taesd_encoder", Encoder()), ("taesd_decoder", Decoder())):
        weights = tiny.random_weights(network)
        weights[list(weights)[-1]].fill_(0.5)
        weights_file("vae_approx", name, weights)


@pytest.fixture(scope="module")
def complete_file(server):
    path = server.base / "models" / "interactdiffusion" / "interact-diffusion-v1-2.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(published.complete(), path)
    return path.name


@pytest.fixture(scope="module")
def plugin_file(weights_file):
    return weights_file("gligen", "ext_interactdiff_v1.2", published.plugin())


@pytest.fixture(scope="module")
def graph(complete_file):
    """Makes a valid graph, with changes."""
    def make(**nodes):
        return {
            "loader": node("MDiT_LoadInteractDiffusion", weights_name=complete_file),
            "interactions": node("MDiT_InteractionsFromText", text=LINE),
            "model": apply(["interactions", 0]),
            "positive": node("CLIPTextEncode", clip=["loader", 2], text="a person is feeding a cat"),
            "negative": node("CLIPTextEncode", clip=["loader", 2], text=""),
            "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "sampler": sampler(),
            "vae": node("VAELoader", vae_name="taesd"),
            "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
            "picture": node("PreviewImage", images=["decode", 0]),
            **nodes}
    return make


def apply(interactions=None, weights="loader", **inputs):
    some = {} if interactions is None else {"interactions": interactions, "clip": ["loader", 2]}
    return node("MDiT_ApplyInteractDiffusion", **{"model": ["loader", 1], "weights": [weights, 0], "strength": 1.0,
                                                  **SCHEDULE, **some, **inputs})


def sampler(model="model", output=0, **inputs):
    return node("KSampler", **{"model": [model, output], "positive": ["positive", 0], "negative": ["negative", 0],
                               "latent_image": ["latent", 0], "seed": 0, "steps": 2, "cfg": 3.0, "denoise": 1.0,
                               "sampler_name": "euler", "scheduler": "simple", **inputs})


def interaction(**inputs):
    return node("MDiT_Interaction", **{"subject": "person", "action": "feeding", "object": "cat",
                                       "subject_box": "0.05, 0.2, 0.35, 0.75", "object_box": "0.3 0.45 0.7 0.8",
                                       **inputs})


@pytest.fixture(scope="module")
def drawn(server):
    def run(graph):
        return np.asarray(server.image(server.run(graph))).astype(float)
    return run


@pytest.fixture(scope="module")
def good(drawn, graph):
    return drawn(graph())


@pytest.fixture(scope="module")
def bare(drawn, graph):
    """The loaded model without the node."""
    return drawn(graph(sampler=sampler("loader", 1)))


def differ(one, other) -> bool:
    """Equal runs give equal images."""
    return (one != other).any()


def test_the_checkpoints_own_parts(drawn, graph):
    """Model, text encoder and VAE of the authors' file, as the host splits them."""
    assert drawn(graph(decode=node("VAEDecode", samples=["sampler", 0], vae=["loader", 3]))).std() > 1


def test_boxes_and_phrases_change_the_picture(drawn, graph, good, bare):
    moved = drawn(graph(interactions=interaction(object_box="0.6, 0.1, 0.95, 0.4")))
    other = drawn(graph(interactions=interaction(action="running away from")))
    pictures = [bare, good, moved, other]
    assert all(differ(one, two) for i, one in enumerate(pictures) for two in pictures[i + 1:])


def test_strength_0_is_the_bare_model_bit_for_bit(drawn, graph, bare):
    assert (drawn(graph(model=apply(["interactions", 0], strength=0.0))) == bare).all()
    assert (drawn(graph(model=apply())) == bare).all()


def test_the_plugin_file_is_the_same(drawn, graph, good, plugin_file):
    plugin = node("MDiT_LoadInteractDiffusion", weights_name=plugin_file)
    assert (drawn(graph(plugin=plugin, model=apply(["interactions", 0], "plugin"))) == good).all()


def test_each_way_to_say_it_is_the_same(drawn, graph, good):
    in_pixels = {"units": "pixels", "width": 200, "height": 100}
    fields = dict(zip(("subject", "action", "object", "subject_box", "object_box"), tiny.FEEDING))
    box = {name: node("PrimitiveBoundingBox", x=x, y=y, width=width, height=height)
           for name, x, y, width, height in (("first", 10, 20, 60, 55), ("second", 60, 45, 80, 35))}
    for interactions in (interaction(),
                         interaction(subject_box="10, 20, 70, 75", object_box="60, 45, 140, 80", **in_pixels),
                         interaction(subject_box=["first", 0], object_box=["second", 0], width=200, height=100),
                         node("MDiT_InteractionsFromText", text=json.dumps([fields]))):
        assert (drawn(graph(interactions=interactions, **box)) == good).all()


def test_schedules(drawn, graph, good, bare):
    def scheduled(**schedule):
        model = apply(["interactions", 0])
        model["inputs"] = {key: value for key, value in model["inputs"].items() if "schedule" not in key} | schedule
        return drawn(graph(model=model))
    steps = scheduled(schedule="steps", **{"schedule.full": 0.5, "schedule.fade": 0.5})
    always = scheduled(schedule="on, then off", **{"schedule.share": 1.0})
    assert differ(always, bare) and differ(steps, always)
    assert (scheduled(schedule="on, then off", **{"schedule.share": 0.5}) == steps).all()  # one of two steps
    assert (scheduled(schedule="on, then off", **{"schedule.share": 0.0}) == bare).all()


def test_a_prompt_with_interactions_of_its_own(drawn, graph, good):
    own = node("MDiT_SetInteractions", conditioning=["text", 0], clip=["loader", 2], interactions=["interactions", 0])
    text = graph()["positive"]
    assert (drawn(graph(model=apply(), text=text, positive=own)) == good).all()


def test_preview(server):
    entry = server.run({"one": interaction(), "two": interaction(subject="man", previous=["one", 0]),
                        "drawn": node("MDiT_PreviewInteractions", interactions=["two", 0], width=96, height=64)})
    picture = server.image(entry)
    assert picture.size == (96, 64)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10


def test_a_saved_image_restores_its_graph(server, graph, drawn):
    """The graph in the file, queued again, gives the same image: it holds every setting."""
    made = graph(picture=node("SaveImage", images=["decode", 0], filename_prefix="given back"),
                 interactions=interaction(subject='a "tall" person; [x] = y'))
    first = drawn(made)
    (path,) = (server.base / "output").glob("given back*.png")
    saved = json.loads(Image.open(path).text["prompt"])
    assert saved == made
    server.free()
    assert (drawn({**saved, "picture": node("PreviewImage", images=["decode", 0])}) == first).all()


@pytest.fixture
def healthy(graph):
    return graph()


@pytest.mark.parametrize("inputs, messages", [
    ({"subject_box": "0.1, 0.2, 1.4, 0.9"}, ("subject_box: the box (0.1, 0.2, 1.4, 0.9) reaches outside",)),
    ({"object_box": "0.5, 0.2, 0.5, 0.9"}, ("object_box: the box", "has no area")),
    ({"object_box": "a cat"}, ("object_box: has the box [a cat], which is not made of numbers",)),
    ({"units": "pixels", "object_box": "0, 0, 600, 100"}, ("pixels of 512 x 512",)),
])
def test_bad_boxes(graph, refused, inputs, messages):
    refused(graph(interactions=interaction(**inputs)), "interactions", *messages)


def test_bad_text(graph, refused):
    refused(graph(interactions=node("MDiT_InteractionsFromText", text="person feeding cat")), "interactions",
            "text: interaction 1, 'person feeding cat', has 1 parts")


def test_bad_models_and_encoders(graph, refused, plugin_file):
    plugin = node("MDiT_LoadInteractDiffusion", weights_name=plugin_file)
    refused(graph(model=apply(["interactions", 0], clip=["plugin", 2]), plugin=plugin), "model",
            "clip: the loaded file has no text encoder")
    refused(graph(model=apply(["interactions", 0], model=["plugin", 1]), plugin=plugin), "model",
            "model: the loaded file has no model: connect 'Load Checkpoint'")
    refused(graph(other=node("Probe_OtherModel"), model=apply(["interactions", 0], model=["other", 0])), "model",
            "model: a Linear has no UNet")
    many = node("MDiT_InteractionsFromText", text="\n".join([LINE] * 31))
    refused(graph(interactions=many), "model", "interactions: there are 31", "room for 30")


def test_files_that_are_no_such_weights(graph, refused, weights_file):
    gligen = {key: weight for key, weight in tiny.plugin().items()
              if not any(part in key for part in ("action", "embedding"))}
    name = weights_file("gligen", "gligen_sd14_textbox_pruned", gligen)
    refused(graph(loader=node("MDiT_LoadInteractDiffusion", weights_name=name)), "loader", name, "GLIGEN weights")

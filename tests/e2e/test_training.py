"""Training an adapter in a graph: data by the host's nodes, the adapter on the model, a picture."""
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import comfy.ops
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.taesd.taesd import Decoder, Encoder
from devtools.server import Interrupted
from mditface.mdit.labelmap import to_image
from mditface.tests.adapter import bases
from mditface.tests.e2e.graphs import apply_adapter, apply_mask, loader, node, sampler, text_of, tokenizer
from mditface.tests.mditface import tiny

COUNT, SIDE, STEPS = 3, 64, 3
TRAINED = "trained_00001_.safetensors"


@pytest.fixture(scope="module")
def faces(server):
    """A folder of pictures that are their own label maps, with captions, in the host's input folder."""
    folder = server.base / "input" / "faces"
    folder.mkdir()
    for i in range(COUNT):
        picture = to_image(tiny.labels(side=SIDE, seed=i))[0] * 255
        Image.fromarray(picture.round().byte().numpy()).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("young woman, blond hair")
    return folder.name


@pytest.fixture(scope="module")
def files(weights_file, model_file):
    """A tiny SD3, the file whose text encoder fits it, and what the host's VAE loader lists as 'taef1'."""
    width = tiny.TEXT.width
    embedder = {**bases.MMDIT["context_embedder_config"], "params": dict(in_features=width, out_features=192)}
    network = MMDiT(**bases.MMDIT | dict(adm_in_channels=width, context_embedder_config=embedder), device="meta",
                    dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for name, part in (("taef1_encoder", Encoder(16)), ("taef1_decoder", Decoder(16))):
        weights_file("vae_approx", name, bases.random_weights(part))
    return weights_file("diffusion_models", "trainable", bases.random_weights(network)), model_file("texts")


@pytest.fixture(scope="module")
def graph(files, faces):
    """Makes a graph that trains, and samples with what was trained; `changes` are other inputs of the training."""
    def make(**changes) -> dict:
        train = dict(steps=STEPS, batch_size=2, learning_rate=0.02, rank=2, seed=0, filename_prefix="trained",
                     precision="fp32", preview_steps=2) | changes
        return {
            "base": node("UNETLoader", unet_name=files[0], weight_dtype="default"),
            "texts": loader(files[1]),
            "vae": node("VAELoader", vae_name="taef1"),
            "faces": node("LoadImageTextDataSetFromFolder", folder=faces),
            "data": node("MakeTrainingDataset", images=["faces", 0], texts=["faces", 1], vae=["vae", 0],
                         clip=["texts", 1]),
            "empty": node("CLIPTextEncode", clip=["texts", 1], text=""),
            "train": node("MDiT_TrainAdapter", model=["base", 0], latents=["data", 0], conditioning=["data", 1],
                          label_maps=["faces", 0], vae=["vae", 0], empty_text=["empty", 0], palette="colours",
                          order="CelebAMask-HQ", **train),
            "curve": node("PreviewImage", images=["train", 1]),
            "count": node("PreviewAny", source=["train", 2]),
            "map": node("MDiT_ExampleLabelMap", face="woman"),
            "mask": tokenizer(["map", 0], vae=["vae", 0]),
            "positive": apply_mask("empty", "mask"),
            "negative": node("CLIPTextEncode", clip=["texts", 1], text="man"),
            "latent": node("EmptySD3LatentImage", width=SIDE, height=SIDE, batch_size=1),
            "model": apply_adapter("base", "train"),
            "sampler": sampler(cfg=1.0, mask_cfg=1.0),
            "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
            "picture": node("PreviewImage", images=["decode", 0]),
            "report": node("PreviewAny", source=["sampler", 1]),
        }
    return make


def loaded(graph) -> dict:
    """The graph with the file that the first test trained."""
    rest = {name: made for name, made in graph.items() if name not in ("curve", "count")}
    return rest | {"train": node("MDiT_LoadAdapter", adapter_name=TRAINED)}


def shown(server, entry, name) -> np.ndarray:
    return np.asarray(server.image({"outputs": {name: entry["outputs"][name]}})).astype(float)


def test_train_apply_and_sample(server, graph):
    previews = []
    entry = server.watch(graph(), lambda kind, data: previews.append(kind) if kind == "preview" else None)
    assert text_of(entry, "count") == str(STEPS)
    assert shown(server, entry, "curve").shape == shown(server, entry, "train").shape == (448, 768, 3)
    assert text_of(entry, "report").partition("\n")[2].startswith("static passes 1, cache hits 2,")
    assert len(previews) > 2  # two sheets, and what the sampler shows
    assert [path.name for path in (server.base / "output" / "mdit_adapters").iterdir()] == [TRAINED]
    assert (shown(server, server.run(loaded(graph())), "picture") == shown(server, entry, "picture")).all()
    other = server.run(graph(learning_rate=0.2, seed=1))
    assert (shown(server, other, "picture") != shown(server, entry, "picture")).any()


def test_cancel_and_go_on(server, graph):
    long = graph(steps=100000, preview_steps=0, filename_prefix="long", checkpoint_steps=100000)
    times = []

    def press():
        times.append(time.monotonic())
        server.interrupt()

    def on_event(kind, data):
        if kind == "progress" and data["max"] == 100000 and data["value"] and not timer.is_alive() and not times:
            timer.start()
        if kind == "execution_interrupted":
            times.append(time.monotonic())
    timer = threading.Timer(1, press)
    with pytest.raises(Interrupted) as caught:
        server.watch(long, on_event)
    assert times[1] - times[0] < 1 and caught.value.args == ("train",)
    (checkpoint,) = (server.base / "output" / "mdit_training").glob("*/checkpoints/*")
    done = int(checkpoint.name.removeprefix("step-"))
    entry = server.run(graph(steps=done + 1, preview_steps=0, filename_prefix="long", checkpoint_steps=7))
    assert text_of(entry, "count") == str(done + 1)
    assert not list((server.base / "output" / "mdit_training").iterdir())


def test_bad_data_is_named_on_the_node(graph, refused):
    fewer = graph()
    fewer["train"]["inputs"]["label_maps"] = ["map", 0]
    refused(fewer, "train", "label_maps: 1 label maps for 3 latents")


@pytest.fixture
def healthy(graph):
    return loaded(graph())

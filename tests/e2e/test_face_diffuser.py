"""Two tiny models of Stable Diffusion 1.5 in one run, through the host's own loaders, samplers and VAE."""
import json
import threading
import time

import numpy as np
import pytest
import torch

import comfy.ops
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.taesd.taesd import Decoder, Encoder
from devtools.server import Interrupted, NodeError
from mditface.tests.e2e.graphs import node, text_of
from mditface.tests.face_diffuser.tiny import random_weights

UNET = dict(image_size=8, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1], channel_mult=(1,),
            num_heads=8, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1],
            transformer_depth_middle=1, transformer_depth_output=[0, 0], context_dim=768, legacy=False)
STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def vae(weights_file):
    """The VAE that the host's loader lists as 'taesd', with random weights that decode to about medium gray."""
    for name, network, grey in (("taesd_encoder", Encoder(4), 0.0), ("taesd_decoder", Decoder(4), 0.6)):
        weights = {key: weight if weight.ndim > 1 else torch.zeros_like(weight)
                   for key, weight in random_weights(network).items()}
        weights[list(weights)[-1]] += grey
        weights_file("vae_approx", name, weights)


@pytest.fixture(scope="module")
def files(weights_file):
    network = UNetModel(**UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    return [weights_file("diffusion_models", f"tiny-sd15-{name}", random_weights(network, seed))
            for seed, name in enumerate(("scene", "subject"))]


@pytest.fixture(scope="module")
def graph(files):
    """Makes a valid graph; `nodes` are added or replace its own."""
    def make(**nodes):
        texts = {name: node("Probe_RandomText", seed=seed, width=768, pooled_width=20) for seed, name in enumerate(
            ("scene_positive", "scene_negative", "subject_positive", "subject_base"))}
        return {
            "scene": node("UNETLoader", unet_name=files[0], weight_dtype="default"),
            "subject": node("UNETLoader", unet_name=files[1], weight_dtype="default"),
            **texts,
            "guider": guider(),
            "sigmas": node("MDiT_FaceDiffuserScheduler", model=["scene", 0], steps=STEPS),
            "sampler": node("KSamplerSelect", sampler_name="euler"),
            "noise": node("RandomNoise", noise_seed=0),
            "latent": node("EmptyLatentImage", width=64, height=96, batch_size=2),
            "run": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
                        sigmas=["sigmas", 0], latent_image=["latent", 0]),
            "vae": node("VAELoader", vae_name="taesd"),
            "decode": node("VAEDecode", samples=["run", 0], vae=["vae", 0]),
            "picture": node("PreviewImage", images=["decode", 0]),
            **nodes,
        }
    return make


def guider(**inputs) -> dict:
    links = {name: [name, 0] for name in ("scene", "subject", "scene_positive", "scene_negative", "subject_positive",
                                          "subject_base")}
    return node("MDiT_SaliencyFusionGuider", **{**links, "scene_cfg": 3.0, "subject_cfg": 2.0, "scene_end": 0.2,
                                                "fusion_end": 0.6, **inputs})


def single(model: str, positive: str, negative: str, cfg: float) -> dict:
    return node("CFGGuider", model=[model, 0], positive=[positive, 0], negative=[negative, 0], cfg=cfg)


def pixels(server, graph) -> list[np.ndarray]:
    entry = server.run(graph)
    return [np.asarray(server.picture(image)).astype(float) for image in entry["outputs"]["picture"]["images"]]


@pytest.fixture(scope="module")
def singles(server, graph):
    return [pixels(server, graph(guider=single("scene", "scene_positive", "scene_negative", 3.0))),
            pixels(server, graph(guider=single("subject", "subject_positive", "subject_base", 2.0)))]


def test_fused_pictures_are_neither_models(server, graph, singles):
    found = pixels(server, graph())
    assert len(found) == 2
    for alone in singles:
        assert all(abs(one - other).mean() > 0.5 for one, other in zip(found, alone))


@pytest.mark.parametrize("side, border", [(0, 1.0), (1, 0.0)])
def test_one_stage_is_the_single_model(server, graph, singles, side, border):
    found = pixels(server, graph(guider=guider(scene_end=border, fusion_end=border)))
    assert all(np.array_equal(one, other) for one, other in zip(found, singles[side]))


def test_equal_models_are_plain_guidance(server, graph, singles):
    found = pixels(server, graph(guider=guider(subject=["scene", 0], subject_positive=["scene_positive", 0],
                                               subject_base=["scene_negative", 0], subject_cfg=3.0)))
    assert all(np.array_equal(one, other) for one, other in zip(found, singles[0]))


def test_preview(server, graph):
    shown = node("MDiT_PreviewSaliency", guider=["guider", 0], latent=["run", 0])
    entry = server.run(graph(shown=shown, masks=node("MaskToImage", mask=["shown", 1]),
                             kept=node("PreviewImage", images=["masks", 0])))
    report = text_of(entry, "shown").splitlines()
    assert report[0] == "steps: scene 2, fusion 2, subject 1"
    assert [line.split(":")[0] for line in report[1:]] == ["step 3", "step 4"]
    assert len(entry["outputs"]["shown"]["images"]) == 2 and len(entry["outputs"]["kept"]["images"]) == 2
    assert server.picture(entry["outputs"]["kept"]["images"][0]).size == (8, 12)


def test_region(server, graph, singles):
    empty = node("SolidMask", value=0.0, width=64, height=96)
    with pytest.raises(NodeError, match="region: the mask is empty"):
        pixels(server, graph(empty=empty, guider=guider(region=["empty", 0])))
    face = node("MDiT_ExampleLabelMap", face="man")
    by_map = pixels(server, graph(face=face, guider=guider(region=["face", 0], feather=1, bias=1.0)))
    assert all(abs(one - other).mean() > 0.5 for one, other in zip(by_map, singles[0]))


@pytest.mark.parametrize("nodes, parts", [
    (dict(patched=node("ModelSamplingDiscrete", model=["scene", 0], sampling="v_prediction", zsnr=False),
          guider=guider(subject=["patched", 0])), ("subject: it shares its weights with 'scene'", "file of its own")),
    (dict(guider=guider(subject_base=["subject_positive", 0])), ("subject_positive", "never takes effect")),
    (dict(guider=guider(scene_end=0.7)), ("fusion_end: 0.6 is before scene_end 0.7",)),
])
def test_refusals(server, graph, nodes, parts):
    with pytest.raises(NodeError) as caught:
        server.run(graph(**nodes))
    assert caught.value.node_id == "guider" and all(part in caught.value.message for part in parts)
    assert len(pixels(server, graph())) == 2


def test_an_image_for_each_marker(server):
    """The images of a growing input arrive in the order of their slots."""
    encode = node("MDiT_SubjectConditioning", clip=["parts", 0], subject=["parts", 1],
                  text="a man <|image|> and a tall woman <|image|>",
                  **{"images.image_2": ["white", 0], "images.image_1": ["gray", 0]})
    graph = {"parts": node("Probe_SubjectParts"), "encode": encode,
             "white": node("EmptyImage", width=8, height=8, batch_size=1, color=0xFFFFFF),
             "gray": node("EmptyImage", width=8, height=8, batch_size=1, color=0x333333),
             "shown": node("Probe_Conditioning", conditioning=["encode", 0])}
    values = json.loads(text_of(server.run(graph), "shown"))
    assert {i: value for i, value in enumerate(values) if value} == {2: pytest.approx(0.2), 6: 1.0}
    del encode["inputs"]["images.image_1"]
    with pytest.raises(NodeError, match="Required input is missing: image_1"):
        server.run(graph)


@pytest.mark.parametrize("borders", [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_cancel(server, graph, borders):
    long = graph(guider=guider(**dict(zip(("scene_end", "fusion_end"), borders))),
                 sigmas=node("MDiT_FaceDiffuserScheduler", model=["scene", 0], steps=900),
                 noise=node("RandomNoise", noise_seed=int(10 * sum(borders)) + 1),
                 latent=node("EmptyLatentImage", width=64, height=64, batch_size=1))
    pressed = []

    def press():
        pressed.append(time.monotonic())
        server.interrupt()

    def on_event(kind, data):
        if kind == "progress" and data["value"] == 3:
            threading.Thread(target=press).start()
    with pytest.raises(Interrupted):
        server.watch(long, on_event)
    assert time.monotonic() - pressed[0] < 1
    assert len(pixels(server, graph())) == 2

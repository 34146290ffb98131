"""Face-MoGLE's nodes in a graph with the host's loaders, samplers and VAE."""
import numpy as np
import pytest

from mditface.tests.adapter import bases
from mditface.tests.e2e.graphs import adapted, node, sampler, text_of, tokenizer
from mditface.tests.e2e.test_adapter import differ, host_sampler, pixels, vae, without_mask
from mditface.tests.face_mogle import tiny
from mditface.tests.mditface import runs

__all__ = ["vae"]  # a fixture


@pytest.fixture(scope="module")
def graph(server, weights_file, label_map_file):
    """Makes a good graph, with changes."""
    folder = server.base / "models" / "mdit_adapters"
    folder.mkdir(exist_ok=True)
    tiny.write(folder)
    base = weights_file("diffusion_models", "tiny-flux", bases.published("flux"))
    label_map = label_map_file("mogle", 64, 64)

    def make(**changes):
        return adapted(base, "", label_map, **{"adapter": load(), **changes})
    return make


def load(lora: str = tiny.LORA, gate: str = tiny.GATE, **switches) -> dict:
    return node("MDiT_LoadFaceMoGLE", lora_name=lora, gate_name=gate, **switches)


def test_the_mask_changes_the_picture_and_none_leaves_the_base(server, graph):
    picture, entry = pixels(server, graph())
    report = text_of(entry, "report")
    assert report.partition("\n")[2].startswith("static passes 1, cache hits 2,")
    assert "Face-MoGLE: label map read and computed in every step" in report and "only these are encoded" in report
    bare, _ = pixels(server, without_mask(graph()))
    assert differ(picture, bare)
    unpatched = graph(sampler=host_sampler("base"))
    del unpatched["report"]
    assert (pixels(server, without_mask(unpatched))[0] == bare).all()
    assert text_of(server.run(graph(seed=1)), "report").partition("\n")[2].startswith("static passes 0, cache hits 3,")


def test_a_batch_of_two_maps_and_two_conditionings(server, graph, label_map_file):
    second = label_map_file("mogle-second", 64, 64, seed=3)
    maps = dict(other=node("LoadImage", image=second),
                both=node("ImageBatch", image1=["map", 0], image2=["other", 0]),
                latent=node("EmptySD3LatentImage", width=64, height=64, batch_size=2))
    entry = server.run(graph(**maps, mask=tokenizer(["both", 0], vae=["vae", 0])))
    shown = entry["outputs"]["picture"]["images"]
    assert differ(*(np.asarray(server.picture(picture)).astype(float) for picture in shown))
    combined = graph(more=node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["text", 0]),
                     sampler=sampler(positive=["more", 0], cfg=1.0, mask_cfg=1.0))
    assert np.ptp(pixels(server, combined)[0]) > 0


def test_a_lora_before_and_after_and_unloading_in_between(server, weights_file, graph):
    lora = weights_file("loras", "tiny-flux-mogle", runs.lora("double_blocks.0.img_attn.qkv", width=tiny.WIDTH))
    plain, _ = pixels(server, graph())
    drawn = []
    for source, target in (("base", "model"), ("model", "sampler")):
        patched = graph(lora=node("LoraLoaderModelOnly", model=[source, 0], lora_name=lora, strength_model=0.5))
        patched[target]["inputs"]["model"] = ["lora", 0]
        drawn.append(pixels(server, patched)[0])
        server.free()
        assert (pixels(server, graph())[0] == plain).all()
    assert abs(drawn[0] - drawn[1]).max() <= 1 and differ(drawn[0], plain)


@pytest.fixture
def healthy(graph):
    return graph(seed=9)


def test_files_that_do_not_belong_together(weights_file, graph, refused):
    refused(graph(adapter=load(gate=tiny.LORA)), "adapter", "gate_name: ", "is a LoRA, not a gate")
    alone = node("MDiT_LoadAdapter", adapter_name=tiny.LORA)
    refused(graph(adapter=alone), "sampler", "mask: ", "needs its gate", "'Load Face-MoGLE'")
    plain = weights_file("loras", "plain-mogle", {key: weight for key, weight in tiny.lora().items() if "to_q" in key})
    refused(graph(adapter=load(lora=plain)), "adapter", "lora_name: ", "lacks terms for", "'Load LoRA'")
    wide = weights_file("mdit_adapters", "wide-mogle", tiny.lora(width=128))
    refused(graph(adapter=load(lora=wide)), "model", "width 128 and 2 + 3", "width 256 and 2 + 3")


def test_another_base(weights_file, graph, refused):
    sd3 = weights_file("diffusion_models", "tiny-sd3", bases.published("sd3"))
    refused(graph(base=node("UNETLoader", unet_name=sd3, weight_dtype="default")), "model", "family flux", "family sd3")

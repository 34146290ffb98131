"""MMFace-DiT on the booted server: tiny files in the published layout, the host's text node, VAE, LoRA and samplers."""
import numpy as np
import pytest

from mditface.tests.e2e.graphs import cancelled, node, sampler, text_of, tokenizer
from mditface.tests.mmface import tiny

FOLDER = "dit-unified-flux-vae-512-rfm/checkpoint-44070"
NAME = f"{FOLDER}/dit_model_weights_ema"


@pytest.fixture(scope="module")
def files(server, weights_file, tiny_models):
    """Names of the model in its published folder, of its text encoder, and of a LoRA."""
    model = weights_file("diffusion_models", NAME, tiny.random_weights(tiny.network()))
    text = weights_file("text_encoders", "tiny-mmface-text", tiny.text_weights())
    key, width = "diffusion_model.blocks.1.attn.to_v_t.lora_{}.weight", tiny.CONFIG.width
    lora = weights_file("loras", "tiny-mmface-lora", {key.format("up"): tiny.normal(width, 2),
                                                      key.format("down"): tiny.normal(2, width)})
    server.free()  # the VAE's name stood for another file in the tests of adapters
    return model, text, lora


@pytest.fixture(scope="module")
def graph(files, label_map_file):
    """A face from a label map and a prompt by the stock sampler; `nodes` are added or replace those of the graph."""
    name = label_map_file("mmface-map", 96, 96)

    def make(prompt="a young woman, smiling", source="model", size=64, batch=1, **nodes) -> dict:
        return {
            "model": load(files[0]), "clip": node("MDiT_LoadMMFaceCLIP", clip_name=files[1]),
            "vae": node("VAELoader", vae_name="taef1"), "map": node("LoadImage", image=name),
            "mask": tokenizer(["map", 0]),
            "text": node("CLIPTextEncode", clip=["clip", 0], text=prompt),
            "empty": node("CLIPTextEncode", clip=["clip", 0], text=""),
            "both": condition(mask=["mask", 0]),
            "latent": node("EmptySD3LatentImage", width=size, height=size, batch_size=batch),
            "sampler": node("KSampler", model=[source, 0], positive=["both", 0], negative=["both", 1],
                            latent_image=["latent", 0], seed=0, steps=3, cfg=4.0, sampler_name="euler",
                            scheduler="simple", denoise=1.0),
            "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
            "image": node("PreviewImage", images=["decode", 0]), **nodes}
    return make


@pytest.fixture
def healthy(graph):
    return graph()


def load(name, objective="auto") -> dict:
    return node("MDiT_LoadMMFace", model_name=name, objective=objective, weight_dtype="fp32")


def condition(**inputs) -> dict:
    return node("MDiT_ConditionMMFace", positive=["text", 0], negative=["empty", 0], vae=["vae", 0], **inputs)


def pixels(server, graph) -> np.ndarray:
    return np.asarray(server.images(server.run(graph))[0]).astype(float)


def test_mask_sketch_and_text_change_the_image(server, graph):
    previews = []
    entry = server.watch(graph(), lambda kind, data: previews.append(data) if kind == "preview" else None)
    first = np.asarray(server.image(entry)).astype(float)
    assert len(previews) >= 1 and first.std() > 1
    changes = {
        "no condition": graph(both=condition()), "sketch": graph(both=condition(sketch=["map", 0])),
        "prompt": graph(prompt="an old man"), "range": graph(both=condition(mask=["mask", 0], end=0.5)),
    }
    for name, changed in changes.items():
        assert abs(pixels(server, changed) - first).max() > 1, name


def test_no_condition_is_the_bare_text(server, graph):
    bare = graph(both=condition())
    plain = graph()
    plain["sampler"]["inputs"] |= {"positive": ["text", 0], "negative": ["empty", 0]}
    assert (pixels(server, bare) == pixels(server, plain)).all()


def test_batches_and_sizes(server, graph):
    images = server.images(server.run(graph(size=80, batch=2)))
    assert [image.size for image in images] == [(80, 80)] * 2
    assert (np.asarray(images[0]) != np.asarray(images[1])).any()


def test_two_masks_and_two_conditionings(server, graph, label_map_file):
    other = node("LoadImage", image=label_map_file("mmface-other", 96, 96, seed=3))
    one, second = pixels(server, graph()), pixels(server, graph(map=other))
    assert abs(one - second).max() > 1
    two = graph(batch=2, other=other, maps=node("ImageBatch", image1=["map", 0], image2=["other", 0]),
                mask=tokenizer(["maps", 0]))
    first, last = (np.asarray(image).astype(float) for image in server.images(server.run(two)))
    assert abs(first - one).max() <= 1 and abs(last - one).max() > 1
    more = graph(old=node("CLIPTextEncode", clip=["clip", 0], text="an old man"),
                 other_text=node("MDiT_ConditionMMFace", positive=["old", 0], negative=["empty", 0], vae=["vae", 0]),
                 texts=node("ConditioningCombine", conditioning_1=["both", 0], conditioning_2=["other_text", 0]))
    more["sampler"]["inputs"]["positive"] = ["texts", 0]
    assert abs(pixels(server, more) - one).max() > 1


def test_a_lora_acts_and_leaves(server, graph, files):
    plain = pixels(server, graph())
    lora = node("LoraLoaderModelOnly", model=["model", 0], lora_name=files[2], strength_model=0.5)
    assert abs(pixels(server, graph(source="lora", lora=lora)) - plain).max() > 1
    server.free()
    assert (pixels(server, graph()) == plain).all()


def test_the_packs_sampler_guides_and_reports(server, graph):
    scaled = graph(sampler=sampler(positive=["both", 0], negative=["both", 1], cfg=4.0, mask_cfg=1.0),
                   report=node("PreviewAny", source=["sampler", 1]))
    entry = server.run(scaled)
    assert "MMFace-DiT: mask read beside the latent at each step; nothing cached" in text_of(entry, "report")
    assert abs(np.asarray(server.image(entry)).astype(float) - pixels(server, graph())).max() <= 1
    scaled["sampler"]["inputs"]["mask_cfg"] = 3.0
    assert abs(pixels(server, scaled) - pixels(server, graph())).max() > 1


def test_exact_sigmas_agree_with_the_stock_schedule(server, graph):
    plain = graph()
    plain["sampler"]["inputs"]["steps"] = 4
    exact = graph(sigmas=node("MDiT_PTDiTSigmas", model=["model", 0], steps=4, denoise=1.0),
                  solver=node("KSamplerSelect", sampler_name="euler"),
                  sampler=node("SamplerCustom", model=["model", 0], add_noise=True, noise_seed=0, cfg=4.0,
                               positive=["both", 0], negative=["both", 1], sampler=["solver", 0],
                               sigmas=["sigmas", 0], latent_image=["latent", 0]))
    assert abs(pixels(server, plain) - pixels(server, exact)).max() <= 1


def test_cancel(server, graph):
    long = graph()
    long["sampler"]["inputs"]["steps"] = 900
    _, seconds = cancelled(server, long, lambda data: data["max"] >= 900 and data["value"] > 2)
    assert seconds < 1
    pixels(server, graph())


def test_bad_inputs_are_refused(server, weights_file, graph, refused, files):
    name = weights_file("diffusion_models", "tiny-unnamed", tiny.random_weights(tiny.network()))
    refused(graph(model=load(name)), "model", "objective: ", "'diffusion' for", "'flow' for")
    cut = {key: weight for key, weight in tiny.random_weights(tiny.network()).items() if "modality" not in key}
    name = weights_file("diffusion_models", "tiny-cut", cut)
    refused(graph(model=load(name, "flow")), "model", "model_name: ", name, "holds no MMFace-DiT weights")
    refused(graph(clip=node("MDiT_LoadMMFaceCLIP", clip_name=weights_file("text_encoders", "tiny-wrong", cut))), "clip",
            "clip_name: ", "holds no text encoder of CLIP", "Stable Diffusion 2.1")
    black = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    refused(graph(vae=node("VAELoader", vae_name="taesd"), decode=black, end=node("PreviewAny", source=["sampler", 0])),
            "sampler", "vae: the one at 'Condition MMFace-DiT' makes latents (4, 8, 8)", "ae.safetensors")
    refused(graph(both=condition(mask=["mask", 0], sketch=["map", 0])), "both", "mask, sketch: both are connected")
    refused(graph(text=node("Probe_RandomText", seed=0, width=24, pooled_width=8)), "sampler", "text 24 wide",
            "'Load MMFace-DiT CLIP'")

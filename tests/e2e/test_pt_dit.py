"""PT-DiT on the booted server: a tiny checkpoint with the host's own sampler, LoRA loader, latents and decoder."""
import numpy as np
import pytest
from safetensors.torch import load_file

from mditface.tests.e2e.graphs import loader, node, text_of
from mditface.tests.pt_dit import tiny

TEXT = dict(width=tiny.CONFIG.caption, pooled_width=8)


@pytest.fixture(scope="module")
def files(server, weights_file, own_golden):
    """Names of a checkpoint with its JSON, of a VAE and of a LoRA."""
    weights = tiny.random_weights(tiny.network())
    model = weights_file("diffusion_models", "tiny-pt-dit", weights)
    (server.base / "models" / "diffusion_models" / "tiny-pt-dit.json").write_text(tiny.JSON)
    vae = weights_file("vae", "tiny-pt-dit-vae", load_file(own_golden / "pt-dit" / "vae_model.safetensors"))
    key, width = "diffusion_model.transformer_blocks.1.attn1.to_v.lora_{}.weight", tiny.CONFIG.width
    lora = weights_file("loras", "tiny-pt-dit-lora", {key.format("up"): tiny.normal(width, 2),
                                                      key.format("down"): tiny.normal(2, width)})
    return model, vae, lora


@pytest.fixture(scope="module")
def graph(files):
    """An image from noise and random text; `nodes` are added or replace those of the graph."""
    def make(width=64, height=64, batch=1, model="model", **nodes) -> dict:
        return {
            "model": node("MDiT_LoadPTDiT", model_name=files[0], weight_dtype="default"),
            "vae": node("MDiT_LoadPTDiTVAE", vae_name=files[1]),
            "positive": node("Probe_RandomText", seed=0, **TEXT), "negative": node("Probe_RandomText", seed=1, **TEXT),
            "latent": node("EmptyLatentImage", width=width, height=height, batch_size=batch),
            "sampler": node("KSampler", model=[model, 0], positive=["positive", 0], negative=["negative", 0],
                            latent_image=["latent", 0], seed=0, steps=3, cfg=4.0, sampler_name="euler",
                            scheduler="simple", denoise=1.0),
            "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
            "image": node("PreviewImage", images=["decode", 0]), **nodes}
    return make


@pytest.fixture
def healthy(graph):
    return graph()


def pixels(server, graph) -> np.ndarray:
    return np.asarray(server.images(server.run(graph))[0]).astype(float)


def windows(**inputs) -> dict:
    return node("MDiT_PTDiTWindows", model=["model", 0],
                **{"rows": 4, "columns": 4, "proxy_rows": 1, "proxy_columns": 1, **inputs})


def test_the_stock_sampler_runs_with_previews(server, graph):
    previews = []
    entry = server.watch(graph(), lambda kind, data: previews.append(data) if kind == "preview" else None)
    image = server.image(entry)
    assert image.size == (64, 64) and np.asarray(image).std() > 1
    assert len(previews) >= 1


def test_any_size_and_batch(server, graph):
    images = server.images(server.run(graph(width=88, height=104, batch=2)))
    assert [image.size for image in images] == [(88, 104)] * 2


def test_every_setting_changes_the_image(server, graph, files):
    size = dict(width=96, height=64)
    plain = pixels(server, graph(**size))
    changes = {
        "shift": node("MDiT_PTDiTShift", model=["model", 0], width=96, height=64),
        "windows": windows(columns=2),
        "proxies": windows(proxy_rows=2),
        "positions": windows(positions="rowcol"),
        "lora": node("LoraLoaderModelOnly", model=["model", 0], lora_name=files[2], strength_model=0.5),
    }
    for name, changed in changes.items():
        assert abs(pixels(server, graph(**size, model="changed", changed=changed)) - plain).max() > 1, name
    assert (pixels(server, graph(**size, model="changed", changed=windows())) == plain).all()


def test_exact_sigmas_agree_with_the_stock_schedule(server, graph):
    plain = graph(shifted=node("MDiT_PTDiTShift", model=["model", 0], width=64, height=64), model="shifted")
    plain["sampler"]["inputs"]["steps"] = 4
    exact = graph(shifted=plain["shifted"],
                  sigmas=node("MDiT_PTDiTSigmas", model=["shifted", 0], steps=4, denoise=1.0),
                  solver=node("KSamplerSelect", sampler_name="euler"),
                  sampler=node("SamplerCustom", model=["shifted", 0], add_noise=True, noise_seed=0, cfg=4.0,
                               positive=["positive", 0], negative=["negative", 0], sampler=["solver", 0],
                               sigmas=["sigmas", 0], latent_image=["latent", 0]))
    assert abs(pixels(server, plain) - pixels(server, exact)).max() <= 1


def test_the_cost_is_shown(server, graph):
    counted = {"model": graph()["model"], "cost": node("MDiT_PTDiTCost", model=["model", 0], width=512, height=512)}
    assert text_of(server.run(counted), "cost").startswith("512 x 512 px, 1 frame(s): 1024 tokens, 64 proxies")


def test_bad_files_are_refused(server, weights_file, graph, refused, own_golden):
    pixart = {name: weight for name, weight in tiny.random_weights(tiny.network()).items() if "proxy" not in name}
    name = weights_file("diffusion_models", "tiny-pixart", pixart)
    bad = graph() | {"model": node("MDiT_LoadPTDiT", model_name=name, weight_dtype="default")}
    refused(bad, "model", "model_name: ", name, "no PT-DiT weights", "the host's own loaders")
    other = {key.replace(".conv.", "."): weight.sum(2) if weight.ndim == 5 else weight for key, weight in
             load_file(own_golden / "pt-dit" / "vae_model.safetensors").items()}
    name = weights_file("vae", "tiny-kl", other)
    refused(graph(vae=node("MDiT_LoadPTDiTVAE", vae_name=name)), "vae", "vae_name: ", name, "is not the VAE of PT-DiT")


def test_bad_inputs_are_refused(graph, refused, model_file):
    refused(graph(width=48), "sampler", "4 rows and 3 columns", "below one window", "Set PT-DiT Windows")
    wrong = node("Probe_RandomText", seed=0, width=32, pooled_width=8)
    refused(graph(positive=wrong), "sampler", "32 wide", "this model needs 24", "type 'pixart'")
    refused(graph(model="changed", changed=windows(proxy_rows=3)), "changed", "proxy_rows: 3", "1, 2, 4")
    mdit = dict(mdit=loader(model_file("tiny-for-clip")), positive=node("MDiT_PTDiTText", clip=["mdit", 1], text="a"))
    refused(graph(**mdit), "positive", "clip: it is a text encoder of mdit", "T5-XXL alone")
    refused(graph(model="changed", mdit=mdit["mdit"], changed=node(
        "MDiT_PTDiTShift", model=["mdit", 0], width=64, height=64)), "changed", "not a PT-DiT")

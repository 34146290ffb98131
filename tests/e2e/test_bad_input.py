"""What a user gets for bad input: a message on the right node, and a server that goes on."""
import threading
import time

import pytest
from PIL import Image

from devtools.server import Interrupted, NodeError
from mditface.tests.e2e.graphs import face, inspect, loader, node, sampler, text_of, tokenizer
from mditface.tests.mditface import tiny


@pytest.fixture(scope="module")
def good(server, model_file, label_map_file):
    """Makes a good graph with changes."""
    name, label_map = model_file("good"), label_map_file("good", 64, 64)
    return lambda **changes: face(name, label_map, **changes)


@pytest.fixture
def healthy(good):
    return good(seed=1)


def test_colours_far_from_the_palette(server, good, refused, tmp_path):
    photo = Image.new("RGB", (64, 64), (120, 200, 90))
    photo.paste((250, 128, 250), (0, 0, 64, 16))
    photo.save(tmp_path / "photo.png")
    graph = good(map=node("LoadImage", image=server.upload(tmp_path / "photo.png")))
    refused(graph, "mask", "label_map: 100%", "(120, 200, 90)", "(250, 128, 250)")


def test_another_aspect_is_resized_and_reported(server, good, label_map_file):
    wide = node("LoadImage", image=label_map_file("wide", 96, 32))
    entry = server.run(good(map=wide))
    assert "label map 96 x 32 resized to 64 x 64 by nearest neighbor" in text_of(entry, "report")
    assert server.image(entry).size == (64, 64)


def test_an_empty_batch_of_label_maps(good, refused):
    refused(good(map=node("Probe_EmptyBatch")), "mask", "label_map: the batch is empty")


def test_an_empty_batch_of_latents(good, refused):
    graph = good(empty=node("Probe_EmptyBatch"))
    graph["sampler"]["inputs"]["latent_image"] = ["empty", 1]
    refused(graph, "sampler", "latent_image: shape (0, 3, 64, 64)", "batch of at least 1")


def test_a_picture_encoded_with_another_vae(good, refused):
    graph = good(other=node("Probe_OtherVAE"), latent=node("VAEEncode", pixels=["map", 0], vae=["other", 0]))
    refused(graph, "sampler", "latent_image: shape (1, 4, 8, 8)", "needs (batch, 3, height, width)")


def palette_face(model_file, label_map_file, **nodes):
    name = model_file("palette", tiny.config(mask_tokenizer="vae_palette"))
    return face(name, label_map_file("good", 64, 64), **nodes)


def test_a_mask_encoded_with_another_vae(model_file, label_map_file, refused):
    graph = palette_face(model_file, label_map_file, other=node("Probe_OtherVAE"),
                         mask=tokenizer(["map", 0], vae=["other", 0]))
    refused(graph, "sampler", "(4, 8, 8)", "(3, 64, 64)", "connect the VAE that belongs to the model")


def test_a_mask_without_the_vae_that_the_model_needs(server, model_file, label_map_file, refused):
    refused(palette_face(model_file, label_map_file), "sampler", "'vae' input of 'Label Map to Mask (MDiT)'")
    right = palette_face(model_file, label_map_file, mask=tokenizer(["map", 0], vae=["model", 2]))
    assert server.image(server.run(right)).size == (64, 64)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def no_tensors(path):
    path.write_bytes(b"<html>404 Not Found</html>" * 10)


def renamed(weights):
    return {name.replace("final.mod", "last.mod"): weight for name, weight in weights.items()}


def reshaped(weights):
    return {**weights, "x_embed.bias": weights["x_embed.bias"][:7].clone()}


def with_nan(weights):
    weights["blocks.1.img.fc1.weight"][0, 0] = float("nan")
    return weights


FILES = {
    "truncated": (dict(damage=cut), "truncated"),
    "html": (dict(damage=no_tensors), "cannot be read as a safetensors file"),
    "renamed": (dict(edit=renamed), "missing [final.mod.bias, final.mod.weight], unknown [last.mod.bias"),
    "reshaped": (dict(edit=reshaped), "x_embed.bias is (7,), must be (32,)"),
    "nan": (dict(edit=with_nan), "NaN or infinite numbers in blocks.1.img.fc1.weight"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_model_files(model_file, good, refused, name):
    how, message = FILES[name]
    refused(good(model=loader(model_file(name, **how))), "model", f"{name}.safetensors", message)


def test_a_model_of_another_family(good, refused):
    graph = good(other=node("Probe_OtherModel"), sampler=sampler("other"))
    refused(graph, "sampler", "model: a Linear", "Load Face Model (MDiT)")


def test_a_guider_for_a_model_of_another_family(good, refused):
    graph = good(other=node("Probe_OtherModel"), guider=node(
        "MDiT_DualGuider", model=["other", 0], positive=["positive", 0], negative=["negative", 0], text_scale=2.0,
        mask_scale=1.0), shown=node("PreviewAny", source=["guider", 0]))
    refused(graph, "guider", "model: a Linear", "Load Face Model (MDiT)")


def test_fewer_masks_than_latents(good, label_map_file, refused):
    graph = good(batch=3, second=node("LoadImage", image=label_map_file("second", 64, 64, seed=1)),
                 maps=node("ImageBatch", image1=["map", 0], image2=["second", 0]), mask=tokenizer(["maps", 0]))
    refused(graph, "sampler", "3 latents", "2 label maps", "one for each latent")


def test_cancel_in_the_middle_of_the_static_pass(server, model_file, label_map_file):
    name, label_map = model_file("deep", tiny.config(depth=40)), label_map_file("cancelled", 64, 64)
    slow = node("Probe_SlowStatic", model=["model", 0], seconds=0.2)
    graph = face(name, label_map, slow=slow, sampler=sampler("slow"))
    server.free()
    pressed = []

    def press():
        pressed.append(time.monotonic())
        server.interrupt()

    def on_event(kind, data):
        if kind == "executing" and data["node"] == "sampler":
            threading.Timer(1.5, press).start()
    with pytest.raises(Interrupted) as caught:
        server.watch(graph, on_event)
    assert time.monotonic() - pressed[0] < 1
    assert caught.value.args == ("sampler",)
    found = inspect(server)
    assert (found["caches"], found["entries"], found["planned"]) == (1, 0, 0)
    entry = server.run(face(name, label_map))
    assert server.image(entry).size == (64, 64)
    assert text_of(entry, "report").partition("\n")[2].startswith("static passes 1,")


def test_out_of_memory_in_the_static_pass(server, model_file, label_map_file):
    name, label_map = model_file("good"), label_map_file("failed", 64, 64)
    graph = face(name, label_map, fail=node("Probe_FailOnce", model=["model", 0]), sampler=sampler("fail"))
    server.free()
    with pytest.raises(NodeError, match="simulated: no memory left") as caught:
        server.run(graph)
    assert caught.value.node_id == "sampler"
    found = inspect(server)
    assert (found["loaded"], found["bytes"], found["planned"]) == ([], 0, 0)
    for good in (graph, face(name, label_map)):
        entry = server.run(good)
        assert server.image(entry).size == (64, 64)
        assert text_of(entry, "report").partition("\n")[2].startswith("static passes 1,")

"""Label maps of a batch that other nodes split, and of latents taken out of a larger batch."""
import pytest
import torch

import comfy_extras.nodes_post_processing  # noqa: F401  nodes_latent imports it in a circle
import nodes
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_latent import LatentBatch, LatentBatchSeedBehavior
from comfy_extras.nodes_rebatch import LatentRebatch
from mditface.mdit.mditface.guidance import Guidance
from mditface.mdit.mditface.sample import sample
from mditface.mdit.shared.masks import choose_maps
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import SIDE, masked, run
from mditface.tests.shared import hooks

MAPS = 4
CLOSE = dict(rtol=0, atol=1e-5)


def one_map(mask, i):
    own = tiny.mask()
    own.labels = mask.labels[i:i + 1]
    return own


def sampled(loaded, texts, mask, latent, **changes):
    settings = dict(seed=0, steps=2, guidance=Guidance(2.0, 1.5), sampler_name="euler", scheduler="simple") | changes
    return sample(loaded.model, **settings, positive=masked(texts[0], mask), negative=texts[1], latent=latent)[0]


def images(count=MAPS):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) - 0.5


# Another node splits the batch


def windows(model, length=2, overlap=1, schedule="standard_static", dim=0, **changes):
    settings = dict(context_stride=1, closed_loop=False, fuse_method="flat", freenoise=False) | changes
    return ContextWindowsManualNode.execute(model, length, overlap, schedule, dim=dim, **settings).result[0]


def by_rows(kind):
    """A model whose calls at one level of the host's sampling take one row after the other."""
    def wrap(model):
        model = model.clone()
        model.add_wrapper_with_key(kind, "foreign", go_by_rows)
        return model
    return wrap


def go_by_rows(executor, x, t, *args, **kwargs):
    """Cuts every tensor of the call that has as many rows as x."""
    def cut(value, i):
        return value[i:i + 1] if torch.is_tensor(value) and len(value) == len(x) else value
    return torch.cat([executor(x[i:i + 1], t[i:i + 1], *(cut(arg, i) for arg in args),
                               **{name: cut(value, i) for name, value in kwargs.items()}) for i in range(len(x))])


FOLLOWED = {
    "row by row": hooks.split_rows(lambda n: [[i] for i in range(n)]),
    "backwards": hooks.split_rows(lambda n: [list(range(n))[::-1]]),
    "every other": hooks.split_rows(lambda n: [list(range(0, n, 2)), list(range(1, n, 2))]),
    "before the reader": by_rows(WrappersMP.APPLY_MODEL),
    "windows": lambda model: windows(model, overlap=0),
    "overlapping windows": windows,
    "batched windows": lambda model: windows(model, length=3, schedule="batched"),
    "looped windows": lambda model: windows(model, length=3, overlap=1, schedule="looped_uniform", closed_loop=True),
}


@pytest.mark.parametrize("split", FOLLOWED.values(), ids=FOLLOWED.keys())
@pytest.mark.parametrize("maps", [1, MAPS])
def test_rows_that_are_told_read_their_own_maps(loaded, texts, split, maps):
    mask, latent = tiny.mask(maps), (MAPS, 3, SIDE, SIDE)
    model = loaded.model.clone()
    reader = model.wrappers[WrappersMP.APPLY_MODEL]
    if split is FOLLOWED["before the reader"]:
        model.wrappers = {**model.wrappers, WrappersMP.APPLY_MODEL: {}}
        model = split(model)
        model.wrappers[WrappersMP.APPLY_MODEL] |= reader
    else:
        model = split(model)
    expected, _ = run(loaded.model, masked(texts[0], mask), texts[1], latent=latent)
    found, _ = run(model, masked(texts[0], mask), texts[1], latent=latent)
    torch.testing.assert_close(found, expected, **CLOSE)
    if maps > 1:
        swapped = tiny.mask(maps)
        swapped.labels = mask.labels.flip(0)
        other, _ = run(model, masked(texts[0], swapped), texts[1], latent=latent)
        assert not torch.allclose(other, expected, atol=1e-2)


def cut_silently(wrapper_kind):
    """The rows one by one, by a node that cuts nothing but the latents."""
    def go(executor, x, t, *args, **kwargs):
        return torch.cat([executor(x[i:i + 1], t[i:i + 1], *args, **kwargs) for i in range(len(x))])

    def wrap(model):
        model = model.clone()
        model.add_wrapper_with_key(wrapper_kind, "foreign", go)
        return model
    return wrap


def test_rows_that_are_not_told_are_refused(loaded, texts):
    """Without the rows' numbers no label map can be told; with one map for all none needs to be."""
    model = cut_silently(WrappersMP.PREDICT_NOISE)(loaded.model)
    latent = (MAPS, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="model: another node samples 1 of 4 latents at a time"):
        run(model, masked(texts[0], tiny.mask(MAPS)), texts[1], latent=latent)
    mask = tiny.mask()
    torch.testing.assert_close(run(model, masked(texts[0], mask), texts[1], latent=latent)[0],
                               run(loaded.model, masked(texts[0], mask), texts[1], latent=latent)[0], **CLOSE)


def test_halves_that_are_not_told_are_refused(loaded, texts):
    """The positive reads a mask and the negative none: which rows are which?"""
    model = loaded.model.clone()
    model.set_model_unet_function_wrapper(lambda apply, args: torch.cat([
        apply(part, args["timestep"][:len(part)], **{
            **args["c"], **{name: value[:len(part)] for name, value in args["c"].items()
                            if name in ("c_crossattn", "y")}})
        for part in args["input"].chunk(2)]))
    with pytest.raises(ValueError, match="model: another node splits the batch into 1 rows"):
        run(model, masked(texts[0], tiny.mask()), texts[1])


def test_rows_that_change_inside_the_network_are_refused(loaded, texts):
    model = loaded.model.clone()

    def by_row(executor, x, t, context, y, *args, **kwargs):
        return torch.cat([executor(x[i:i + 1], t[i:i + 1], context[i:i + 1], y[i:i + 1], *args, **kwargs)
                          for i in range(len(x))])
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "foreign", by_row)
    with pytest.raises(ValueError, match="model: another node changes the batch from 2 to 1 rows inside the network"):
        run(model, masked(texts[0], tiny.mask()), texts[1])


@pytest.mark.parametrize("dim", [2, 3])
def test_windows_over_the_image_are_named(loaded, texts, dim):
    model = windows(loaded.model, length=8, overlap=2, dim=dim)
    with pytest.raises(ValueError, match="latent: another node changed its size .* context windows over height"):
        run(model, masked(texts[0], tiny.mask()), texts[1])


# Latents of a larger batch


def test_latents_taken_out_of_a_batch_read_their_own_maps(loaded, texts):
    mask, latent = tiny.mask(MAPS), {"samples": images()}
    together = sampled(loaded, texts, mask, latent)["samples"]
    for start, length in ((2, 1), (1, 2), (3, 1), (0, 4), (0, 3)):
        (part,) = nodes.LatentFromBatch().frombatch(latent, start, length)
        torch.testing.assert_close(sampled(loaded, texts, mask, part)["samples"], together[start:start + length],
                                   **CLOSE)


def test_rebatched_and_joined_latents_read_their_own_maps(loaded, texts):
    mask, latent = tiny.mask(MAPS), {"samples": images()}
    together = sampled(loaded, texts, mask, latent)["samples"]
    parts = LatentRebatch.execute([latent], [3]).result[0]
    assert [len(part["samples"]) for part in parts] == [3, 1]
    found = torch.cat([sampled(loaded, texts, mask, part)["samples"] for part in parts])
    torch.testing.assert_close(found, together, **CLOSE)
    last, first = (nodes.LatentFromBatch().frombatch(latent, i, 1)[0] for i in (3, 0))
    joined = LatentBatch.execute(last, first).result[0]
    torch.testing.assert_close(sampled(loaded, texts, mask, joined)["samples"], together[[3, 0]], **CLOSE)


def test_the_noise_is_the_hosts_for_each_number(loaded, texts):
    """Latents of a batch sampled alone get the same noise as in the batch, with one mask for all as well."""
    (part,) = nodes.LatentFromBatch().frombatch({"samples": torch.zeros(MAPS, 3, SIDE, SIDE)}, 2, 1)
    found = sampled(loaded, texts, tiny.mask(), part)["samples"]
    together = sampled(loaded, texts, tiny.mask(), {"samples": torch.zeros(MAPS, 3, SIDE, SIDE)})["samples"]
    torch.testing.assert_close(found, together[2:3], **CLOSE)
    assert not torch.allclose(found, together[:1], atol=1e-2)
    fixed = LatentBatchSeedBehavior.execute({"samples": torch.zeros(MAPS, 3, SIDE, SIDE)}, "fixed").result[0]
    same = sampled(loaded, texts, tiny.mask(), fixed)["samples"]
    torch.testing.assert_close(same, same[:1].expand_as(same), **CLOSE)


@pytest.mark.parametrize("count, latents, index, expected", [
    (1, 3, None, [0]), (1, 1, [0], [0]), (1, 2, [5, 7], [0]),
    (3, 3, None, [0, 1, 2]),
    (3, 3, [2, 0, 1], [2, 0, 1]),  # joined in another order: each keeps its own
    (4, 4, [0, 1, 0, 1], [0, 1, 2, 3]),  # two batches joined, one map for each latent
    (3, 3, [3, 4, 5], [0, 1, 2]),  # taken out of six, one map for each latent
    (3, 3, [0, 0, 0], [0, 1, 2]),  # one noise for all
    (4, 2, [1, 2], [1, 2]), (4, 2, None, None), (4, 2, [3, 4], None), (4, 2, [-1, 0], None), (2, 3, None, None),
    (2, 4, [0, 1, 0, 1], [0, 1, 0, 1]),
])
def test_which_map_a_latent_reads(count, latents, index, expected):
    assert choose_maps(count, latents, index) == expected


def test_exemplars_follow_the_latents_number(tmp_path, texts):
    from mditface.mdit.mditface import host
    from mditface.mdit.shared.masks import CONDITIONING_KEY
    config = tiny.config(exemplar_blocks=(0, 2), exemplar_candidates=2)
    model = host.load_mdit(tiny.write(tmp_path / "exemplar.safetensors", config)).model
    exemplar = tiny.exemplar(MAPS)

    def out(latent):
        (text, extra), = masked(texts[0], tiny.mask())
        extra = {**extra, CONDITIONING_KEY: extra[CONDITIONING_KEY].with_exemplar(exemplar, 1.0)}
        return sample(model, seed=0, steps=2, guidance=Guidance(2.0, 1.5), sampler_name="euler", scheduler="simple",
                      positive=[[text, extra]], negative=texts[1], latent=latent)[0]["samples"]
    latent = {"samples": torch.zeros(MAPS, 3, SIDE, SIDE)}
    together = out(latent)
    torch.testing.assert_close(out(nodes.LatentFromBatch().frombatch(latent, 2, 1)[0]), together[2:3], **CLOSE)


def test_the_stock_sampler_cannot_know_and_says_so(loaded, texts):
    (part,) = nodes.LatentFromBatch().frombatch({"samples": images()}, 2, 1)
    with pytest.raises(ValueError, match=r"latent_image: 1 latents, but the mask .* only 'Face Sampler \(MDiT\)'"):
        nodes.common_ksampler(loaded.model, 0, 2, 2.0, "euler", "simple", masked(texts[0], tiny.mask(MAPS)), texts[1],
                              part)


def test_numbers_beyond_the_maps_are_refused(loaded, texts):
    latent = {"samples": images(2), "batch_index": [4, 5]}
    with pytest.raises(ValueError, match=r"2 latents with the numbers \[4, 5\] \(batch_index\), but the mask has 4"):
        sampled(loaded, texts, tiny.mask(MAPS), latent)
    with pytest.raises(ValueError, match=r"latent_image: it names 1 latents \(batch_index\), but holds 2"):
        sampled(loaded, texts, tiny.mask(), {"samples": images(2), "batch_index": [0]})

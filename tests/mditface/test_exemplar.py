"""An exemplar's appearance in a stand-alone MDiT (experimental; docs/design/dynast.md, section 13)."""
import json
import math

import pytest
import torch
from safetensors.torch import load_file

import comfy.model_management
from mditface.mdit.mditface import host
from mditface.mdit.mditface.attention import ExemplarKeys, MaskRows
from mditface.mdit.mditface.config import CONFIG_KEY, MATCH, PRUNE, MDiTConfig
from mditface.mdit.mditface.exemplar_branch import ExemplarTokens, MatchSide, find_candidates
from mditface.mdit.mditface.inspection import list_entries
from mditface.mdit.mditface.reader import CacheOptions
from mditface.mdit.recipes.initialize import initialize_exemplar, initialize_model
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import CPU, OFF, SIDE, TOLERANCE, masked, run
from mditface.tests.mditface.test_model import forward, inputs, static_rows

READING = dict(exemplar_blocks=(0, 2), exemplar_candidates=2)


def side(features, grid, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in grid))
    return MatchSide(torch.rand(batch, math.prod(grid), features, generator=generator), positions, grid)


def exemplar_tokens(cfg, grid=(3, 4), target_grid=(3, 4), batch=1):
    patch = cfg.in_channels * cfg.patch ** 2
    picture = torch.randn(batch, math.prod(grid), patch, generator=torch.Generator().manual_seed(3))
    return ExemplarTokens(side(cfg.mask_features, target_grid), side(cfg.mask_features, grid, batch, seed=2), picture)


def make_exemplar_keys(net, tokens, strength=1.0):
    found, kv = net.exemplar.run_static_path(tokens)
    return ExemplarKeys(*found, list(kv), strength)


def reading(**changes):
    """A network, its inputs on 3 by 4 tokens, and what it reads of mask and exemplar."""
    net = tiny.network(tiny.config(**READING | changes))
    given = inputs(net.config)
    rows = static_rows(net, given)
    return net, given, rows, rows._replace(exemplar=make_exemplar_keys(net, exemplar_tokens(net.config)))


def shut(net):
    for read in net.exemplar.reads:
        read.mod.weight.zero_(), read.mod.bias.zero_()


def test_the_exemplar_is_read_by_every_image_token():
    net, given, rows, with_exemplar = reading()
    change = (forward(net, given, [with_exemplar]) - forward(net, given, [rows])).abs()
    assert change.amax(1).min() > 1e-5


def test_a_shut_gate_and_a_strength_of_zero_are_bit_for_bit_the_model_without():
    net, given, rows, with_exemplar = reading()
    expected = forward(net, given, [rows])
    weak = with_exemplar._replace(exemplar=with_exemplar.exemplar._replace(strength=0.0))
    assert torch.equal(forward(net, given, [weak]), expected)
    shut(net)
    assert torch.equal(forward(net, given, [with_exemplar]), expected)
    plain = tiny.network(tiny.config())
    plain.load_state_dict({name: w for name, w in net.state_dict().items() if not name.startswith("exemplar.")})
    assert torch.equal(forward(plain, given, [rows]), expected)


def test_a_read_is_the_sum_over_the_candidates_that_pass_the_test():
    net, given, _, _ = reading()
    read, width = net.exemplar.reads[1], net.config.width
    keys = make_exemplar_keys(net, exemplar_tokens(net.config, grid=(4, 4)))
    img, vec = torch.randn(2, 12, width), torch.randn(2, width)
    shift, scale, gate = read.mod(torch.nn.functional.silu(vec))[:, None].chunk(3, -1)
    norm = torch.nn.functional.layer_norm(img, (width,), eps=1e-6) * (1 + scale) + shift
    query = read.query(norm)
    k, v = (x[0, 0] for x in keys.kv[1])
    expected, kept = img.clone(), []
    for b in range(2):
        for i in range(12):
            chosen = keys.candidates[0, i]
            match, key, prune = k[chosen].split((MATCH, width, PRUNE), -1)
            logits = match @ keys.match[0, i] + key @ query[b, i, :width] / math.sqrt(width)
            passed = (prune @ query[b, i, width:] > 0).float()
            kept.append(passed.mean())
            expected[b, i] += gate[b, 0] * read.proj((passed * logits.softmax(-1)) @ v[chosen])
    assert 0 < torch.stack(kept).mean() < 1
    torch.testing.assert_close(read(img, vec, keys, 1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (40, 36), (2, 3)])
def test_equal_maps_correspond_place_by_place(grid):
    """Smooth features, all different, as those of positions are."""
    rows, cols = (torch.arange(n) / n for n in grid)
    place = torch.cartesian_prod(rows, cols)
    x = torch.cat([(place * f).cos() for f in (1, 2)] + [(place * f).sin() for f in (1, 2)], -1)[None]
    found = find_candidates(x, x, (grid, grid), 4)
    own = torch.arange(math.prod(grid)).view(1, -1, 1)
    assert (found == own).any(-1).float().mean() > 0.95
    assert found.min() >= 0 and found.max() < math.prod(grid)


def test_a_moved_map_corresponds_where_it_went():
    grid, moved = (16, 16), 4
    x = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    x = x.repeat_interleave(4, 1).repeat_interleave(4, 2)  # blocks of 4 x 4 tokens, each unlike the others
    x = torch.nn.functional.normalize(x, dim=-1)
    found = find_candidates(x.flatten(1, 2), x.roll(moved, 2).flatten(1, 2), (grid, grid), 2)
    y, col = torch.arange(256) // 16, torch.arange(256) % 16
    block = (y // 4 * 4 + (col + moved) % 16 // 4).view(1, -1, 1)
    inside = found // 16 // 4 * 4 + found % 16 // 4 == block
    assert inside[..., :2].float().mean() > 0.9  # those from the token itself, before its neighbours'


def test_grids_of_target_and_exemplar_may_differ():
    net, given, _, _ = reading()
    for grid in ((5, 7), (1, 1), (64, 48)):
        keys = make_exemplar_keys(net, exemplar_tokens(net.config, grid))
        assert keys.candidates.shape[:2] == (1, 12)
        assert keys.candidates.min() >= 0 and keys.candidates.max() < math.prod(grid)


def test_items_are_independent():
    net, _, _, _ = reading()
    given, tokens = inputs(net.config, batch=3), exemplar_tokens(net.config, batch=3)
    rows = static_rows(net, given)
    together = forward(net, given, [rows._replace(exemplar=make_exemplar_keys(net, tokens))])
    for i in range(3):
        own = ExemplarTokens(tokens.target, tokens.labels._replace(tokens=tokens.labels.tokens[i:i + 1]),
                             tokens.patches[i:i + 1])
        alone = type(given)(**vars(given) | {name: getattr(given, name)[i:i + 1] for name in ("x", "context", "y")})
        out = forward(net, alone, [rows._replace(exemplar=make_exemplar_keys(net, own))])
        torch.testing.assert_close(together[i:i + 1], out, rtol=0, atol=1e-4)


@torch.inference_mode(False)
def test_training_starts_neutral_with_open_candidates_and_reaches_every_weight(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)  # as the trainer does
    net, given, rows, _ = reading()
    net.requires_grad_(True)
    initialize_model(net)
    tokens = exemplar_tokens(net.config)
    img, vec = torch.randn(1, 12, net.config.width), torch.ones(1, net.config.width)
    rows = [MaskRows(slice(None), None, None, make_exemplar_keys(net, tokens))]
    assert torch.equal(net.exemplar(0, img, vec, rows), img)
    keys = make_exemplar_keys(net, tokens).kv[0][0][0, 0, :, -PRUNE:]
    query = net.exemplar.reads[0].query(img)[0, :, -PRUNE:]
    assert (query @ keys.T > 0).all()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.1)
    out = forward(net, given, [static_rows(net, given)._replace(exemplar=make_exemplar_keys(net, tokens))])
    out.square().mean().backward()
    assert [name for name, weight in net.exemplar.named_parameters() if not weight.grad.any()] == []


@torch.inference_mode(False)
def test_a_start_finds_like_classes():
    """Before any training."""
    cfg = tiny.config(**READING)
    net = tiny.network(cfg)
    torch.manual_seed(0)
    initialize_exemplar(net.exemplar)
    grid = (8, 8)
    kinds = torch.randint(0, 19, (2, 2, 2), generator=torch.Generator().manual_seed(0))
    kinds = kinds.repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1)  # (2, 64): quarters of one class
    tokens = torch.nn.functional.one_hot(kinds, 19).float().repeat_interleave(cfg.mask_cells ** 2, -1)
    target, other = (side(1, grid)._replace(tokens=x[None]) for x in (tokens[0], tokens[0].flip(0)))
    (candidates, _), _ = net.exemplar.run_static_path(ExemplarTokens(target, other, torch.zeros(1, 64, 48)))
    agree = kinds[0].flip(0)[candidates[0, :, :cfg.exemplar_candidates]] == kinds[0][:, None]
    assert agree.float().mean() > 0.9


# Through the host


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return host.load_mdit(tiny.write(tmp_path_factory.mktemp("model") / "reading.safetensors", tiny.config(**READING)))


@pytest.fixture
def texts(reader):
    return tiny.conditioning(reader.clip, "young woman, blond hair"), tiny.conditioning(reader.clip, "")


def exemplified(text, mask, exemplar, strength=1.0, *reference):
    return [[tokens, {key: value.with_exemplar(exemplar, strength) if key == "mdit_mask" else value
                      for key, value in extra.items()}] for tokens, extra in masked(text, mask, *reference)]


def test_a_file_with_a_branch_is_sampled_and_older_files_have_none(reader, texts, tmp_path):
    assert tiny.CONFIG.exemplar_blocks == ()
    fields = json.loads(tiny.CONFIG.to_metadata()[CONFIG_KEY])
    del fields["exemplar_blocks"], fields["exemplar_candidates"]
    assert MDiTConfig.from_metadata(tiny.CONFIG.to_metadata() | {CONFIG_KEY: json.dumps(fields)}) == tiny.CONFIG
    cfg = tiny.config(**READING)
    assert MDiTConfig.from_metadata(cfg.to_metadata()) == cfg
    assert any(name.startswith("exemplar.") for name in load_file(tiny.write(tmp_path / "branch.safetensors", cfg)))
    out, report = run(reader.model, exemplified(texts[0], tiny.mask(), tiny.exemplar()), texts[1])
    assert out.isfinite().all() and report.passes == 2  # of the mask and of the exemplar
    assert not torch.equal(out, run(reader.model, masked(texts[0], tiny.mask()), texts[1])[0])


@pytest.mark.parametrize("blocks", [(2, 0), (1, 1), (3,), (-1,)])
def test_blocks_that_are_not_there_are_refused(blocks):
    with pytest.raises(ValueError, match="exemplar_blocks"):
        tiny.config(exemplar_blocks=blocks)
    with pytest.raises(ValueError, match="exemplar_candidates 0"):
        tiny.config(exemplar_candidates=0)


def test_cached_is_uncached_over_steps_seeds_and_both_halves(reader, texts):
    mask, exemplar = tiny.mask(reduction="merge"), tiny.exemplar()
    for positive, negative in ((exemplified(texts[0], mask, exemplar), texts[1]),
                               (exemplified(texts[0], mask, exemplar), exemplified(texts[1], mask, exemplar, 0.5)),
                               (masked(texts[0], mask), exemplified(texts[1], mask, exemplar))):
        for seed in (0, 1):
            expected, report = run(reader.model, positive, negative, OFF, seed=seed)
            assert report.passes > 2
            torch.testing.assert_close(run(reader.model, positive, negative, seed=seed)[0], expected, **TOLERANCE)
    assert len(mask.store.get_cache(CPU).entries) == len(exemplar.store.get_cache(CPU).entries) == 1
    assert run(reader.model, positive, negative, seed=2)[1].passes == 0


def test_an_exemplar_of_strength_zero_is_none(reader, texts):
    mask, exemplar = tiny.mask(), tiny.exemplar()
    out, _ = run(reader.model, exemplified(texts[0], mask, exemplar, 0.0), texts[1])
    assert torch.equal(out, run(reader.model, masked(texts[0], mask), texts[1])[0])
    assert not exemplar.store.get_cache(CPU).entries


def test_an_exemplar_is_read_when_its_mask_is(reader, texts):
    mask = tiny.mask()
    never = exemplified(texts[0], mask, tiny.exemplar(), 1.0, 1.0, 0.9999, 1.0)
    assert torch.equal(run(reader.model, never, texts[1])[0], run(reader.model, texts[0], texts[1])[0])


def test_eight_bits_and_offloading(reader, texts):
    positive = exemplified(texts[0], tiny.mask(), tiny.exemplar())
    exact = run(reader.model, positive, texts[1])[0]
    torch.testing.assert_close(run(reader.model, positive, texts[1], CacheOptions(offload=True))[0], exact, **TOLERANCE)
    small = run(reader.model, positive, texts[1], CacheOptions("8-bit"))[0]
    effect = (exact - run(reader.model, masked(texts[0], tiny.mask()), texts[1])[0]).abs().mean()
    assert (small - exact).abs().mean() < 0.2 * effect


def test_a_batch_reads_one_exemplar_each_or_one_for_all(reader, texts):
    latent = torch.zeros(2, 3, SIDE, SIDE)
    one, two = tiny.exemplar(), tiny.exemplar(2)
    both, _ = run(reader.model, exemplified(texts[0], tiny.mask(), two), texts[1], latent=latent)
    shared, _ = run(reader.model, exemplified(texts[0], tiny.mask(), one), texts[1], latent=latent)
    torch.testing.assert_close(both[0], shared[0], rtol=0, atol=1e-4)  # whose first pictures are the same
    assert not torch.allclose(both[1], shared[1], atol=1e-3)
    with pytest.raises(ValueError, match="exemplar: 2 images for 3 latents"):
        run(reader.model, exemplified(texts[0], tiny.mask(), two), texts[1], latent=(3, 3, SIDE, SIDE))


def test_each_region_finds_its_place_in_the_whole_exemplar(reader, texts):
    from nodes import ConditioningSetArea
    mask, exemplar = tiny.mask(), tiny.exemplar()
    region = ConditioningSetArea().append(exemplified(texts[0], mask, exemplar), 64, 64, 64, 64, 1.0)[0]
    positive = texts[0] + region
    expected, _ = run(reader.model, positive, texts[1], OFF, steps=1)
    torch.testing.assert_close(run(reader.model, positive, texts[1], steps=1)[0], expected, **TOLERANCE)
    changed = texts[0] + ConditioningSetArea().append(masked(texts[0], mask), 64, 64, 64, 64, 1.0)[0]
    difference = (run(reader.model, changed, texts[1], steps=1)[0] - expected).abs().amax((0, 1))
    assert difference[8:, 8:].min() > 0 and difference[:8].max() == 0 == difference[:, :8].max()


def test_a_model_without_a_branch_is_named(loaded, texts):
    positive = exemplified(tiny.conditioning(loaded.clip, "man"), tiny.mask(), tiny.exemplar())
    with pytest.raises(ValueError, match=r"model: 'tiny.safetensors' \(MDiTBaseModel\) has no branch"):
        run(loaded.model, positive, tiny.conditioning(loaded.clip, ""))
    masks_only = exemplified(tiny.conditioning(loaded.clip, "man"), tiny.mask(), tiny.exemplar(), 0.0)
    run(loaded.model, masks_only, tiny.conditioning(loaded.clip, ""))


def test_the_cache_info_counts_exemplars(reader, texts):
    mask, exemplar = tiny.mask(), tiny.exemplar()
    positive = exemplified(texts[0], mask, exemplar)
    run(reader.model, positive, texts[1])
    found = list_entries(positive)
    assert found.entries == [*mask.store.list_entries(), *exemplar.store.list_entries()]
    assert found.nbytes == mask.store.get_cache(CPU).nbytes + exemplar.store.get_cache(CPU).nbytes
    planned = len(READING["exemplar_blocks"]) * 16 * (2 * tiny.CONFIG.width + MATCH + PRUNE) * 4
    assert planned <= exemplar.store.get_cache(CPU).nbytes < 1.5 * planned + 16 * (10 * 8 + MATCH * 4)


def test_the_host_is_told_of_the_memory(reader, texts):
    mask, exemplar = tiny.mask(), tiny.exemplar()
    run(reader.model, exemplified(texts[0], mask, exemplar), texts[1])
    for patcher in exemplar.store.patchers.values():
        assert patcher.model_size() == exemplar.store.get_cache(CPU).nbytes > 0


def test_palette_models_encode_the_exemplars_map_too(tmp_path):
    cfg = tiny.config(**READING, mask_tokenizer="vae_palette", own_mask_weights=False, lora_rank=2)
    loaded = host.load_mdit(tiny.write(tmp_path / "palette.safetensors", cfg))
    text = tiny.conditioning(loaded.clip, "man")
    positive = exemplified(text, tiny.mask(vae=loaded.vae), tiny.exemplar(vae=loaded.vae))
    out, report = run(loaded.model, positive, text)
    torch.testing.assert_close(out, run(loaded.model, positive, text, OFF)[0], **TOLERANCE)
    assert report.passes == 2

"""Candidates and sparse attention: their rules, and that chunks change nothing."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.model_management
from mditface.mdit.shared import candidates, sparse_attention
from mditface.mdit.shared.sparse_attention import Keys, Projections, SparseOptions, attend_sparsely, split_chunks

SIDES = st.integers(1, 5)


def random_candidates(batch, count, k, keys, seed):
    return torch.randint(0, keys, (batch, count, k), generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(rows=SIDES, columns=SIDES, k=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_child_has_its_candidate_as_parent(rows, columns, k, seed):
    parents = random_candidates(2, 3, k, rows * columns, seed)
    found = candidates.expand_to_children(parents, columns).unflatten(-1, (k, 4))
    y, x = found // (2 * columns), found % (2 * columns)
    assert ((y // 2 * columns + x // 2) == parents[..., None]).all()
    assert (y % 2 * 2 + x % 2 == torch.arange(4)).all()  # top left, top right, bottom left, bottom right


def propagate_one_by_one(own, queries, keys):
    """The rule as it stands, for one query and one candidate at a time."""
    batch, _, k = own.shape
    found = torch.empty(batch, queries[0] * queries[1], 5 * k, dtype=torch.long)
    for b in range(batch):
        for y in range(queries[0]):
            for x in range(queries[1]):
                entries = own[b, y * queries[1] + x].tolist()
                for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    ny, nx = y + dy, x + dx
                    inside = 0 <= ny < queries[0] and 0 <= nx < queries[1]
                    for index in own[b, ny * queries[1] + nx if inside else y * queries[1] + x].tolist():
                        ky = min(max(index // keys[1] - dy, 0), keys[0] - 1)
                        kx = min(max(index % keys[1] - dx, 0), keys[1] - 1)
                        entries.append(ky * keys[1] + kx)
                found[b, y * queries[1] + x] = torch.tensor(entries)
    return found


@settings(deadline=None, max_examples=40)
@given(queries=st.tuples(SIDES, SIDES), keys=st.tuples(SIDES, SIDES), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_propagation(queries, keys, k, seed):
    own = random_candidates(2, queries[0] * queries[1], k, keys[0] * keys[1], seed)
    found = candidates.propagate_candidates(own, queries, keys)
    assert torch.equal(found, propagate_one_by_one(own, queries, keys))


@settings(deadline=None, max_examples=40)
@given(rows=SIDES, columns=SIDES, seed=st.integers(0, 99))
def test_windows_and_back(rows, columns, seed):
    grid = 2 * rows, 2 * columns
    positions = torch.arange(grid[0] * grid[1])[None, :, None]
    cut = candidates.split_2x2(positions, grid)  # (1, N / 4, 4, 1)
    assert torch.equal(cut[0, :, :, 0], candidates.expand_to_children(torch.arange(rows * columns)[:, None], columns))
    x = normal(2, grid[0] * grid[1], 3, seed=seed)
    assert torch.equal(candidates.join_2x2(candidates.split_2x2(x, grid), grid), x)


@settings(deadline=None, max_examples=40)
@given(batch=st.integers(1, 3), lists=st.integers(1, 7), shared=st.sampled_from([1, 4]), count=st.integers(3, 9),
       dense=st.booleans(), chunk=st.integers(1, 400), warp_kept=st.booleans(), seed=st.integers(0, 99))
def test_chunks_change_nothing(batch, lists, shared, count, dense, chunk, warp_kept, seed):
    n, m = lists * shared, 11
    query = Projections(normal(batch, n, 5, seed=seed), normal(batch, n, 2, seed=seed + 2))
    key = Projections(normal(batch, m, 5, seed=seed + 1), normal(batch, m, 2, seed=seed + 3))
    value = normal(batch, m, 4, seed=seed + 7)
    image = normal(batch, m, 3, seed=seed + 8)
    listed = None if dense else random_candidates(batch, lists, count, m, seed)
    options = SparseOptions(0.1, 3, warp_kept)

    def found(numbers):
        before, sparse_attention.CHUNK = sparse_attention.CHUNK, numbers
        try:
            return attend_sparsely(query, key, value, listed, options, image)
        finally:
            sparse_attention.CHUNK = before
    for one, other in zip(found(chunk), found(1 << 30)):
        torch.testing.assert_close(one, other)


def attend_one_by_one(query, key, value, listed, tau):
    """Attention of the queries in a loop: output, conf, and the candidates from the best on."""
    rows = []
    for b in range(len(value)):
        for i in range(query.score.shape[1]):
            at = listed[b, i * listed.shape[1] // query.score.shape[1]]
            s = key.score[b, at] @ query.score[b, i] / tau
            weights = s.softmax(0) * (key.prune[b, at] @ query.prune[b, i] > 0)
            rows.append((weights @ value[b, at], weights.sum(), at[s.argsort(descending=True)]))
    return [torch.stack(part).unflatten(0, query.score.shape[:2]) for part in zip(*rows)]


@pytest.mark.parametrize("shared", [1, 4])
def test_attention_is_its_formula(shared):
    n, m = 3 * shared, 10
    query = Projections(normal(2, n, 5, seed=0), normal(2, n, 3, seed=1))
    key = Projections(normal(2, m, 5, seed=2), normal(2, m, 3, seed=3))
    value, listed = normal(2, m, 4, seed=4), random_candidates(2, 3, 6, m, 5)
    found = attend_sparsely(query, key, value, listed, SparseOptions(0.5, 6))
    output, conf, chosen = attend_one_by_one(query, key, value, listed, 0.5)
    torch.testing.assert_close(found.output, output)
    torch.testing.assert_close(found.conf[..., 0], conf)
    assert torch.equal(found.chosen, chosen) and found.warped is None


def test_a_candidate_listed_twice_counts_twice():
    query = Projections(torch.zeros(1, 1, 2), torch.ones(1, 1, 1))
    key = Projections(torch.zeros(1, 2, 2), torch.ones(1, 2, 1))
    value = torch.tensor([[[0.0], [3.0]]])
    found = attend_sparsely(query, key, value, torch.tensor([[[0, 1, 1]]]), SparseOptions(1.0, 3))
    torch.testing.assert_close(found.output, torch.tensor([[[2.0]]]))
    assert found.chosen.sort().values.tolist() == [[[0, 1, 1]]]


def test_what_is_warped():
    """What the test rejects; everything where it rejects nothing; or what it keeps."""
    query = Projections(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    key = Projections(torch.zeros(1, 3, 1), torch.tensor([[[1.0], [-1.0], [-1.0]]]))
    image = torch.tensor([[[1.0], [2.0], [4.0]]])
    for kept, expected in ((False, 3.0), (True, 1.0)):
        options = SparseOptions(1.0, warp_kept=kept)
        assert attend_sparsely(query, key, image, None, options, image).warped.item() == expected
    all_kept = key._replace(prune=key.prune.abs())
    found = attend_sparsely(query, all_kept, image, None, SparseOptions(1.0), image)
    torch.testing.assert_close(found.warped.item(), 7 / 3)


def test_scores_are_float32_in_half_precision():
    query = Projections(normal(1, 30, 8, seed=0).bfloat16(), normal(1, 30, 2, seed=2).bfloat16())
    key = Projections(normal(1, 30, 8, seed=1).bfloat16(), normal(1, 30, 2, seed=3).bfloat16())
    value = normal(1, 30, 4, seed=5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_sparsely(query, key, value, None, SparseOptions(0.01, 4))
    query = Projections(query.score.float(), query.prune.float())
    key = Projections(key.score.float(), key.prune.float())
    exact = attend_sparsely(query, key, value.float(), None, SparseOptions(0.01, 4))
    assert torch.equal(found.chosen, exact.chosen) and torch.equal(found.output, exact.output)


@pytest.mark.parametrize("dense", [False, True])
def test_an_interrupt_ends_the_chunks(dense, monkeypatch):
    monkeypatch.setattr(sparse_attention, "CHUNK", 1)
    query = Projections(torch.zeros(1, 4, 2), torch.zeros(1, 4, 1))
    keys = Keys(*query, torch.zeros(1, 4, 1), None)
    chunks = split_chunks(query, keys, None if dense else torch.zeros(1, 4, 2, dtype=torch.int64))
    next(chunks)
    comfy.model_management.interrupt_current_processing()
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            next(chunks)
    finally:
        comfy.model_management.interrupt_current_processing(False)


def test_too_few_candidates_are_refused():
    with pytest.raises(ValueError, match="top_k: 4 candidates are to be kept of 3"):
        candidates.select_best(torch.zeros(1, 1, 3), None, 4)


@pytest.mark.parametrize("dense", [False, True])
def test_a_card_takes_chunks_of_sixteen_times_the_size(dense):
    def count_chunks(device):
        keys = Keys(*(torch.zeros(1, 4096, width, device=device) for width in (64, 16, 64)), None)
        query = Projections(torch.zeros(1, 4096, 64, device=device), torch.zeros(1, 4096, 16, device=device))
        candidates = None if dense else torch.zeros(1, 4096, 20, dtype=torch.int64, device=device)
        return sum(1 for _ in split_chunks(query, keys, candidates))
    few, many = count_chunks("meta"), count_chunks("cpu")
    assert (few, many) == ((1, 16) if dense else (1, 12))

"""Windows, their masks and proxies, against what they mean, for any grid and window."""
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.shared.windows import MASKED, build_layout

SIDES = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
FEW = settings(max_examples=60, deadline=None)


@st.composite
def layouts(draw):
    """(grid, window, proxies)."""
    window = draw(SIDES)
    proxies = tuple(draw(st.sampled_from([n for n in range(1, side + 1) if side % n == 0])) for side in window[1:])
    return draw(SIDES), window, proxies


def tokens(grid, batch=1):
    """Each token holds its frame, row and column, and the item."""
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    positions = torch.stack(axes, dim=-1).flatten(0, 2)
    items = torch.arange(float(batch)).view(-1, 1, 1).expand(batch, len(positions), 1)
    return torch.cat((positions.expand(batch, -1, -1), items), dim=-1)


def tokens_of(partition, count):
    """The token of each slot (nw, P), -1 in an empty one."""
    found = torch.full_like(partition.token_of_slot, -1)
    found[partition.slot_of_token] = torch.arange(count)
    return found.view(-1, partition.slots)


@FEW
@given(layouts(), st.integers(1, 2))
def test_tokens_come_back_to_their_positions(layout, batch):
    grid, window, proxies = layout
    x = tokens(grid, batch)
    made = build_layout(grid, window, proxies, x)
    for partition in (made.plain, made.shifted):
        assert torch.equal(partition.join(partition.split(x)), x)
        assert sorted(partition.slot_of_token.tolist()) == partition.slot_of_token.unique().tolist()


@FEW
@given(layouts(), st.integers(1, 2))
def test_tokens_attend_exactly_to_the_real_tokens_of_their_window(layout, batch):
    grid, window, proxies = layout
    x = tokens(grid, batch)
    for name, shift in (("plain", (0, 0, 0)), ("shifted", [side // 2 for side in window])):
        partition = getattr(build_layout(grid, window, proxies, x), name)
        bias = partition.bias
        if bias is None:
            count = len(x) * len(partition.token_of_slot) // partition.slots
            bias = torch.zeros(count, partition.slots, partition.slots)
        assert set(bias.unique().tolist()) <= {0.0, MASKED}
        allowed = torch.zeros(len(x[0]), len(x[0]), dtype=torch.bool)
        for i, window_slots in enumerate(tokens_of(partition, len(x[0])).tolist()):
            for a, token in enumerate(window_slots):
                for b, other in enumerate(window_slots):
                    if token >= 0:
                        assert other >= 0 or bias[i, a, b] == MASKED
                        allowed[token, other] |= other >= 0 and bias[i, a, b] == 0
        number = torch.stack([(x[0, :, axis] + w - s) // w for axis, (w, s) in enumerate(zip(window, shift))], dim=-1)
        assert torch.equal(allowed, (number[:, None] == number[None]).all(-1))


@FEW
@given(layouts())
def test_proxies_average_their_tokens(layout):
    grid, window, proxies = layout
    x = torch.randn(2, math.prod(grid), 3, generator=torch.Generator().manual_seed(0))
    positions = tokens(grid)[0].long()
    groups = {}
    for token, (frame, row, column, _) in enumerate(positions.tolist()):
        own = [position // side for position, side in zip((frame, row, column), window)]
        part = [position % side % count for position, side, count in zip((row, column), window[1:], proxies)]
        groups.setdefault((*own, *part), []).append(token)
    expected = torch.stack([x[:, groups[key]].mean(1) for key in sorted(groups)], dim=1)
    torch.testing.assert_close(build_layout(grid, window, proxies, x).pool.average(x), expected)


def test_nothing_is_masked_where_windows_fit():
    made = build_layout((1, 8, 4), (1, 4, 4), (1, 1), torch.empty(3, 32, 1))
    assert made.plain.bias is None and made.pool.real is None
    assert made.shifted.bias.shape == (3 * 2, 16, 16)

"""Windows, their masks and proxies, against what they mean, for any grid and window."""
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.shared.windows import MASKED, lay_out

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
    places = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij"), dim=-1).flatten(0, 2)
    items = torch.arange(float(batch)).view(-1, 1, 1).expand(batch, len(places), 1)
    return torch.cat((places.expand(batch, -1, -1), items), dim=-1)


def slots(cut, count):
    """The token of each slot (nw, P), -1 in an empty one."""
    found = torch.full_like(cut.index, -1)
    found[cut.slot] = torch.arange(count)
    return found.view(-1, cut.slots)


@FEW
@given(layouts(), st.integers(1, 2))
def test_tokens_come_back_to_their_places(layout, batch):
    grid, window, proxies = layout
    x = tokens(grid, batch)
    made = lay_out(grid, window, proxies, x)
    for cut in (made.plain, made.shifted):
        assert torch.equal(cut.join(cut.split(x)), x)
        assert sorted(cut.slot.tolist()) == cut.slot.unique().tolist()


@FEW
@given(layouts(), st.integers(1, 2))
def test_tokens_attend_exactly_to_the_real_tokens_of_their_window(layout, batch):
    grid, window, proxies = layout
    x = tokens(grid, batch)
    for name, shift in (("plain", (0, 0, 0)), ("shifted", [side // 2 for side in window])):
        cut = getattr(lay_out(grid, window, proxies, x), name)
        bias = torch.zeros(len(x) * len(cut.index) // cut.slots, cut.slots, cut.slots) if cut.bias is None else cut.bias
        assert set(bias.unique().tolist()) <= {0.0, MASKED}
        allowed = torch.zeros(len(x[0]), len(x[0]), dtype=torch.bool)
        for i, window_slots in enumerate(slots(cut, len(x[0])).tolist()):
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
    places = tokens(grid)[0].long()
    groups = {}
    for token, (frame, row, column, _) in enumerate(places.tolist()):
        own = [place // side for place, side in zip((frame, row, column), window)]
        part = [place % side % count for place, side, count in zip((row, column), window[1:], proxies)]
        groups.setdefault((*own, *part), []).append(token)
    expected = torch.stack([x[:, groups[key]].mean(1) for key in sorted(groups)], dim=1)
    torch.testing.assert_close(lay_out(grid, window, proxies, x).pool.average(x), expected)


def test_nothing_is_masked_where_windows_fit():
    made = lay_out((1, 8, 4), (1, 4, 4), (1, 1), torch.empty(3, 32, 1))
    assert made.plain.bias is None and made.pool.real is None
    assert made.shifted.bias.shape == (3 * 2, 16, 16)

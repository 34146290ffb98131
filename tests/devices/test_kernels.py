"""The mask's attention takes only kernels that the card has, and gives what one attention over all keys gives."""
import pytest
import torch

from comfy.ldm.modules.attention import attention_pytorch
from mditface.mdit.mditface import local_window
from mditface.mdit.mditface.attention import AttentionCall, MaskRows, ReadPattern, attend_masks, attend_with_lse
from mditface.tests.devices.host import pretend_cards
from mditface.tests.devices.kernels import Refused

CARDS = [(7, 5), (8, 0), (9, 0)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS, TEXT, GRID = 2, 3, (5, 6)
LENGTH = TEXT + GRID[0] * GRID[1]
MASK = GRID[0] * GRID[1]


def draw(*shape, seed: int, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_rows(k, v, kind: str) -> tuple[list[MaskRows], ReadPattern]:
    """The keys as a mask without a bias, with one, or in windows."""
    rows = slice(0, 2)
    if kind == "windows":
        kv = [local_window.cut_strips(x, GRID, 2) for x in (k, v)]
        bias = local_window.make_strip_bias(GRID, 2, HEADS, k)
        return [MaskRows(rows, [kv], bias)], ReadPattern(TEXT, False, 2, GRID)
    bias = draw(1, MASK, seed=9).to(k.device) if kind == "bias" else None
    return [MaskRows(rows, [(k, v)], bias)], ReadPattern(TEXT)


def attend(tensors, kind: str, heads: int = HEADS):
    q, k, v, mask_k, mask_v = tensors

    def kernel(q, k, v, mask):
        return attention_pytorch(q, k, v, heads, mask=mask, skip_reshape=True)
    rows, pattern = make_rows(mask_k, mask_v, kind)
    return attend_masks(AttentionCall(q, k, v, None, kernel), rows, 0, pattern, True)


@pytest.mark.parametrize("capability", CARDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 20, 64])
@pytest.mark.parametrize("kind", ["plain", "bias", "windows"])
@torch.inference_mode()
def test_every_card_reads_masks(capability, dtype, width, kind):
    lengths = (LENGTH, LENGTH, LENGTH, MASK, MASK)
    batches = (2, 2, 2, 1, 1)
    tensors = [draw(batch, HEADS, length, width, seed=i, dtype=dtype)
               for i, (batch, length) in enumerate(zip(batches, lengths))]
    expected = attend([x.double() for x in tensors], kind)
    with pretend_cards(capability):
        found = attend([x.to("cuda:0") for x in tensors], kind).cpu()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("capability, dtype, width, biased", [
    ((7, 5), torch.bfloat16, 64, True), ((7, 5), torch.float16, 20, True), ((9, 0), torch.float16, 20, True),
    ((9, 0), torch.float32, 6, True)])
def test_the_stand_ins_refuse_what_real_kernels_refuse(capability, dtype, width, biased):
    with pretend_cards(capability):
        q = draw(1, 1, 4, width, seed=0, dtype=dtype).to("cuda:0")
        with pytest.raises(Refused):
            attend_with_lse(q, q, q, torch.zeros(1, 1, 1, 4, device="cuda:0"))


def test_flash_pads_no_head_width():
    with pretend_cards():
        q = draw(1, 1, 4, 20, seed=0, dtype=torch.float16).to("cuda:0")
        with pytest.raises(Refused, match="multiple of 8"):
            torch.ops.aten._scaled_dot_product_flash_attention(q, q, q)

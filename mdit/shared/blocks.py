"""The blocks of this pack's transformers under the host's patches."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn as nn

from .origins import check_blocks


def run_double_blocks(blocks: nn.ModuleList, depth: int, args: dict, call: Callable[[nn.Module, int, dict], dict],
                      transformer_options: dict) -> dict:
    """Runs blocks of image and text as the host's nodes expect it: they may replace a block or come after each.

    args: what the first block gets under the host's names, `img` and `txt` among it.
    call: runs the block of an index with such arguments and gives the `img`, or `img` and `txt`, of the next.
    Returns the arguments after the last block. Raises ValueError where another node replaced the list of blocks.
    """
    check_blocks(blocks, depth)
    replace = transformer_options.get("patches_replace", {}).get("dit", {})
    after = transformer_options.get("patches", {}).get("double_block", [])
    options = {**transformer_options, "total_blocks": depth, "block_type": "double"}
    args = {**args, "transformer_options": options}
    for i, block in enumerate(blocks):
        options["block_index"] = i

        def run(args, block=block, i=i):
            return call(block, i, args)

        patch = replace.get(("double_block", i))
        out = run(args) if patch is None else patch(args, {"original_block": run})
        for p in after:
            out = p({"txt": args["txt"], **out, "block_index": i, "transformer_options": options})
        args = {**args, "img": out["img"], "txt": out.get("txt", args["txt"])}
    return args

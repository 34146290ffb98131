"""The host's library without its server."""
from __future__ import annotations

import sys

import torch

from comfy.cli_args import args


def prepare_host() -> None:
    """Chooses the host's device and attention. Command line modules call it before they import more of the host.

    Inside a running host it changes nothing.
    """
    if "comfy.model_management" in sys.modules:  # it reads the arguments when it is imported
        return
    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True

"""The host's library without its server: choose the device before anything of it is imported."""
from __future__ import annotations

import torch

from comfy.cli_args import args

args.cpu = not torch.cuda.is_available()
args.use_pytorch_cross_attention = True

import comfy.model_management  # noqa: E402  (reads args when imported)


def set_training() -> None:
    """Lets the host take operations with a gradient."""
    comfy.model_management.in_training = True

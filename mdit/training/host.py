"""The host's library without its server: choose the device before anything of it is imported. Inside a running host
nothing is chosen."""
from __future__ import annotations

import sys

import torch

from comfy.cli_args import args

if "comfy.model_management" not in sys.modules:  # which reads them when it is imported
    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True

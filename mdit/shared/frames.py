"""Pictures for models and VAEs whose latents have frames, such as Qwen-Image's: a picture is a video of one frame."""
from __future__ import annotations

import torch
from torch import Tensor


def has_frames(latent_format) -> bool:
    return latent_format.latent_dimensions == 3


def encode_pictures(vae, pictures: Tensor) -> Tensor:
    """Latents (b, C, h, w) of pictures (b, H, W, 3) in 0..1.

    A VAE of videos takes a batch for one video, and the host crops a batch of videos to no frame.
    """
    if getattr(vae, "latent_dim", 2) == 3:
        return torch.cat([vae.encode(picture[None]) for picture in pictures])[:, :, 0]
    return vae.encode(pictures)


def decode_pictures(vae, latents: Tensor) -> Tensor:
    """Pictures (b, H, W, 3) of latents (b, C, h, w)."""
    if getattr(vae, "latent_dim", 2) == 3:
        return vae.decode(latents[:, :, None])[:, 0]
    return vae.decode(latents)


def scale_in(model, latents: Tensor) -> Tensor:
    """Latents (b, C, h, w) of a VAE as a base model of the host works on them."""
    if has_frames(model.latent_format):
        return model.process_latent_in(latents[:, :, None])[:, :, 0]
    return model.process_latent_in(latents)


def scale_out(model, latents: Tensor) -> Tensor:
    """Inverse of `scale_in`."""
    if has_frames(model.latent_format):
        return model.process_latent_out(latents[:, :, None])[:, :, 0]
    return model.process_latent_out(latents)

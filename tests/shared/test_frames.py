"""Pictures for the host's VAEs of videos."""
import torch

import comfy.sd
from mditface.mdit.shared.frames import encode_pictures


class VideoVAE:
    """The host's way from pictures to frames, with the mean of each cell of 8 x 8 pixels as the latent."""
    latent_dim = 3
    crop_input = True
    output_channels = 3

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        pixels = comfy.sd.VAE.vae_encode_crop_pixels(self, pixels).movedim(-1, 1)
        if pixels.ndim < 5:
            pixels = pixels.movedim(1, 0).unsqueeze(0)  # a batch is one video
        return torch.nn.functional.avg_pool3d(pixels, (1, 8, 8))


def test_each_picture_is_a_video_of_one_frame():
    pictures = torch.rand(3, 20, 16, 3, generator=torch.Generator().manual_seed(0))
    latents = encode_pictures(VideoVAE(), pictures)
    expected = torch.nn.functional.avg_pool2d(pictures[:, 2:18].movedim(-1, 1), 8)  # cropped to whole cells
    torch.testing.assert_close(latents, expected)

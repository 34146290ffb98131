"""The UNet of Stable Diffusion 1.5 at its full size, as the host builds it."""

UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2, 2],
            channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1,
            transformer_depth_output=[1] * 9 + [0] * 3, context_dim=768, num_heads=8, num_head_channels=-1,
            use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False)

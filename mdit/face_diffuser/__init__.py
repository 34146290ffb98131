"""Two models on one image, fused by saliency: Face-diffuser (arXiv 2311.10329), for any pair of one latent space."""

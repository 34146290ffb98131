"""MMFace-DiT, a diffusion transformer for faces from a label map or sketch and a text (arXiv 2603.29029)."""

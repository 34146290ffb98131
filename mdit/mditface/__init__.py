"""MDiTFace: a diffusion transformer with an image, a text and a time-independent mask stream."""

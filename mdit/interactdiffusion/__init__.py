"""InteractDiffusion on the host's Stable Diffusion 1.x models: who does what to whom (arXiv 2312.05849)."""

"""InteractDiffusion (arXiv 2312.05849): interactions in boxes, on Stable Diffusion 1.x models of the host."""

"""PT-DiT, the proxy-tokenised diffusion transformer of Qihoo-T2X (arXiv 2409.04005)."""

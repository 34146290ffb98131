"""PT-DiT, the proxy-tokenized diffusion transformer of Qihoo-T2X (arXiv 2409.04005)."""

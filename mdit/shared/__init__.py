"""Kernels and file readers that several systems use."""

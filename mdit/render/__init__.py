"""Renderer of labelled synthetic heads: the training data of the bundled model."""

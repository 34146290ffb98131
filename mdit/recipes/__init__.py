"""Targets, configurations and commands that make the bundled weights. The laboratory is not packed."""

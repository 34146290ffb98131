"""What makes the bundled weights: targets, settings and commands of the laboratory, which is not packed."""

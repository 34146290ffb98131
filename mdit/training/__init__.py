"""Making the bundled weights: data, trainer, judge and measures (bundled-model spec)."""

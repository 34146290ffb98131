"""How good a trained model is: images for a test set, measures, and a report."""

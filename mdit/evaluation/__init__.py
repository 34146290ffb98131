"""Generating, judging and reporting: how good a trained model is."""

"""A small face parser: the judge of how well a picture follows its label map."""

from .parser import WEIGHTS, FaceParser, load_parser, score

__all__ = ["WEIGHTS", "FaceParser", "load_parser", "score"]

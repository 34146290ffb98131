"""Face parsers: networks that find the classes of a face, and the agreement of an image with its label map."""

from .agreement import measure_agreement
from .parser import WEIGHTS, FaceParser, ParserConfig, load_parser

__all__ = ["WEIGHTS", "FaceParser", "ParserConfig", "load_parser", "measure_agreement"]

"""Face parsers: networks that find the classes of a face. Agreement, tilt and words of label maps of faces."""

from .agreement import measure_agreement
from .parser import WEIGHTS, FaceParser, ParserConfig, load_parser
from .words import LANGUAGES, describe_map, write_sentence

__all__ = [
    "LANGUAGES", "WEIGHTS", "FaceParser", "ParserConfig", "describe_map", "load_parser", "measure_agreement",
    "write_sentence",
]

"""Faces with label maps and captions, in every layout that `open_dataset` reads."""
from .buckets import find_bucket_sizes
from .cache import CachedDataset
from .faces import FaceDataset
from .layouts import open_dataset, open_faces
from .renders import Renders

__all__ = ["CachedDataset", "FaceDataset", "Renders", "find_bucket_sizes", "open_dataset", "open_faces"]

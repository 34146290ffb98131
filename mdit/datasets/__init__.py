"""Faces with label maps and captions, in every layout that `open_dataset` reads."""
from .buckets import bucket_sizes
from .cache import CachedDataset, file_digest
from .faces import FaceDataset
from .layouts import open_dataset, open_faces
from .renders import Renders

__all__ = ["CachedDataset", "FaceDataset", "Renders", "bucket_sizes", "file_digest", "open_dataset", "open_faces"]

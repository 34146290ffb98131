"""Faces with label maps and captions, in every layout that `open_dataset` reads."""
from .buckets import find_bucket_sizes
from .cache import CachedDataset, compute_file_digest
from .faces import FaceDataset
from .layouts import open_dataset, open_faces
from .renders import Renders

__all__ = ["CachedDataset", "FaceDataset", "Renders", "compute_file_digest", "find_bucket_sizes", "open_dataset",
           "open_faces"]

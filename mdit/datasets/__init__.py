"""Faces with label maps and captions, from every layout that they come in (docs: `open_dataset`)."""
from .buckets import Buckets, BucketSampler, batches, collate
from .cache import CachedDataset, file_digest
from .faces import FaceDataset, mirrored
from .layouts import open_dataset, open_faces

__all__ = ["Buckets", "BucketSampler", "CachedDataset", "FaceDataset", "batches", "collate", "file_digest",
           "mirrored", "open_dataset", "open_faces"]

"""The pack's nodes, one file a family."""
from . import conditioning, labelmap, loading, sampling

NODES = (*loading.NODES, *conditioning.NODES, *sampling.NODES, *labelmap.NODES)

"""The pack's nodes, one file a family."""
from . import adapter, conditioning, labelmap, loading, sampling

NODES = (*loading.NODES, *adapter.NODES, *conditioning.NODES, *sampling.NODES, *labelmap.NODES)

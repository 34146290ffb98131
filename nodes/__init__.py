"""The pack's nodes, one file a family."""
from . import (
    adapter, conditioning, exemplar, fusion, interaction, labelmap, loading, painter, parsing, preview, proxy, sampling,
    training,
)

NODES = (*loading.NODES, *adapter.NODES, *conditioning.NODES, *sampling.NODES, *labelmap.NODES,
         *painter.NODES, *training.NODES,
         *parsing.NODES, *preview.NODES, *interaction.NODES, *fusion.NODES, *proxy.NODES, *exemplar.NODES)

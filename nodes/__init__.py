"""The pack's nodes, one file a family."""
from . import (
    adapter, comparing, conditioning, dynast, face_diffuser, face_mogle, interactdiffusion, labelmap, loading, mmface,
    painter, parsing, preview, pt_dit, relief, sampling, training,
)

NODES = (*loading.NODES, *adapter.NODES, *face_mogle.NODES, *conditioning.NODES, *sampling.NODES, *labelmap.NODES,
         *painter.NODES, *relief.NODES, *training.NODES, *parsing.NODES, *preview.NODES, *comparing.NODES,
         *interactdiffusion.NODES, *face_diffuser.NODES, *pt_dit.NODES, *dynast.NODES, *mmface.NODES)

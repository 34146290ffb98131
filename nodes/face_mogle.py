"""Node that loads Face-MoGLE."""
from __future__ import annotations

from comfy_api.latest import io

from ..mdit.face_mogle.mixer import STEPS, ExpertMixer, load_gate
from ..mdit.mditface.adapter.weights import load_condition_adapter
from . import menu
from .adapter import FOLDERS
from .files import add_folder, check_file, find_file, list_files
from .types import MDiTAdapter

GATE_ENDINGS = (".pt", ".pth", ".bin", ".safetensors")
FROM_MAP = "from the map"
BLACK = "black"
CLASS_PICTURES = (FROM_MAP, BLACK)
GATE_TIMES = {"1000 sigma": STEPS, "sigma": 1}

add_folder(FOLDERS[0], endings=GATE_ENDINGS)


class LoadFaceMoGLE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadFaceMoGLE",
            display_name="Load Face-MoGLE",
            category=menu.PHOTO_MODELS,
            description="Loads Face-MoGLE, which draws photographs of painted faces with FLUX.1-dev: its LoRA and its "
                        "gate become one adapter for 'Apply Adapter (MDiT)'. Trained at 512 pixels. For non-commercial "
                        "use.",
            search_aliases=["Face-MoGLE", "mogle", "face photo", "mixture of experts", "label map to photo",
                            "mask to photo FLUX"],
            inputs=[
                io.Combo.Input("lora_name", options=list_files(*FOLDERS),
                               tooltip="The published pytorch_lora_weights.safetensors, in models/mdit_adapters or "
                                       "models/loras."),
                io.Combo.Input("gate_name", options=list_files(FOLDERS[0], endings=GATE_ENDINGS),
                               tooltip="The published global_local_mask_moe.pt (or mogle.pt), in "
                                       "models/mdit_adapters."),
                io.Combo.Input("class_pictures", options=list(CLASS_PICTURES), default=FROM_MAP, optional=True,
                               advanced=True,
                               tooltip="Pictures of the single classes. from the map: as in training. black: as the "
                                       "authors' programs draw them, so only the whole map counts."),
                io.Combo.Input("gate_time", options=list(GATE_TIMES), default=next(iter(GATE_TIMES)), optional=True,
                               advanced=True,
                               tooltip="Time that the gate sees. 1000 sigma: as in all sampling of the authors. "
                                       "sigma: as in training."),
            ],
            outputs=[MDiTAdapter.Output(display_name="adapter", tooltip="Adapter for 'Apply Adapter (MDiT)'.")],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None, gate_name: str | None) -> bool | str:
        found = check_file(lora_name, "lora_name", *FOLDERS)
        return found if found is not True else check_file(gate_name, "gate_name", FOLDERS[0], endings=GATE_ENDINGS)

    @classmethod
    def execute(cls, lora_name, gate_name, class_pictures=FROM_MAP, gate_time=next(iter(GATE_TIMES))
                ) -> io.NodeOutput:
        lora_path = find_file(lora_name, "lora_name", *FOLDERS)
        gate = load_gate(find_file(gate_name, "gate_name", FOLDERS[0], endings=GATE_ENDINGS))
        adapter = load_condition_adapter(lora_path, "lora_name")
        mixer = ExpertMixer(gate, class_pictures == BLACK, GATE_TIMES[gate_time])
        return io.NodeOutput(adapter.with_mixer(mixer))


NODES = (LoadFaceMoGLE,)

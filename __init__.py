"""MDiTFace for ComfyUI."""
from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"


class MDiTFaceExtension(ComfyExtension):
    async def on_load(self) -> None:
        from server import PromptServer

        from .nodes.routes import add_routes
        add_routes(PromptServer.instance.routes)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES
        from .nodes.values import check_values
        return list(map(check_values, NODES))


async def comfy_entrypoint() -> MDiTFaceExtension:
    return MDiTFaceExtension()

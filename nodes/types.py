"""Socket types of the pack."""
from comfy_api.latest import io

MDiTMask = io.Custom("MDIT_MASK")
MDiTAdapter = io.Custom("MDIT_ADAPTER")

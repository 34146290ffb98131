"""Socket types of the pack."""
from comfy_api.latest import io

MDiTMask = io.Custom("MDIT_MASK")
MDiTAdapter = io.Custom("MDIT_ADAPTER")
MDiTFaceParser = io.Custom("MDIT_FACE_PARSER")
FaceLandmarks = io.Custom("FACE_LANDMARKS")  # of the host's MediaPipe nodes
Interactions = io.Custom("MDIT_INTERACTIONS")
InteractionWeights = io.Custom("MDIT_INTERACTION_WEIGHTS")
FaceDiffuserSubject = io.Custom("FACE_DIFFUSER_SUBJECT")
DynaSTModel = io.Custom("DYNAST_MODEL")
DynaSTLabel = io.Custom("DYNAST_LABEL")
PoseKeypoints = io.Custom("POSE_KEYPOINT")  # of the host's pose nodes
BOXES = [io.BoundingBox, io.SEGS, io.BBOX]  # the host's, the Impact Pack's, and lists of left, top, right and bottom


def missing_input(tooltip: str) -> io.Input:
    """The input of nodes that find no face or person in an image."""
    return io.Combo.Input("missing", options=["error", "pass through"], default="error", optional=True, tooltip=tooltip)

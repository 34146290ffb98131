"""What can be trained: each target's settings, and the target made of them."""
from .adapter import AdapterSettings, AdapterTarget
from .base import Target
from .demo import DemoSettings, DemoTarget
from .judge import JudgeSettings, JudgeTarget

SETTINGS = {"demo": DemoSettings, "adapter": AdapterSettings, "judge": JudgeSettings}
TARGETS = {"demo": DemoTarget, "adapter": AdapterTarget.from_settings, "judge": JudgeTarget}

__all__ = ["SETTINGS", "TARGETS", "Target", "AdapterSettings", "AdapterTarget", "DemoSettings", "DemoTarget",
           "JudgeSettings", "JudgeTarget"]

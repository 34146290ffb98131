"""What can be trained: each target's settings, and the target made of them."""
from ...training.targets.adapter import AdapterSettings, AdapterTarget
from ...training.targets.base import Target
from ..encode import open_adapter, open_sd3
from .autoencoder import AutoencoderSettings, AutoencoderTarget
from .demo import DemoSettings, DemoTarget
from .dynast import DynaSTSettings, DynaSTTarget
from .judge import JudgeSettings, JudgeTarget
from .polish import PolishSettings, PolishTarget
from .relief import ReliefSettings, ReliefTarget
from .sd3 import SD3Settings, SD3Target

SETTINGS = {"demo": DemoSettings, "adapter": AdapterSettings, "judge": JudgeSettings, "sd3": SD3Settings,
            "dynast": DynaSTSettings, "autoencoder": AutoencoderSettings, "polish": PolishSettings,
            "relief": ReliefSettings}
TARGETS = {"demo": DemoTarget, "adapter": open_adapter, "judge": JudgeTarget,
           "sd3": open_sd3, "dynast": DynaSTTarget, "autoencoder": AutoencoderTarget,
           "polish": PolishTarget, "relief": ReliefTarget}

__all__ = ["SETTINGS", "TARGETS", "Target", "AdapterSettings", "AdapterTarget",
           "AutoencoderSettings", "AutoencoderTarget", "DemoSettings", "DemoTarget",
           "DynaSTSettings", "DynaSTTarget", "JudgeSettings", "JudgeTarget", "PolishSettings", "PolishTarget",
           "ReliefSettings", "ReliefTarget", "SD3Settings", "SD3Target"]

"""What the condition tokens of a joint stream are made of (docs/design/adapters.md, section 5.7)."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class OnePicture:
    """Makes the condition tokens of the mask's one encoded picture: they are its patches (OminiControl).

    A class with the same members may mix them of several pictures. It needs no base class: systems do not import each
    other (mdit/face_mogle).

    id: what the tokens depend on besides the mask, as a string.
    title: for the report.
    pictures: number of pictures of a label map. Those of several are drawn by `draw`, whose result `drawing` names.
    kept: how many numbers `prepare` returns for each number of one picture's tokens.
    """
    id = ""
    title = "OminiControl (Face-MoGLE's LoRA has the same keys: 'Load Face-MoGLE' loads it with its gate)"
    pictures = 1
    kept = 1

    def list_additional_models(self, patcher) -> list:
        """Patchers of weights that the tokens need, for a run of a MODEL."""
        return []

    def prepare(self, model, tokens: Tensor) -> tuple[Tensor, ...]:
        """What is kept for all steps of the pictures' patches (b * pictures, N, F); each with b rows."""
        return (tokens,)

    def mix(self, model, kept: Sequence[Tensor], noisy: Tensor, sigma: Tensor) -> Tensor:
        """The condition tokens (B, N, F) of what is kept, each (B, ...), at the steps sigma (B,).

        noisy: the patches of the noisy latent, (B, N, F).
        """
        return kept[0]

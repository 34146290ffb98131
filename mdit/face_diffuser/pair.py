"""Whether two MODELs can share a run (spec sections 10 and 11.2 i)."""
from __future__ import annotations

import torch

from comfy.model_patcher import ModelPatcher

KINDS = ("object_patches", "weight_wrapper_patches", "injections")  # of patches beside those of weights


def check_pair(scene: ModelPatcher, subject: ModelPatcher):
    """Raises ValueError unless both models read the same latents, noised the same way, and can be patched apart."""
    one, other = (latent_space(patcher) for patcher in (scene, subject))
    if one != other:
        raise ValueError(f"subject: a {name(subject)} reads other latents than the scene's {name(scene)} "
                         f"({described(other)} against {described(one)}): connect two models of one family")
    if noising(scene) != noising(subject):
        raise ValueError(f"subject: the {name(subject)} counts noise in another way than the scene's {name(scene)}: "
                         "one predicts noise, the other a flow; connect two models of one kind")
    check_patches(scene, subject, "subject", "scene")


def check_base(subject: ModelPatcher, base: ModelPatcher):
    """Raises ValueError unless the base is the subject's model with the same weights."""
    if not base.is_clone(subject):
        raise ValueError("subject_base_model: it is another model than 'subject': connect the same one, taken before "
                         "the node that adds the reference")
    check_patches(subject, base, "subject_base_model", "subject")


def check_patches(one: ModelPatcher, other: ModelPatcher, source: str, to: str):
    """Raises ValueError for MODELs of the same weights with other patches: the host keeps one patched state."""
    if other.is_clone(one) and not patched_alike(one, other):
        raise ValueError(f"{source}: it shares its weights with '{to}' but has other LoRAs or patches, and the host "
                         "keeps only one state of them: load it from a file of its own (a copy under another name), or "
                         "attach the LoRA to the conditioning by a hook")


def patched_alike(one: ModelPatcher, other: ModelPatcher) -> bool:
    weights = one.patches_uuid == other.patches_uuid or not (one.patches or other.patches)
    return weights and all(getattr(one, kind) == getattr(other, kind) for kind in KINDS)


def latent_space(patcher: ModelPatcher) -> tuple:
    latent = patcher.model.latent_format
    return type(latent), latent.latent_channels, latent.scale_factor, getattr(latent, "shift_factor", 0.0)


def described(space: tuple) -> str:
    kind, channels, scale, _ = space
    return f"{kind.__name__} with {channels} channels, scale {scale:g}"


def noising(patcher: ModelPatcher) -> tuple:
    sampling = type(patcher.get_model_object("model_sampling"))
    return sampling.noise_scaling, sampling.inverse_noise_scaling


def name(patcher: ModelPatcher) -> str:
    return type(patcher.model).__name__


def check_effect(positive: list, base: list):
    """Raises ValueError where two CONDITIONINGs are the same: the subject's response would be nothing, and it would win
    wherever the scene's is low (spec section 6)."""
    if len(positive) == len(base) and all(map(equal, positive, base)):
        raise ValueError("subject_positive: it is the same as subject_base, so that the reference never takes effect: "
                         "connect the conditioning with the reference to one and the text alone, or a negative, to the "
                         "other")


def equal(one: list, other: list) -> bool:
    """Whether two entries of a CONDITIONING hold the same."""
    return one[1].keys() == other[1].keys() and all(map(same, (one[0], *one[1].values()),
                                                        (other[0], *(other[1][key] for key in one[1]))))


def same(one, other) -> bool:
    return one is other or (torch.is_tensor(one) and torch.is_tensor(other) and torch.equal(one, other)) or (
        isinstance(one, (int, float, str)) and one == other)

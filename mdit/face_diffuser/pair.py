"""Whether two MODELs can share a run: docs/design/face-diffuser.md, sections 10 and 11.2."""
from __future__ import annotations

import torch

from comfy.model_patcher import ModelPatcher

PATCH_KINDS = ("object_patches", "weight_wrapper_patches", "injections")  # in addition to patches of weights


def check_pair(scene: ModelPatcher, subject: ModelPatcher):
    """Raises ValueError unless both models use the same latents, add noise the same way, and can be patched apart."""
    scene_space = read_latent_space(scene)
    subject_space = read_latent_space(subject)
    if scene_space != subject_space:
        raise ValueError(f"subject: a {name_model(subject)} uses other latents than the scene's {name_model(scene)} "
                         f"({describe_space(subject_space)} against {describe_space(scene_space)}): connect two models "
                         "of one family")
    if read_noise_convention(scene) != read_noise_convention(subject):
        raise ValueError(f"subject: the {name_model(subject)} measures noise in another way than the scene's "
                         f"{name_model(scene)}: one predicts noise, the other a flow; connect two models of one kind")
    check_patches(scene, subject, "subject", "scene")


def check_base(subject: ModelPatcher, base: ModelPatcher):
    """Raises ValueError unless the base is the subject's model with the same weights."""
    if not base.is_clone(subject):
        raise ValueError("subject_base_model: it is another model than 'subject': connect the same one, taken before "
                         "the node that adds the reference")
    check_patches(subject, base, "subject_base_model", "subject")


def check_patches(one: ModelPatcher, other: ModelPatcher, source: str, to: str):
    """Raises ValueError for MODELs with the same weights and other patches: the host keeps one patched state."""
    if other.is_clone(one) and not has_same_patches(one, other):
        raise ValueError(f"{source}: it shares its weights with '{to}' but has other LoRAs or patches, and the host "
                         "keeps only one state of them: load it from a file of its own (a copy under another name), or "
                         "attach the LoRA to the conditioning by a hook")


def has_same_patches(one: ModelPatcher, other: ModelPatcher) -> bool:
    weights = one.patches_uuid == other.patches_uuid or not (one.patches or other.patches)
    return weights and all(getattr(one, kind) == getattr(other, kind) for kind in PATCH_KINDS)


def read_latent_space(patcher: ModelPatcher) -> tuple:
    latent = patcher.model.latent_format
    return type(latent), latent.latent_channels, latent.scale_factor, getattr(latent, "shift_factor", 0.0)


def describe_space(space: tuple) -> str:
    kind, channels, scale, _ = space
    return f"{kind.__name__} with {channels} channels, scale {scale:g}"


def read_noise_convention(patcher: ModelPatcher) -> tuple:
    sampling = type(patcher.get_model_object("model_sampling"))
    return sampling.noise_scaling, sampling.inverse_noise_scaling


def name_model(patcher: ModelPatcher) -> str:
    return type(patcher.model).__name__


def check_effect(positive: list, base: list):
    """Raises ValueError if two CONDITIONINGs are the same.

    The subject's response would be zero, and the subject would win wherever the scene's saliency is low:
    docs/design/face-diffuser.md, section 6.
    """
    if len(positive) == len(base) and all(map(is_same_entry, positive, base)):
        raise ValueError("subject_positive: it is the same as subject_base, so the reference never takes effect: "
                         "connect the conditioning with the reference to one, and the text alone or a negative to the "
                         "other")


def is_same_entry(one: list, other: list) -> bool:
    """Whether two entries [tensor, options] of a CONDITIONING hold the same."""
    if one[1].keys() != other[1].keys() or not is_same_value(one[0], other[0]):
        return False
    return all(is_same_value(value, other[1][key]) for key, value in one[1].items())


def is_same_value(one, other) -> bool:
    if one is other:
        return True
    if torch.is_tensor(one) and torch.is_tensor(other):
        return torch.equal(one, other)
    return isinstance(one, (int, float, str)) and one == other

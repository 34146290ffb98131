"""The parts of the painter's gallery: what the renderer is asked for. `devtools/gallery.py` draws them.

Parts of the face are weights of the bust's targets, by patterns of their names.
"""
from __future__ import annotations

FACE_PARTS = {
    "heads": {
        "oval": {"head/head-oval": 1},
        "round": {"head/head-round": 1},
        "square": {"head/head-square": 1},
        "long": {"head/head-rectangular": 1, "head/head-scale-vert-incr": 0.5},
        "heart": {"head/head-invertedtriangular": 1},
        "pear": {"head/head-triangular": 1},
        "diamond": {"head/head-diamond": 1},
        "full": {"head/head-fat-incr": 1},
        "chin": {"chin/chin-height-incr": 1, "chin/chin-width-incr": 1, "chin/chin-bones-incr": 0.5},
    },
    "noses": {
        "straight": {},
        "wide": {"nose/nose-scale-horiz-incr": 1, "nose/nose-nostrils-width-incr": 0.5},
        "narrow": {"nose/nose-scale-horiz-decr": 1},
        "long": {"nose/nose-scale-vert-incr": 1, "nose/nose-point-down": 1},
        "short": {"nose/nose-scale-vert-decr": 1},
        "upturned": {"nose/nose-point-up": 1, "nose/nose-base-up": 1},
        "flared": {"nose/nose-flaring-incr": 1, "nose/nose-nostrils-width-incr": 1},
        "large": {"nose/nose-scale-vert-incr": 0.7, "nose/nose-scale-horiz-incr": 1, "nose/nose-volume-incr": 1},
    },
    "eyes": {
        "almond": {"eyes/[lr]-eye-corner2-up": 0.6},
        "large": {"eyes/[lr]-eye-scale-incr": 1},
        "small": {"eyes/[lr]-eye-scale-decr": 1},
        "round": {"eyes/[lr]-eye-height[123]-incr": 0.8},
        "narrow": {"eyes/[lr]-eye-height[123]-decr": 0.8},
        "slanted": {"eyes/[lr]-eye-corner2-up": 1, "eyes/[lr]-eye-corner1-down": 1},
        "drooping": {"eyes/[lr]-eye-corner2-down": 1},
        "wide-open": {"*an/eye-*-opened-up": 1},
        "sleepy": {"*an/eye-*-closure": 0.5},
    },
    "brows": {
        "soft": {},
        "bushy": {},
        "high": {"eyebrows/eyebrows-trans-up": 1},
        "low": {"eyebrows/eyebrows-trans-down": 1},
        "angled": {"eyebrows/eyebrows-angle-up": 1},
        "sloping": {"eyebrows/eyebrows-angle-down": 1},
        "raised": {"*an/eyebrows-*-up": 1},
        "frowning": {"*an/eyebrows-*-down": 1},
    },
    "mouths": {
        "calm": {},
        "full": {"mouth/mouth-*lip-height-incr": 1, "mouth/mouth-*lip-volume-incr": 0.7},
        "thin": {"mouth/mouth-*lip-height-decr": 1},
        "wide": {"mouth/mouth-scale-horiz-incr": 1},
        "small": {"mouth/mouth-scale-horiz-decr": 1},
        "smile": {"*an/mouth-corner-puller": 1},
        "laugh": {"*an/mouth-corner-puller": 1, "*an/mouth-upward-retraction": 0.3, "*an/mouth-open": 0.45},
        "sad": {"*an/mouth-depression": 1},
        "open": {"*an/mouth-open": 0.6},
        "kiss": {"*an/mouth-pursing": 1},
    },
    "ears": {
        "plain": {},
        "large": {"ears/[lr]-ear-scale-incr": 1},
        "small": {"ears/[lr]-ear-scale-decr": 1},
        "pointed": {"ears/[lr]-ear-shape-pointed": 1, "ears/[lr]-ear-scale-vert-incr": 0.5},
        "round": {"ears/[lr]-ear-shape-round": 1},
        "sticking-out": {"ears/[lr]-ear-wing-incr": 1},
    },
}

# Changes to the appearance.
HAIR = {
    "cropped": dict(hair_length="buzz"),
    "short": dict(hair_length="short"),
    "swept-back": dict(hair_length="short", hair_style="back"),
    "short-curls": dict(hair_length="short", hair_texture="curly"),
    "receding": dict(hair_length="short", receding="yes"),
    "short-afro": dict(hair_length="short", hair_style="afro", hair_texture="curly"),
    "afro": dict(hair_length="medium", hair_style="afro", hair_texture="curly"),
    "bob": dict(hair_length="medium"),
    "bob-fringe": dict(hair_length="medium", bangs="yes"),
    "waves": dict(hair_length="medium", hair_texture="wavy"),
    "long": dict(hair_length="long"),
    "long-fringe": dict(hair_length="long", bangs="yes"),
    "long-curls": dict(hair_length="long", hair_texture="curly"),
    "tied": dict(hair_length="long", hair_style="tied"),
    "bun": dict(hair_length="long", hair_style="bun"),
}

# Half width and height of a lens, the power of its outline, width of the rim, and whether the lenses are dark.
GLASSES = {
    "round": (0.22, 0.22, 2, 0.03, False),
    "oval": (0.25, 0.17, 2, 0.03, False),
    "square": (0.24, 0.21, 4.5, 0.035, False),
    "narrow": (0.25, 0.13, 3, 0.035, False),
    "thick": (0.25, 0.19, 3, 0.07, False),
    "large": (0.28, 0.27, 2.5, 0.03, False),
    "round-dark": (0.23, 0.23, 2, 0.04, True),
    "square-dark": (0.27, 0.2, 3.5, 0.05, True),
}

# Swelling and rise of the crown (none: a band alone), pompom, and the strips around it: how far out and up each goes.
HATS = {
    "cap": (0.09, 0.05, 0, ("band", "peak")),
    "beanie": (0.12, 0.4, 0, ("cuff",)),
    "pompom": (0.12, 0.4, 0.22, ("cuff",)),
    "hat": (0.13, 0.45, 0, ("band", "brim")),
    "wide-hat": (0.13, 0.45, 0, ("band", "wide brim")),
    "top-hat": (0.13, 1.1, 0, ("band", "brim")),
    "turban": (0.34, 0.3, 0, ("cuff",)),
    "headband": (None, None, 0, ("cuff",)),
}
STRIPS = {"band": (0.08, 0.2, -0.06), "cuff": (0.15, 0.34, -0.06), "brim": (0.45, -0.14, 0.02),
          "wide brim": (0.8, -0.2, 0.02), "peak": (0.75, -0.16, -0.04)}

# Facial hair whose strands leave the outline of the face, and by how much it is made longer.
BEARDS = {"goatee": ("goatee", 1), "short": ("beard", 1), "full": ("beard", 1.3), "long": ("beard", 1.8)}

PARTS = FACE_PARTS | {"hair": HAIR, "glasses": GLASSES, "hats": HATS, "beards": BEARDS}

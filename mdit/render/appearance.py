"""Random appearances: the named attributes from which both the image and its caption are made."""

from __future__ import annotations

import numpy as np

COLORS = {"red": (200, 30, 35), "orange": (235, 125, 30), "yellow": (238, 208, 50), "green": (45, 135, 65),
          "blue": (45, 85, 195), "purple": (115, 50, 150), "pink": (240, 140, 180), "brown": (105, 68, 40),
          "black": (24, 24, 28), "white": (238, 238, 235), "gray": (132, 134, 138)}
HAIR_COLORS = {"black": (30, 26, 26), "brown": (95, 60, 36), "blond": (222, 185, 115), "red": (160, 50, 22),
               "gray": (140, 140, 142), "white": (228, 226, 220), "pink": (238, 120, 170),
               "blue": (50, 85, 195), "green": (50, 140, 70), "purple": (120, 55, 160),
               "orange": (225, 120, 40)}
BEARD_COLORS = {"none": "brown", "pink": "blond", "blue": "black", "green": "brown", "purple": "black",
                "orange": "red"}  # natural colours near the dyed ones
SKIN_TONES = {"pale": (250, 222, 208), "light": (232, 190, 160), "tan": (203, 152, 112),
              "brown": (146, 97, 66), "dark": (84, 54, 40)}
EYE_COLORS = {"brown": (85, 52, 28), "blue": (75, 125, 190), "green": (85, 130, 75), "gray": (130, 140, 145)}
LIPSTICKS = {"red": (190, 20, 40), "pink": (228, 95, 140), "purple": (115, 30, 95), "brown": (115, 55, 42)}

# Attributes that an image shows of a person in every pose, and colours of things that an image may lack.
PERSON = ("sex", "age", "skin_tone", "eye_color", "facial_hair", "lipstick", "freckles", "clothes_color",
          "background_color")
PART_COLORS = ("hair_color", "glasses_color", "hat_color")

CLOTHES = ("shirt", "sweater", "turtleneck", "suit", "top", "hoodie")


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key drawn with the given relative weights."""
    names = list(weights)
    p = np.array(list(weights.values()), float)
    return names[rng.choice(len(names), p=p / p.sum())]


def sample_hair(rng: np.random.Generator, woman: bool, age: str) -> dict[str, str]:
    """Hair length, style, texture, colour, fringe and hairline."""
    lengths = (dict(buzz=0.03, short=0.2, medium=0.32, long=0.45) if woman
               else dict(bald=0.12, buzz=0.18, short=0.45, medium=0.13, long=0.12))
    length = pick(rng, lengths)
    if length == "bald":
        return dict(hair_length="bald", hair_style="none", hair_texture="none", hair_color="none",
                    bangs="no", receding="no")
    styles = {"short": dict(loose=0.55, back=0.3, afro=0.15), "medium": dict(loose=0.65, back=0.1, afro=0.25),
              "long": dict(loose=0.7, tied=0.15, bun=0.15)}
    style = pick(rng, styles[length]) if length != "buzz" else "loose"
    texture = "curly" if style == "afro" else pick(rng, dict(straight=0.45, wavy=0.3, curly=0.25))
    weights = {c: 1.0 for c in HAIR_COLORS}
    weights.update(dict(black=1.4, brown=1.4, blond=1.4))
    if age == "old":
        weights.update(dict(gray=4, white=4))
    bangs = "yes" if style == "loose" and length in ("medium", "long") and rng.random() < 0.35 else "no"
    receding = "yes" if not woman and age != "young" and bangs == "no" and rng.random() < 0.35 else "no"
    return dict(hair_length=length, hair_style=style, hair_texture=texture,
                hair_color=pick(rng, weights), bangs=bangs, receding=receding)


def sample_wear(rng: np.random.Generator, woman: bool) -> dict[str, str]:
    """Clothes, glasses, hat and jewellery."""
    glasses = pick(rng, dict(none=0.72, glasses=0.16, sunglasses=0.12))
    hat = pick(rng, dict(none=0.8, cap=0.07, beanie=0.06, hat=0.07))
    clothes = pick(rng, dict(shirt=4, sweater=2, turtleneck=1.2, suit=0.6 if woman else 1.6,
                             top=2.5 if woman else 0.3, hoodie=1))
    glasses_colors = ("black", "brown", "red", "blue", "white")
    return dict(
        clothes=clothes, clothes_color=str(rng.choice(list(COLORS))),
        background_color=str(rng.choice(list(COLORS))), glasses=glasses,
        glasses_color=str(rng.choice(glasses_colors)) if glasses != "none" else "none",
        hat=hat, hat_color=str(rng.choice(list(COLORS))) if hat != "none" else "none",
        earrings="yes" if rng.random() < (0.35 if woman else 0.08) else "no",
        necklace="yes" if rng.random() < (0.3 if woman else 0.1) else "no")


def sample_appearance(rng: np.random.Generator) -> dict[str, str]:
    """All attributes of one image. Each value is a word of the caption vocabulary, or none / yes / no."""
    woman = rng.random() < 0.5
    age = pick(rng, dict(young=0.5, **{"middle-aged": 0.28}, old=0.22))
    facial_hair = "none" if woman else pick(rng, dict(none=0.4, stubble=0.13, beard=0.23, mustache=0.12,
                                                      goatee=0.12))
    lipstick = pick(rng, dict(none=0.5, red=0.2, pink=0.14, purple=0.08, brown=0.08)) if woman else "none"
    return dict(
        sex="woman" if woman else "man", age=age, skin_tone=str(rng.choice(list(SKIN_TONES))),
        **sample_hair(rng, woman, age), **sample_wear(rng, woman), facial_hair=facial_hair, lipstick=lipstick,
        expression=pick(rng, dict(neutral=0.5, smiling=0.28, frowning=0.11, surprised=0.11)),
        eye_color=str(rng.choice(list(EYE_COLORS))),
        brows=pick(rng, dict(normal=0.75, bushy=0.25 if not woman else 0.08)),
        chubby="yes" if rng.random() < 0.15 else "no", freckles="yes" if rng.random() < 0.12 else "no")


def sample_same_person(appearance: dict[str, str], person: dict[str, str]) -> dict[str, str]:
    """An appearance with the lasting attributes of another one, `person`."""
    colors = {key: person[key] for key in PART_COLORS if "none" not in (appearance[key], person[key])}
    return appearance | {key: person[key] for key in PERSON} | colors

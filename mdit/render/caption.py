"""Captions in a small closed vocabulary, made from the known attributes."""

from __future__ import annotations

import re

import numpy as np

VOCABULARY = tuple(sorted(set("""
a an of with and in on wearing has is portrait photo face
man woman he she young middle aged old
hair short medium long shaved bald straight wavy curly afro combed back tied bun bangs receding hairline
black brown blond red gray white pink blue green purple orange yellow
skin pale light tan dark
beard mustache goatee stubble no smiling frowning surprised expression
eyes eyebrows bushy chubby freckles lipstick
glasses sunglasses hat cap beanie earrings necklace
shirt sweater turtleneck suit top hoodie background
""".split())))
MAX_WORDS = 45
SHORT_FRACTION = 0.5  # of the captions


def words(text: str) -> list[str]:
    """The words of a caption, lower case."""
    return re.findall(r"[a-z]+", text.lower())


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def join(clauses: list[str]) -> str:
    """Clauses as an English list: a, b and c."""
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


class Caption:
    """Caption of an attribute dict: the short fixed form, or shuffled clauses in sentence styles."""

    def __call__(self, attributes: dict[str, str], rng: np.random.Generator) -> str:
        if rng.random() < SHORT_FRACTION:
            return self.short(attributes)
        return self.full(attributes, rng)

    @staticmethod
    def short(a: dict[str, str]) -> str:
        """Sex and age, hair, clothes and other wear, background and skin, always in this order."""
        hair = "bald" if a["hair_length"] == "bald" else f"{a['hair_color']} hair"
        parts = [f"{a['age'].replace('-', ' ')} {a['sex']}", hair, f"{a['clothes_color']} {a['clothes']}"]
        if a["hat"] != "none":
            parts.append(f"{a['hat_color']} {a['hat']}")
        if a["glasses"] != "none":
            parts.append(f"{a['glasses_color']} {a['glasses']}")
        if a["facial_hair"] != "none":
            parts.append(a["facial_hair"])
        if a["lipstick"] != "none":
            parts.append(f"{a['lipstick']} lipstick")
        return ", ".join(parts + [f"{a['background_color']} background", f"{a['skin_tone']} skin"])

    def full(self, a: dict[str, str], rng: np.random.Generator) -> str:
        """Some of the clauses in random order, in one of three sentence styles or as a list."""
        clauses = [c for c, keep in self.clauses(a) if rng.random() < keep]
        worn = [c for c, keep in self.worn(a) if rng.random() < keep]
        rng.shuffle(clauses)
        rng.shuffle(worn)
        person = f"{a['age'].replace('-', ' ')} {a['sex']}" if rng.random() < 0.85 else a["sex"]
        behind = f"{a['background_color']} background"
        shown = rng.random() < 0.8
        style = rng.integers(4)
        if style == 3:
            items = [person, *clauses, *worn, *([behind] if shown else [])]
            rng.shuffle(items)
            return ", ".join(items)
        he = "he" if a["sex"] == "man" else "she"
        start = [article(person), f"portrait of {article(person)}", f"photo of {article(person)}"][style]
        if style == 0:
            text = start + (f" with {join(clauses)}" if clauses else "")
            text += f" wearing {join(worn)}" if worn else ""
            return text + (f" on {article(behind)}" if shown else "")
        text = start + (f", {behind}" if shown else "") + "."
        text += f" {he} has {join(clauses)}." if clauses else ""
        return text + (f" {he} is wearing {join(worn)}." if worn else "")

    @staticmethod
    def clauses(a: dict[str, str]) -> list[tuple[str, float]]:
        """Features of a person, each with the chance that the caption names it."""
        out = [(f"{a['skin_tone']} skin", 0.75), (f"{a['eye_color']} eyes", 0.35)]
        if a["hair_length"] == "bald":
            out.append(("no hair", 0.9))
        else:
            length = {"buzz": "shaved"}.get(a["hair_length"], a["hair_length"])
            shape = {"afro": "afro hair", "back": "hair combed back", "tied": "hair tied back",
                     "bun": "hair in a bun"}.get(a["hair_style"], "hair")
            plain = a["hair_length"] == "buzz" or a["hair_style"] == "afro"
            texture = "" if plain else a["hair_texture"] + " "
            out.append((f"{length} {texture}{a['hair_color']} {shape}", 0.9))
        optional = (("bangs", "bangs"), ("receding", "receding hairline"), ("freckles", "freckles"),
                    ("chubby", "chubby face"))
        out += [(text, 0.7) for key, text in optional if a[key] == "yes"]
        if a["facial_hair"] != "none":
            out.append((a["facial_hair"], 0.9))
        if a["expression"] != "neutral":
            out.append((f"{a['expression']} expression", 0.7))
        if a["brows"] == "bushy":
            out.append(("bushy eyebrows", 0.6))
        return out

    @staticmethod
    def worn(a: dict[str, str]) -> list[tuple[str, float]]:
        """Things that a person wears, each with the chance that the caption names it."""
        out = [(article(f"{a['clothes_color']} {a['clothes']}"), 0.85)]
        if a["hat"] != "none":
            out.append((article(f"{a['hat_color']} {a['hat']}"), 0.95))
        if a["glasses"] != "none":
            out.append((f"{a['glasses_color']} {a['glasses']}", 0.95))
        if a["lipstick"] != "none":
            out.append((f"{a['lipstick']} lipstick", 0.9))
        if a["earrings"] == "yes":
            out.append(("earrings", 0.8))
        if a["necklace"] == "yes":
            out.append(("a necklace", 0.8))
        return out

"""Light at single pixels, in linear values (numba)."""

from __future__ import annotations

import numpy as np

from .hair import CENTER
from .raster import compile_kernel
from .soup import EARRING, FACE_HAIR, FRAME, HAIR, LEFT_EYE, RIGHT_EYE

MIRRORS = np.float32(9)  # the gloss of metal
WRAP = (0.35, 0.18, 0.12)  # how far the key light reaches around skin: red, green, blue
CENTER_X, CENTER_Y, CENTER_Z = (float(c) for c in CENTER)


@compile_kernel
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compile_kernel
def normalize(x, y, z):
    scale = 1 / max(np.sqrt(x * x + y * y + z * z), 1e-6)
    return x * scale, y * scale, z * scale


@compile_kernel
def clip(value):
    return min(max(value, 0.0), 1.0)


@compile_kernel
def light_hair(tangent, outward, lights, lit, openness, gloss):
    """Diffuse level, and the strengths of the sharp and the broad highlight of a strand.

    The light goes round a strand (Kajiya and Kay 1989); ``outward`` from the head gives the hair its volume. Both
    highlights are shifted along the strand, as its scales tilt them (Marschner et al. 2003).
    """
    key_direction, half, key, ambient = lights[0], lights[1], lights[4], lights[5]
    toward = dot(tangent, key_direction)
    across = np.sqrt(max(0.0, 1 - toward * toward))
    volume = max(0.0, (dot(outward, key_direction) + 0.45) / 1.45)
    shadowed = 0.08 + 0.92 * lit
    level = ambient * (0.7 + 0.3 * outward[1]) * openness * openness
    level += key * across * (0.35 + 0.75 * volume) * shadowed
    along = dot(tangent, half)
    tilt = dot(outward, half)
    sharp = max(0.0, 1 - (along + 0.09 * tilt - 0.03) ** 2) ** 55
    broad = max(0.0, 1 - (along - 0.11 * tilt) ** 2) ** 14
    amount = key * shadowed * volume * gloss * openness
    return level, amount * sharp, amount * broad


@compile_kernel
def reflect_room(normal, facing, axis):
    """Brightness of the room in a mirror: dark below, grey above, one window."""
    x = 2 * facing * normal[0] - axis[0]
    y = 2 * facing * normal[1] - axis[1]
    window = np.exp(-((y - 0.45) * 6) ** 2 - ((x + 0.3) * 3) ** 2)
    return 0.25 + 0.55 * clip(2 * y + 0.3) + 0.8 * window


@compile_kernel
def light_highlight(kind, gloss, normal, facing, lights, lit, axis):
    """Strength of the highlight: round on eyes, the room on metal and frames, two lobes elsewhere."""
    along = max(0.0, dot(normal, lights[1]))
    graze = (1 - facing) ** 4
    if kind == LEFT_EYE or kind == RIGHT_EYE:
        return 1.3 * clip((along - 0.975) / 0.012) * (0.4 + 0.6 * lit) + 0.05 * along ** 12
    if kind == EARRING or kind == FRAME or gloss == MIRRORS:
        return reflect_room(normal, facing, axis) * (0.06 + 0.5 * graze) + 0.5 * along ** 90 * lit
    fresnel = 0.028 + 0.5 * graze * facing
    rim = max(0.0, dot(normal, lights[3])) * graze
    lobes = 1.1 * along ** 14 + 2.3 * along ** 55
    return gloss * (lights[4] * (0.08 + 0.92 * lit) * lobes * fresnel + 0.12 * rim)


@compile_kernel
def make_lights(direction, axis, key, ambient):
    """Key, half way to the camera, fill and rim direction, key and ambient strength."""
    half = normalize(direction[0] + axis[0], direction[1] + axis[1], direction[2] + axis[2])
    fill = normalize(-direction[0], 0.1, 0.45)
    rim = normalize(-0.8 * np.sign(direction[0]), 0.5, -0.45)
    return (direction[0], direction[1], direction[2]), half, fill, rim, key, ambient


@compile_kernel
def light_pixels(normals, slopes, points, kinds, gloss, lit, openness, scatters, tint, direction, axis, key, ambient):
    """Diffuse light and highlights, float32 (N, 3) each.

    normals: of the surface, or the tangent of a strand, (N, 3). slopes: tilt of the normals, (N, 3).
    lit, openness: fractions of the key and the ambient light that arrive, (N,).
    scatters: bool (N,), where light goes below the surface. tint: linear colour of the hair, (3,).
    direction: to the key light. axis: to the camera. key, ambient: strengths.
    """
    diffuse = np.empty((len(normals), 3), np.float32)
    shine = np.empty((len(normals), 3), np.float32)
    lights = make_lights(direction, axis, key, ambient)
    for i in range(len(normals)):
        n = normalize(normals[i, 0], normals[i, 1], normals[i, 2])
        if kinds[i] == HAIR or kinds[i] == FACE_HAIR:
            outward = normalize(points[i, 0] - CENTER_X, points[i, 1] - CENTER_Y, points[i, 2] - CENTER_Z)
            level, sharp, broad = light_hair(n, outward, lights, lit[i], openness[i], gloss[i])
            for c in range(3):
                diffuse[i, c] = level
                shine[i, c] = 0.05 * sharp + (0.006 + 0.55 * tint[c]) * broad
            continue
        n = normalize(n[0] - slopes[i, 0], n[1] - slopes[i, 1], n[2] - slopes[i, 2])
        facing = dot(n, axis)
        if facing < 0:
            n = (-n[0], -n[1], -n[2])
            facing = -facing
        toward = dot(n, direction)
        around = ambient * (0.8 + 0.2 * n[1]) + 0.16 * key * max(0.0, dot(n, lights[2]))
        highlight = openness[i] * light_highlight(kinds[i], gloss[i], n, facing, lights, lit[i], axis)
        for c in range(3):
            wrap = WRAP[c] if scatters[i] else 0.05
            # Blood lets red reach a little into a shadow on skin.
            shadow = lit[i] ** (0.6 + 0.25 * c) if scatters[i] else lit[i]
            diffuse[i, c] = around * openness[i] + key * max(0.0, (toward + wrap) / (1 + wrap)) * shadow
            shine[i, c] = highlight
    return diffuse, shine


@compile_kernel
def look_up_shadow(near, view, taps):
    """Fraction (N,) of the ``taps`` (T, 2), turned by a hash of the place, that see the light.

    ``near`` (S, S) is the nearness of what the light sees, ``view`` (N, 3) column, row and nearness in its picture.
    """
    last = near.shape[0] - 1
    lit = np.empty(len(view), np.float32)
    for i in range(len(view)):
        turn = 6.2832 * ((np.sin(view[i, 0] * 12.9898 + view[i, 1] * 78.233) * 43758.5453) % 1.0)
        cosine, sine = np.cos(turn), np.sin(turn)
        count = 0
        for k in range(len(taps)):
            column = int(view[i, 0] + cosine * taps[k, 0] - sine * taps[k, 1])
            row = int(view[i, 1] + sine * taps[k, 0] + cosine * taps[k, 1])
            count += near[min(max(row, 0), last), min(max(column, 0), last)] < view[i, 2] + 0.06
        lit[i] = count / len(taps)
    return lit

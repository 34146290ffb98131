/** The parts of the gallery, and how they fit the face of a drawing. `devtools/gallery.py` draws the parts. No DOM. */

import { CLASSES } from "./classes.js";
import { decode } from "./codec.js";
import { cutClass, liftClasses } from "./gaps.js";
import { LabelMap, union } from "./model.js";
import { boxOf } from "./raster.js";

const values = (...names) => names.map((name) => CLASSES.indexOf(name));

const [BACKGROUND, SKIN, HAIR] = values("background", "skin", "hair");
const EYES = values("r_eye", "l_eye"); // from left to right in a picture
const EARS = values("l_ear", "r_ear");
const MOUTH = values("mouth", "u_lip", "l_lip");
const BROWS = values("l_brow", "r_brow");
const INNER = [...values("nose"), ...EYES, ...MOUTH];
const WORN = values("eye_g", "hat", "ear_r", "neck_l");

/**
 * Of each group of parts: `classes`, which it replaces; `behind`, classes that it lies behind; `at`, classes whose place
 * in the drawing it takes, "each" for the place of the same class. A part that `adds` replaces nothing.
 */
export const GROUPS = {
    heads: { classes: [SKIN, ...EARS], behind: [...INNER, ...BROWS, ...WORN, HAIR] },
    noses: { classes: values("nose"), behind: WORN, at: values("nose") },
    eyes: { classes: EYES, behind: WORN },
    brows: { classes: BROWS, behind: WORN },
    mouths: { classes: MOUTH, behind: WORN, at: MOUTH },
    ears: { classes: EARS, behind: [SKIN, ...INNER, ...BROWS, ...WORN], at: "each" },
    hair: { classes: [HAIR], behind: [...INNER, ...WORN] },
    glasses: { classes: values("eye_g"), behind: values("hat") },
    hats: { classes: values("hat"), behind: INNER },
    beards: { classes: [SKIN], behind: [...INNER, ...BROWS, ...WORN], at: MOUTH, adds: true },
};

let reading = null;

/** { size, hatLine, head, parts }: parts[group][name] and the head below them are label maps on a square. Read once. */
export function loadGallery() {
    return reading ??= readGallery().catch((error) => {
        reading = null;
        throw error;
    });
}

async function readGallery() {
    const { size, hatLine, head, parts } = await (await fetch(new URL("gallery.json", import.meta.url))).json();
    const readPart = async ([name, [left, top, text]]) => [name, { left, top, ...await decode(text) }];
    const readGroup = async ([group, found]) => (
        [group, Object.fromEntries(await Promise.all(Object.entries(found).map(readPart)))]);
    const groups = await Promise.all(Object.entries(parts).map(readGroup));
    return { size, hatLine, head: { left: 0, top: 0, ...await decode(head) }, parts: Object.fromEntries(groups) };
}

/** A turn, a scale and a shift: points of the gallery's square to points of a drawing. */
class Fit {
    /** Brings `from` to `to`; `turn` is the scale times the cosine (x) and the sine (y) of the angle. */
    constructor(from, to, turn) {
        Object.assign(this, { from, to, turn });
    }

    /** Where a point of the square lies in the drawing. */
    place({ x, y }) {
        const { from, to, turn } = this, dx = x - from.x, dy = y - from.y;
        return { x: to.x + dx * turn.x - dy * turn.y, y: to.y + dx * turn.y + dy * turn.x };
    }

    /** Where a point of the drawing lies on the square. */
    find({ x, y }) {
        const { from, to, turn } = this, dx = x - to.x, dy = y - to.y, scale = turn.x ** 2 + turn.y ** 2;
        return { x: from.x + (dx * turn.x + dy * turn.y) / scale, y: from.y + (dy * turn.x - dx * turn.y) / scale };
    }
}

const middle = ({ left, top, right, bottom }) => ({ x: (left + right) / 2, y: (top + bottom) / 2 });

const boxOfAll = (map, classes) => classes.map((value) => boxOf(map, value)).reduce(union, null);

/** The face of a drawing by its eyes, else by its skin; without both, the square fills the drawing. */
export function fitFace(map, { size, head }) {
    const [from, eyes] = [head, map].map((found) => EYES.map((value) => boxOf(found, value)));
    if (eyes[0] && eyes[1]) {
        return fitEyes(from.map(middle), eyes.map(middle).toSorted((a, b) => a.x - b.x));
    }
    const skin = boxOf(map, SKIN), own = boxOf(head, SKIN);
    if (skin) {
        return new Fit(middle(own), middle(skin), { x: (skin.right - skin.left) / (own.right - own.left), y: 0 });
    }
    const whole = { x: size / 2, y: size / 2 };
    return new Fit(whole, middle(map.all), { x: Math.min(map.width, map.height) / size, y: 0 });
}

function fitEyes([a, b], [p, q]) {
    const dx = b.x - a.x, dy = b.y - a.y, length2 = dx ** 2 + dy ** 2;
    const u = q.x - p.x, v = q.y - p.y;
    return new Fit(a, p, { x: (u * dx + v * dy) / length2, y: (v * dx - u * dy) / length2 });
}

/**
 * A part of a group at the face of a drawing: { parts, bare }. parts are { value, box, pixels, open }, open 1 where the
 * part may lie; bare has the labels of the drawing without what the part replaces. Classes that are not `unlocked` stay:
 * without any other, `parts` is empty.
 */
export function fitPart(map, gallery, group, name, unlocked) {
    const fit = fitFace(map, gallery);
    const scene = { map, gallery, group, fit, unlocked };
    const stamp = drawPart(map, gallery.parts[group][name], fit);
    const isHidden = (value) => group === "heads" && EARS.includes(value) && !boxOf(map, value) && boxOf(map, SKIN);
    const parts = GROUPS[group].classes.filter((value) => unlocked[value] && !isHidden(value))
        .map((value) => cutClass(stamp, value)).filter(Boolean)
        .map((part) => ({ ...part, open: openFor(scene, part.value),
                          box: moved(part.box, stamp, shiftOf(scene, part.value)) }));
    return { parts, bare: uncover(scene) };
}

/** A part of the gallery at its place: a map of its own, whose corner lies at left, top in the drawing. */
function drawPart(map, part, fit) {
    const { left, top, right, bottom } = stampBox(map, part, fit);
    const stamp = Object.assign(new LabelMap(right - left, bottom - top), { left, top });
    for (let y = top, i = 0; y < bottom; y++) {
        for (let x = left; x < right; x++, i++) {
            const { x: u, y: v } = fit.find({ x: x + 0.5, y: y + 0.5 });
            stamp.labels[i] = classNear(part, u - part.left, v - part.top);
        }
    }
    return stamp;
}

/** The box around a placed part, at most half a drawing outside of the drawing. */
function stampBox({ width, height }, part, fit) {
    const corners = [[0, 0], [1, 0], [0, 1], [1, 1]].map(([u, v]) => (
        fit.place({ x: part.left + u * part.width, y: part.top + v * part.height })));
    const [low, high] = [Math.min, Math.max].map((least) => (
        { x: least(...corners.map(({ x }) => x)), y: least(...corners.map(({ y }) => y)) }));
    const within = (at, side) => Math.round(Math.min(1.5 * side, Math.max(-0.5 * side, at)));
    return { left: within(low.x, width), top: within(low.y, height),
             right: within(high.x, width) + 1, bottom: within(high.y, height) + 1 };
}

/** The class with the largest share at a point between the pixels of a part. */
function classNear({ width, height, labels }, u, v) {
    const x = Math.floor(u - 0.5), y = Math.floor(v - 0.5);
    const at = (column, row) => (
        column >= 0 && row >= 0 && column < width && row < height ? labels[row * width + column] : BACKGROUND);
    const found = [at(x, y), at(x + 1, y), at(x, y + 1), at(x + 1, y + 1)];
    if (found.every((value) => value === found[0])) {
        return found[0];
    }
    const right = u - 0.5 - x, below = v - 0.5 - y;
    const shares = [(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below];
    const shareOf = (value) => shares.reduce((sum, share, k) => sum + (found[k] === value ? share : 0), 0);
    return found.reduce((best, value) => shareOf(value) > shareOf(best) ? value : best);
}

/** How far a class moves, in whole pixels, to the place of its model in the drawing. */
function shiftOf({ map, gallery, group, fit }, value) {
    const { at } = GROUPS[group];
    const models = at === "each" ? [value] : at ?? [];
    const drawn = boxOfAll(map, models);
    if (!drawn) {
        return { x: 0, y: 0 };
    }
    const there = middle(drawn), here = fit.place(middle(boxOfAll(gallery.head, models)));
    return { x: Math.round(there.x - here.x), y: Math.round(there.y - here.y) };
}

function moved({ left, top, right, bottom }, corner, shift) {
    const x = corner.left + shift.x, y = corner.top + shift.y;
    return { left: left + x, top: top + y, right: right + x, bottom: bottom + y };
}

/** 1 where a class of a part may lie. A face lies before the hair beside it, but behind the hair on the forehead. */
function openFor({ map, group, fit, unlocked }, value) {
    const { behind } = GROUPS[group];
    const isOpen = CLASSES.map((_, found) => unlocked[found] && !behind.includes(found));
    const isFace = group === "heads" && value === SKIN && unlocked[HAIR];
    return map.labels.map((found, i) => (
        isOpen[found] || (isFace && found === HAIR && fit.find(pixelAt(map, i)).y > fit.from.y)));
}

const pixelAt = ({ width }, i) => ({ x: i % width + 0.5, y: Math.floor(i / width) + 0.5 });

/** The labels without what a part replaces; without hair, a head; below a hat, no hair sticks out above its line. */
function uncover({ map, gallery, group, fit, unlocked }) {
    const bare = new LabelMap(map.width, map.height, map.labels.slice());
    const { classes, adds } = GROUPS[group];
    const replaceHair = (labelOf) => map.labels.forEach((value, i) => {
        if (value === HAIR && unlocked[HAIR]) bare.labels[i] = labelOf(fit.find(pixelAt(map, i)));
    });
    if (group === "hair") {
        replaceHair((point) => headAt(gallery, point));
    } else if (!adds) {
        liftClasses(bare, classes.filter((value) => unlocked[value]));
    }
    if (group === "hats" && unlocked[classes[0]]) {
        replaceHair((point) => (
            point.y < gallery.hatLine && headAt(gallery, point) === BACKGROUND ? BACKGROUND : HAIR));
    }
    return bare.labels;
}

/** What a head with a part shows at a point of the square: { value, isPart }. */
export function classOnHead(head, group, part, { x, y }) {
    const { classes, behind } = GROUPS[group];
    const below = head.labels[Math.floor(y) * head.width + Math.floor(x)];
    const value = classNear(part, x - part.left, y - part.top);
    if (value !== BACKGROUND && !behind.includes(below)) {
        return { value, isPart: true };
    }
    const bare = classes === EARS || group === "heads" ? BACKGROUND : SKIN;
    return { value: classes.includes(below) ? bare : below, isPart: false };
}

/** The class of the bare head at a point of the square, and at the square's edge for points outside. */
function headAt({ size, head }, { x, y }) {
    const [column, row] = [x, y].map((at) => Math.floor(Math.min(size - 1, Math.max(0, at))));
    const value = head.labels[row * size + column];
    return [...INNER, ...BROWS].includes(value) ? SKIN : value;
}

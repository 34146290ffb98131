/** Label maps from and to image files. */

import { CLASSES, PALETTE, PALETTES } from "./classes.js";
import { LONGEST_SIDE } from "./model.js";

const MOST_COLORS = Math.max(...Object.values(PALETTES).map((palette) => palette.length));
const NEAR = 51; // distance of the two closest class colors
const MAX_FAR_FRACTION = 0.1; // blended edges leave a few per cent of odd colors in a good map
const PART = new RegExp(`(?:^|[^a-z])(${CLASSES.join("|")})\\.[a-z]+$`, "i");

/** A message for the user: the id of its word, and the values that the word needs. */
export class ImageError extends Error {
    constructor(word, values = {}) {
        super(word);
        Object.assign(this, { word, values });
    }
}

/** Pixels of an image file as ImageData, unchanged by color profiles. */
async function pixelsOf(file) {
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(file, options).catch(() => {
        throw new ImageError("notAnImage", { name: file.name });
    });
    const { width, height } = bitmap;
    if (Math.max(width, height) > LONGEST_SIDE) {
        throw new ImageError("tooLarge", { name: file.name, width, height, limit: LONGEST_SIDE });
    }
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, width, height);
}

/** Classes of a label-map image: by the palette that has all its colors, else by the nearest class colors. */
export function toLabels({ width, height, data }, name = "") {
    const exact = findPalette(distinctColors(data, MOST_COLORS));
    if (exact) {
        return classesBy(data, (color) => exact.indexOf(color));
    }
    const nearest = nearestColors();
    let far = 0;
    const labels = classesBy(data, (color) => {
        const { value, isFar } = nearest(color);
        far += isFar;
        return value;
    });
    if (far > MAX_FAR_FRACTION * width * height) {
        throw new ImageError("notALabelMap", { name, percent: Math.round(100 * far / (width * height)) });
    }
    return labels;
}

const pack = (red, green, blue) => red << 16 | green << 8 | blue;
const colorAt = (data, i) => pack(data[i], data[i + 1], data[i + 2]);

/** The colors of an image, packed; null when they are more than `most`. */
function distinctColors(data, most) {
    const colors = new Set();
    for (let i = 0; i < data.length && colors.size <= most; i += 4) {
        colors.add(colorAt(data, i));
    }
    return colors.size > most ? null : [...colors];
}

/** The packed colors of the first palette that has all these colors; undefined when there is none. */
function findPalette(colors) {
    const palettes = Object.values(PALETTES).map((palette) => palette.map((rgb) => pack(...rgb)));
    return colors && palettes.find((palette) => colors.every((color) => palette.includes(color)));
}

function classesBy(data, classOf) {
    const labels = new Uint8Array(data.length / 4);
    for (let i = 0; i < labels.length; i++) {
        labels[i] = classOf(colorAt(data, 4 * i));
    }
    return labels;
}

/** Finds the nearest class color, once for each color. */
function nearestColors() {
    const known = new Map();
    return (color) => {
        if (!known.has(color)) {
            const [red, green, blue] = [color >> 16, color >> 8 & 255, color & 255];
            const distances = PALETTE.map(([r, g, b]) => Math.hypot(red - r, green - g, blue - b));
            const least = Math.min(...distances);
            known.set(color, { value: distances.indexOf(least), isFar: least > NEAR });
        }
        return known.get(color);
    };
}

/** The class that a CelebAMask-HQ class file such as 00012_l_eye.png shows; -1 for other names. */
export function partClass(name) {
    return CLASSES.indexOf(PART.exec(name)?.[1].toLowerCase());
}

/** Black and white alone, as in class files. */
function isStencil(data) {
    return distinctColors(data, 2)?.every((color) => color === 0 || color === 0xffffff) ?? false;
}

/** One label map from a label-map image, or from class files painted in the order of their classes. */
export async function readFiles(files) {
    const images = await Promise.all(files.map(async (file) => (
        { name: file.name, part: partClass(file.name), ...imageFields(await pixelsOf(file)) })));
    const [{ name, width, height }] = images;
    if (images.length === 1 && !(images[0].part > 0 && isStencil(images[0].data))) {
        return { width, height, labels: toLabels(images[0], name) };
    }
    const stranger = images.find(({ part }) => part < 0);
    if (stranger) {
        throw new ImageError("noPart", { name: stranger.name });
    }
    const odd = images.find((image) => image.width !== width || image.height !== height);
    if (odd) {
        throw new ImageError("oddPart", { name: odd.name, width: odd.width, height: odd.height });
    }
    return { width, height, labels: layParts(images, width * height) };
}

const imageFields = ({ width, height, data }) => ({ width, height, data });

function layParts(images, length) {
    const labels = new Uint8Array(length);
    for (const { part, data } of images.toSorted((a, b) => a.part - b.part)) {
        for (let i = 0; i < length; i++) {
            labels[i] = data[4 * i] ? part : labels[i];
        }
    }
    return labels;
}

/** PNG of a label map in the CelebAMask-HQ colors. */
export async function toPng({ width, height, labels }) {
    const image = new ImageData(width, height);
    labels.forEach((value, i) => image.data.set([...PALETTE[value], 255], 4 * i));
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
}

/** Label maps from and to picture files. */

import { CLASSES, PALETTE } from "./classes.js";
import { LONGEST_SIDE } from "./model.js";

const INDEX_LEVELS = CLASSES.map((_, k) => Math.round(255 * k / (CLASSES.length - 1)));
const NEAR = 51; // the two closest colours of the palette are that far apart
const MAX_FAR_SHARE = 0.1; // blended edges leave a few per cent of odd colours in a good map
const PART = new RegExp(`(?:^|[^a-z])(${CLASSES.join("|")})\\.[a-z]+$`, "i");

/** A message for the user: the id of its word and what the word leaves open. */
export class PictureError extends Error {
    constructor(word, values = {}) {
        super(word);
        Object.assign(this, { word, values });
    }
}

/** Pixels of a picture file as ImageData, unchanged by colour profiles. */
async function pixelsOf(file) {
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(file, options).catch(() => {
        throw new PictureError("notAPicture", { name: file.name });
    });
    const { width, height } = bitmap;
    if (Math.max(width, height) > LONGEST_SIDE) {
        throw new PictureError("tooLarge", { name: file.name, width, height, limit: LONGEST_SIDE });
    }
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, width, height);
}

/** Classes of a label-map picture: grey levels 0 to 18, 19 grey levels over black to white, or colours. */
export function toLabels({ width, height, data }, name = "") {
    const levels = greyLevels(data);
    if (levels && Math.max(...levels) < CLASSES.length) {
        return classesBy(data, (red) => red);
    }
    if (levels && [...levels].every((level) => INDEX_LEVELS.includes(level))) {
        return classesBy(data, (red) => INDEX_LEVELS.indexOf(red));
    }
    const nearest = nearestColours();
    let far = 0;
    const labels = classesBy(data, (...rgb) => {
        const { value, isFar } = nearest(...rgb);
        far += isFar;
        return value;
    });
    if (far > MAX_FAR_SHARE * width * height) {
        throw new PictureError("notALabelMap", { name, share: Math.round(100 * far / (width * height)) });
    }
    return labels;
}

/** The grey levels of a picture, null when it has a colour. */
function greyLevels(data) {
    const levels = new Set();
    for (let i = 0; i < data.length; i += 4) {
        if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) {
            return null;
        }
        levels.add(data[i]);
    }
    return levels;
}

function classesBy(data, classOf) {
    const labels = new Uint8Array(data.length / 4);
    for (let i = 0; i < labels.length; i++) {
        labels[i] = classOf(data[4 * i], data[4 * i + 1], data[4 * i + 2]);
    }
    return labels;
}

/** Finds the nearest entry of the palette, once for each colour. */
function nearestColours() {
    const known = new Map();
    return (red, green, blue) => {
        const code = red << 16 | green << 8 | blue;
        if (!known.has(code)) {
            const distances = PALETTE.map(([r, g, b]) => Math.hypot(red - r, green - g, blue - b));
            const least = Math.min(...distances);
            known.set(code, { value: distances.indexOf(least), isFar: least > NEAR });
        }
        return known.get(code);
    };
}

/** The class that a CelebAMask-HQ part file such as 00012_l_eye.png holds, -1 for other names. */
export function partClass(name) {
    return CLASSES.indexOf(PART.exec(name)?.[1].toLowerCase());
}

/** Black and white, as part files are. */
function isStencil(data) {
    const levels = greyLevels(data);
    return levels !== null && [...levels].every((level) => level === 0 || level === 255);
}

/** One label map from a label-map picture, or from part files painted in the order of their classes. */
export async function readFiles(files) {
    const pictures = await Promise.all(files.map(async (file) => (
        { name: file.name, part: partClass(file.name), ...imageFields(await pixelsOf(file)) })));
    const [{ name, width, height }] = pictures;
    if (pictures.length === 1 && !(pictures[0].part > 0 && isStencil(pictures[0].data))) {
        return { width, height, labels: toLabels(pictures[0], name) };
    }
    const stranger = pictures.find(({ part }) => part < 0);
    if (stranger) {
        throw new PictureError("noPart", { name: stranger.name });
    }
    const odd = pictures.find((picture) => picture.width !== width || picture.height !== height);
    if (odd) {
        throw new PictureError("oddPart", { name: odd.name, width: odd.width, height: odd.height });
    }
    return { width, height, labels: layParts(pictures, width * height) };
}

const imageFields = ({ width, height, data }) => ({ width, height, data });

function layParts(pictures, length) {
    const labels = new Uint8Array(length);
    for (const { part, data } of pictures.toSorted((a, b) => a.part - b.part)) {
        for (let i = 0; i < length; i++) {
            labels[i] = data[4 * i] ? part : labels[i];
        }
    }
    return labels;
}

/** PNG of a label map in the CelebAMask-HQ colours. */
export async function toPng({ width, height, labels }) {
    const image = new ImageData(width, height);
    labels.forEach((value, i) => image.data.set([...PALETTE[value], 255], 4 * i));
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
}

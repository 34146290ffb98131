/** Label maps from and to image files. The server reads the files: nodes and painter have the same reader. */

import { CLASSES, PALETTE } from "./classes.js";
import { decode } from "./codec.js";

const ROUTE = "/mditface/label_map";
const MOST_MEGABYTES = 64; // of a file; `nodes/routes.py` has the same limit
const PART = new RegExp(`(?:^|[^a-z])(${CLASSES.join("|")})\\.[a-z]+$`, "i");
const BACKGROUND = 0;

/** A message for the user: the id of its word, and the values that the word needs. */
export class ImageError extends Error {
    constructor(word, values = {}) {
        super(word);
        Object.assign(this, { word, values });
    }
}

/** What the server reads in a file: { width, height, labels, notes, isStencil }; a stencil's labels are 0 and 1. */
async function readFile(file, fetchApi) {
    const { name } = file;
    if (file.size > MOST_MEGABYTES * 2 ** 20) {
        throw new ImageError("tooLarge", { name, limit: MOST_MEGABYTES });
    }
    const body = await file.arrayBuffer().catch(() => {
        throw new ImageError("noFile", { name }); // such as a folder
    });
    const answer = await fetchApi(ROUTE, { method: "POST", body }).catch(() => null);
    const { drawing, error: reason, ...found } = await answer?.json().catch(() => ({})) ?? {};
    if (!drawing) {
        throw reason ? new ImageError("refused", { name, reason }) : new ImageError("noAnswer", { name });
    }
    return { ...found, ...await decode(drawing) };
}

/** The class that a CelebAMask-HQ class file such as 00012_l_eye.png shows; -1 for other names. */
export function partClass(name) {
    return CLASSES.indexOf(PART.exec(name)?.[1].toLowerCase());
}

/**
 * One label map from a label-map image, or from class files painted in the order of their classes; a stencil without a
 * class in its name becomes the class `value`. Returns { width, height, labels, notes }; notes are { word, values }.
 */
export async function readFiles(files, value, fetchApi) {
    const images = await Promise.all(files.map(async (file) => (
        { name: file.name, part: partClass(file.name), ...await readFile(file, fetchApi) })));
    return images.length === 1 ? wholeMap(images[0], value) : layParts(images);
}

/** The label map of the image at an address, as `readFiles` reads a file of this name. */
export async function readAddress(address, name, value, fetchApi) {
    const answer = await fetch(address).catch(() => {
        throw new ImageError("noAnswer", { name });
    });
    return readFiles([new File([await answer.blob()], name)], value, fetchApi);
}

function wholeMap({ name, part, width, height, labels, notes, isStencil }, value) {
    const told = notes.map((text) => ({ word: "noted", values: { name, text } }));
    if (!isStencil) {
        return { width, height, labels, notes: told };
    }
    const chosen = part > BACKGROUND ? part : value;
    if (chosen === BACKGROUND) {
        throw new ImageError("noClass", { name });
    }
    told.push({ word: "stencil", values: { name, part: CLASSES[chosen] } });
    return { width, height, labels: labels.map((inside) => inside * chosen), notes: told };
}

function layParts(images) {
    const [{ width, height }] = images;
    const stranger = images.find(({ part }) => part < 0);
    if (stranger) {
        throw new ImageError("noPart", { name: stranger.name });
    }
    const odd = images.find((image) => image.width !== width || image.height !== height);
    if (odd) {
        throw new ImageError("oddPart", { name: odd.name, width: odd.width, height: odd.height });
    }
    const whole = images.find((image) => new Set(image.labels).size > 2);
    if (whole) {
        throw new ImageError("wholePart", { name: whole.name });
    }
    const labels = new Uint8Array(width * height);
    for (const image of images.toSorted((a, b) => a.part - b.part)) {
        image.labels.forEach((inside, i) => { labels[i] = inside ? image.part : labels[i]; });
    }
    return { width, height, labels, notes: [] };
}

/** PNG of a label map in the CelebAMask-HQ colors. */
export async function toPng({ width, height, labels }) {
    const image = new ImageData(width, height);
    labels.forEach((value, i) => image.data.set([...PALETTE[value], 255], 4 * i));
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
}

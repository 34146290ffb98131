/** The text that holds a label map in a graph; `mdit/labelmap/drawing.py` describes and reads it. */

import { CLASSES } from "./classes.js";
import { LONGEST_SIDE } from "./model.js";

const VERSION = "labelmap1";
const FORM = new RegExp(`^${VERSION};(\\d{1,5})x(\\d{1,5});([A-Za-z0-9+/]+={0,2})$`);

/** Bytes through a (de)compression stream, at most `limit` of them. */
async function pump(bytes, stream, limit = Infinity) {
    const chunks = [];
    let length = 0;
    for (const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();;) {
        const { done, value } = await reader.read();
        if (done) {
            break;
        }
        length += value.length;
        if (length > limit) {
            await reader.cancel();
            throw new Error("more data than pixels");
        }
        chunks.push(value);
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

function toBase64(bytes) {
    let text = "";
    for (let start = 0; start < bytes.length; start += 8192) {
        text += String.fromCharCode(...bytes.subarray(start, start + 8192));
    }
    return btoa(text);
}

/** Text of a label map. */
export async function encode({ width, height, labels }) {
    const packed = await pump(labels, new CompressionStream("deflate"));
    return `${VERSION};${width}x${height};${toBase64(packed)}`;
}

/** { width, height, labels } of a text; throws for anything else. */
export async function decode(text) {
    const [, width, height, packed] = FORM.exec(text.trim()) ?? [];
    if (!(width >= 1 && width <= LONGEST_SIDE && height >= 1 && height <= LONGEST_SIDE)) {
        throw new Error("not a painted label map");
    }
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const labels = await pump(bytes, new DecompressionStream("deflate"), width * height);
    if (labels.length !== width * height || labels.some((value) => value >= CLASSES.length)) {
        throw new Error("damaged data");
    }
    return { width: Number(width), height: Number(height), labels };
}

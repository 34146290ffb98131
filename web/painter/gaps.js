/** Lifting parts off a label map; what they leave is filled from what lies around. No DOM. */

import { CLASSES } from "./classes.js";
import { union } from "./model.js";
import { boxOf } from "./raster.js";

const BACKGROUND = 0;
const FAR = 1e9;

/** Classes that spread into a gap. The others lie on these: a nose that is lifted leaves skin, though glasses touch it. */
const SURFACES = ["background", "skin", "neck", "cloth", "hair"].map((name) => CLASSES.indexOf(name));

/** Lifts classes off the map. The parts are { value, box, pixels }, pixels 1 inside; classes without pixels have none. */
export function liftClasses(map, values) {
    const parts = values.map((value) => cutClass(map, value)).filter(Boolean);
    const box = parts.map((part) => part.box).reduce(union, null);
    if (box) {
        const gap = pixelsOf(map, box, (value) => values.includes(value));
        fillGaps(map, gap, box);
    }
    return parts;
}

/** The pixels of a class, null when there are none. */
export function cutClass(map, value) {
    const box = boxOf(map, value);
    return box && { value, box, pixels: pixelsOf(map, box, (found) => found === value) };
}

function pixelsOf(map, { left, top, right, bottom }, isInside) {
    const width = right - left;
    const pixels = new Uint8Array(width * (bottom - top));
    for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) {
            pixels[(y - top) * width + x - left] = isInside(map.labels[y * map.width + x]);
        }
    }
    return pixels;
}

/**
 * Fills the pixels inside a box that `gap` marks. A connected gap takes the nearest pixels at its border, of surfaces if
 * there are some: never a class that does not touch it, nor the class `except`.
 */
export function fillGaps(map, gap, box, except = null) {
    const seen = new Uint8Array(gap.length);
    const width = box.right - box.left, height = box.bottom - box.top;
    for (let start = gap.indexOf(1); start >= 0; start = gap.indexOf(1, start + 1)) {
        if (!seen[start]) {
            const found = connected(gap, seen, start, { width, height });
            fillOne(map, found.map((i) => [box.left + i % width, box.top + Math.floor(i / width)]), except);
        }
    }
    map.touch(box);
}

function connected(gap, seen, start, { width, height }) {
    const found = [start];
    seen[start] = 1;
    for (const i of found) { // grows while it is read
        for (const [x, y] of around(i % width, Math.floor(i / width), width, height)) {
            const next = y * width + x;
            if (gap[next] && !seen[next]) {
                seen[next] = 1;
                found.push(next);
            }
        }
    }
    return found;
}

function around(x, y, width, height) {
    const found = [];
    for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
            if (u !== x || v !== y) found.push([u, v]);
        }
    }
    return found;
}

/** points: the pixels [x, y] of one connected gap. */
function fillOne(map, points, except) {
    const inside = new Set(points.map(([x, y]) => y * map.width + x));
    const border = new Set();
    for (const [x, y] of points) {
        for (const [u, v] of around(x, y, map.width, map.height)) {
            const i = v * map.width + u;
            if (!inside.has(i) && map.labels[i] !== except) border.add(i);
        }
    }
    const isSurface = (i) => SURFACES.includes(map.labels[i]);
    const surfaces = [...border].filter(isSurface);
    const sources = surfaces.length ? surfaces : [...border];
    const nearest = nearestOf(map.width, sources, [...inside, ...border]);
    const values = points.map(([x, y]) => sources.length ? map.labels[nearest(x, y)] : BACKGROUND);
    points.forEach(([x, y], k) => { map.labels[y * map.width + x] = values[k]; });
}

/**
 * Sequential distance transform (Danielsson 1980) in the box around some pixels: two sweeps give each pixel the nearest
 * source of its neighbours. Pixels are numbers, row by row.
 */
function nearestOf(rowLength, sources, pixels) {
    const box = boxAround(pixels, rowLength);
    const columns = box.right - box.left, rows = box.bottom - box.top;
    const sourceX = new Float32Array(columns * rows).fill(FAR);
    const sourceY = new Float32Array(columns * rows).fill(FAR);
    for (const i of sources) {
        const x = i % rowLength - box.left, y = Math.floor(i / rowLength) - box.top;
        sourceX[y * columns + x] = x;
        sourceY[y * columns + x] = y;
    }
    const offer = (x, y, dx, dy) => {
        if (x + dx < 0 || x + dx >= columns || y + dy < 0 || y + dy >= rows) {
            return;
        }
        const to = y * columns + x, from = to + dy * columns + dx;
        const now = (x - sourceX[to]) ** 2 + (y - sourceY[to]) ** 2;
        if ((x - sourceX[from]) ** 2 + (y - sourceY[from]) ** 2 < now) {
            sourceX[to] = sourceX[from];
            sourceY[to] = sourceY[from];
        }
    };
    const sweepRow = (y, step) => {
        for (let x = 0; x < columns; x++) {
            for (const dx of [-1, 0, 1]) offer(x, y, dx, -step);
            offer(x, y, -1, 0);
        }
        for (let x = columns - 1; x >= 0; x--) offer(x, y, 1, 0);
    };
    for (let y = 0; y < rows; y++) sweepRow(y, 1);
    for (let y = rows - 1; y >= 0; y--) sweepRow(y, -1);
    return (x, y) => {
        const at = (y - box.top) * columns + x - box.left;
        return (box.top + sourceY[at]) * rowLength + box.left + sourceX[at];
    };
}

function boxAround(pixels, rowLength) {
    let left = Infinity, top = Infinity, right = 0, bottom = 0;
    for (const i of pixels) {
        const x = i % rowLength, y = Math.floor(i / rowLength);
        left = Math.min(left, x);
        right = Math.max(right, x + 1);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y + 1);
    }
    return { left, top, right, bottom };
}

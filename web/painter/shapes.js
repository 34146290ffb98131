/** Changes of the whole drawing: smooth edges, one half copied to the other. No DOM. */

import { MIRRORED } from "./classes.js";
import { fillGaps } from "./gaps.js";
import { boxOf } from "./raster.js";

/** Smooths the edges of a class: a pixel belongs to it if most pixels within `radius` do. `over`: see raster.js. */
export function smoothClass(map, value, radius, over) {
    const found = boxOf(map, value);
    if (!found) {
        return;
    }
    const box = map.clip({ left: found.left - radius, top: found.top - radius,
                           right: found.right + radius, bottom: found.bottom + radius });
    const share = shareAround(map, value, radius, box);
    const width = box.right - box.left;
    const gap = share.map((part, i) => {
        const at = (box.top + Math.floor(i / width)) * map.width + box.left + i % width;
        const wasInside = map.labels[at] === value, isInside = part > 0.5;
        if (isInside && !wasInside && over[map.labels[at]]) {
            map.labels[at] = value;
        }
        return wasInside && !isInside;
    });
    fillGaps(map, Uint8Array.from(gap), box, value);
}

/** The share of a class in the square around each pixel of a box, cut at the edges of the map. */
function shareAround(map, value, radius, { left, top, right, bottom }) {
    const sums = sumsOf(map, value), row = map.width + 1;
    const share = new Float32Array((right - left) * (bottom - top));
    let i = 0;
    for (let y = top; y < bottom; y++) {
        const low = Math.max(0, y - radius), high = Math.min(map.height, y + radius + 1);
        for (let x = left; x < right; x++, i++) {
            const near = Math.max(0, x - radius), far = Math.min(map.width, x + radius + 1);
            const inside = sums[high * row + far] - sums[high * row + near] - sums[low * row + far] + sums[low * row + near];
            share[i] = inside / ((high - low) * (far - near));
        }
    }
    return share;
}

/** How many pixels of a class lie above and left of each corner of the pixel grid. */
function sumsOf({ width, height, labels }, value) {
    const sums = new Uint32Array((width + 1) * (height + 1));
    for (let y = 1; y <= height; y++) {
        for (let x = 1, inRow = 0; x <= width; x++) {
            inRow += labels[(y - 1) * width + x - 1] === value;
            sums[y * (width + 1) + x] = sums[(y - 1) * (width + 1) + x] + inRow;
        }
    }
    return sums;
}

/** Copies one side of an axis, in pixels from the left, to the other side; left and right parts change places. */
export function copySide(map, axis, toRight, over) {
    const { width, height } = map, before = map.labels.slice();
    for (let y = 0, i = 0; y < height; y++) {
        for (let x = 0; x < width; x++, i++) {
            const source = Math.floor(2 * axis - x - 0.5);
            const isTarget = toRight ? x + 0.5 > axis : x + 0.5 < axis;
            if (isTarget && source >= 0 && source < width && over[before[i]]) {
                map.labels[i] = MIRRORED[before[y * width + source]];
            }
        }
    }
    map.touch(map.all);
}

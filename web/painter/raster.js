/**
 * Pixel operations of the tools on a LabelMap. Points are in pixels, a pixel's center is at + 0.5. `over` tells for each
 * class whether its pixels may change. No DOM.
 */

import { CLASSES } from "./classes.js";

const EVERY = CLASSES.map(() => true);

/** Paints every pixel whose center lies within `radius` of the segment between two points. */
export function paintSegment(map, from, to, radius, value, over = EVERY) {
    const dx = to.x - from.x, dy = to.y - from.y;
    const length2 = dx * dx + dy * dy || 1;
    const reach = Math.max(radius, 0.71); // the thinnest brush still hits the pixel under it
    const box = map.clip({
        left: Math.min(from.x, to.x) - reach, top: Math.min(from.y, to.y) - reach,
        right: Math.max(from.x, to.x) + reach, bottom: Math.max(from.y, to.y) + reach,
    });
    for (let y = box.top; y < box.bottom; y++) {
        for (let x = box.left; x < box.right; x++) {
            const px = x + 0.5 - from.x, py = y + 0.5 - from.y;
            const along = Math.min(1, Math.max(0, (px * dx + py * dy) / length2));
            const ex = px - along * dx, ey = py - along * dy;
            const i = y * map.width + x;
            if (ex * ex + ey * ey <= reach * reach && over[map.labels[i]]) {
                map.labels[i] = value;
            }
        }
    }
    map.touch(box);
}

/** Fills the region of one class around a point, neighbours being those above, below, left and right. */
export function fillRegion(map, point, value, over = EVERY) {
    const old = map.at(point);
    if (old === null || old === value || !over[old]) {
        return;
    }
    const { width, height, labels } = map;
    const open = [Math.floor(point.y) * width + Math.floor(point.x)];
    while (open.length) {
        const found = open.pop();
        if (labels[found] !== old) {
            continue;
        }
        const row = found - found % width;
        let left = found, right = found;
        while (left > row && labels[left - 1] === old) left--;
        while (right < row + width - 1 && labels[right + 1] === old) right++;
        labels.fill(value, left, right + 1);
        for (const next of [-width, width]) {
            const y = row / width + Math.sign(next);
            for (let i = left; y >= 0 && y < height && i <= right; i++) {
                if (labels[i + next] === old && (i === left || labels[i + next - 1] !== old)) open.push(i + next);
            }
        }
    }
    map.touch(map.all);
}

/** Paints the pixels whose centers lie inside a polygon (even-odd rule). */
export function paintPolygon(map, points, value, over = EVERY) {
    const box = map.clip({
        left: Math.min(...points.map(({ x }) => x)), top: Math.min(...points.map(({ y }) => y)),
        right: Math.max(...points.map(({ x }) => x)), bottom: Math.max(...points.map(({ y }) => y)),
    });
    for (let y = box.top; y < box.bottom; y++) {
        const crossings = crossingsAt(points, y + 0.5);
        for (let k = 0; k + 1 < crossings.length; k += 2) {
            const from = Math.max(box.left, Math.ceil(crossings[k] - 0.5));
            const to = Math.min(box.right, Math.ceil(crossings[k + 1] - 0.5));
            for (let i = y * map.width + from, end = y * map.width + to; i < end; i++) {
                map.labels[i] = over[map.labels[i]] ? value : map.labels[i];
            }
        }
    }
    map.touch(box);
}

function crossingsAt(points, y) {
    const crossings = [];
    points.forEach((a, k) => {
        const b = points[(k + 1) % points.length];
        if (a.y <= y !== b.y <= y) {
            crossings.push(a.x + (y - a.y) / (b.y - a.y) * (b.x - a.x));
        }
    });
    return crossings.sort((a, b) => a - b);
}

/** Smallest box around the pixels of a class, null when there are none. */
export function boxOf({ width, height, labels }, value) {
    let left = width, right = -1, top = -1, bottom = -1;
    for (let y = 0; y < height; y++) {
        const row = labels.subarray(y * width, (y + 1) * width);
        const first = row.indexOf(value);
        if (first < 0) {
            continue;
        }
        left = Math.min(left, first);
        right = Math.max(right, row.lastIndexOf(value));
        top = top < 0 ? y : top;
        bottom = y;
    }
    return right < 0 ? null : { left, top, right: right + 1, bottom: bottom + 1 };
}

/** Paints a lifted class into a box of any size, by the pixel under each center; where `open` is given, on its ones only. */
export function placeClass(map, { value, box, pixels, open = null }, target) {
    const width = box.right - box.left, height = box.bottom - box.top;
    const scaleX = width / (target.right - target.left), scaleY = height / (target.bottom - target.top);
    const cut = map.clip(target);
    for (let y = cut.top; y < cut.bottom; y++) {
        const sourceY = Math.floor((y + 0.5 - target.top) * scaleY);
        for (let x = cut.left; x < cut.right; x++) {
            const sourceX = Math.floor((x + 0.5 - target.left) * scaleX);
            const inside = sourceX >= 0 && sourceY >= 0 && sourceX < width && sourceY < height;
            const i = y * map.width + x;
            if (inside && pixels[sourceY * width + sourceX] && (!open || open[i])) {
                map.labels[i] = value;
            }
        }
    }
    map.touch(cut);
}

/** A label map resampled to another size, by the pixel under each center. */
export function resample({ width, height, labels }, newWidth, newHeight) {
    const resampled = new Uint8Array(newWidth * newHeight);
    for (let y = 0, i = 0; y < newHeight; y++) {
        const row = Math.floor((y + 0.5) * height / newHeight) * width;
        for (let x = 0; x < newWidth; x++, i++) {
            resampled[i] = labels[row + Math.floor((x + 0.5) * width / newWidth)];
        }
    }
    return resampled;
}

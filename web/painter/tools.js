/**
 * The tools. Each takes the pointer's way over the map, in pixels of the map, and edits `editor.map` between
 * `begin` and `commit`. `draw` adds to the overlay. With the mirror on, the other side follows.
 */

import { MIRRORED } from "./classes.js";
import { boxOf, fillRegion, liftClass, paintPolygon, paintSegment, placeClass } from "./raster.js";

const BACKGROUND = 0;
const CLOSE = 10; // screen pixels within which a click closes a polygon or takes a handle
const SMALLEST = 2; // pixels of a scaled part
const HANDLES = [[0, 0], [0.5, 0], [1, 0], [0, 0.5], [1, 0.5], [0, 1], [0.5, 1], [1, 1]];

class Brush {
    #last = null;

    constructor(editor, value = () => editor.value) {
        Object.assign(this, { editor, value });
    }

    get busy() {
        return this.#last !== null;
    }

    down(point, { pressure = 1, eraser = false } = {}) {
        this.editor.map.begin();
        this.#last = point;
        this.now = eraser ? BACKGROUND : this.value();
        this.move(point, { pressure });
    }

    move(point, { pressure = 1 } = {}) {
        if (!this.busy) {
            return;
        }
        const { editor, now } = this, radius = editor.radius * pressure;
        paintSegment(editor.map, this.#last, point, radius, now);
        if (editor.mirror) {
            paintSegment(editor.map, editor.mirrored(this.#last), editor.mirrored(point), radius, MIRRORED[now]);
        }
        this.#last = point;
    }

    up() {
        if (this.busy) {
            this.#last = null;
            this.editor.commit();
        }
    }

    cancel() {
        this.#last = null;
        this.editor.map.cancel();
    }

    draw(overlay, pointer) {
        const { editor } = this;
        overlay.circle(pointer, editor.radius);
        if (editor.mirror && pointer) {
            overlay.circle(editor.mirrored(pointer), editor.radius);
        }
    }
}

class Fill {
    constructor(editor) {
        this.editor = editor;
    }

    down(point) {
        const { editor } = this;
        editor.map.begin();
        fillRegion(editor.map, point, editor.value);
        if (editor.mirror) {
            fillRegion(editor.map, editor.mirrored(point), MIRRORED[editor.value]);
        }
        editor.commit();
    }
}

class Polygon {
    points = [];

    constructor(editor) {
        this.editor = editor;
    }

    get busy() {
        return this.points.length > 0;
    }

    down(point) {
        const [first] = this.points;
        if (first && this.points.length > 2 && this.editor.screenDistance(first, point) < CLOSE) {
            this.finish();
        } else {
            this.points.push(point);
        }
    }

    finish() {
        const { editor, points } = this;
        this.points = [];
        if (points.length < 3) {
            return;
        }
        editor.map.begin();
        paintPolygon(editor.map, points, editor.value);
        if (editor.mirror) {
            paintPolygon(editor.map, points.map((point) => editor.mirrored(point)), MIRRORED[editor.value]);
        }
        editor.commit();
    }

    back() {
        this.points.pop();
    }

    cancel() {
        this.points = [];
    }

    draw(overlay, pointer) {
        const ahead = pointer ? [pointer] : [];
        if (this.busy) {
            overlay.path([...this.points, ...ahead]);
            overlay.dots(this.points);
        }
        if (this.busy && this.editor.mirror) {
            overlay.path([...this.points, ...ahead].map((point) => this.editor.mirrored(point)));
        }
    }
}

/** Moves and scales every pixel of one class; what it leaves takes the nearest other class. */
class Move {
    #drag = null;

    constructor(editor) {
        this.editor = editor;
    }

    get busy() {
        return this.#drag !== null;
    }

    down(point) {
        const { editor } = this;
        const box = boxOf(editor.map, editor.value);
        const handle = box && this.#handleAt(box, point);
        const inside = box && point.x >= box.left && point.x < box.right && point.y >= box.top && point.y < box.bottom;
        if (handle || inside) {
            this.#lift();
            Object.assign(this.#drag, { start: point, handle });
        }
    }

    move(point) {
        if (!this.busy) {
            return;
        }
        const { start, handle } = this.#drag;
        const dx = point.x - start.x, dy = point.y - start.y;
        const [u, v] = handle ?? [];
        this.#place(handle
            ? { left: u === 0 ? dx : 0, right: u === 1 ? dx : 0, top: v === 0 ? dy : 0, bottom: v === 1 ? dy : 0 }
            : { left: Math.round(dx), right: Math.round(dx), top: Math.round(dy), bottom: Math.round(dy) });
    }

    up() {
        if (this.busy) {
            this.#drag = null;
            this.editor.commit();
        }
    }

    cancel() {
        this.#drag = null;
        this.editor.map.cancel();
    }

    /** Moves the sides of the part's box by so many pixels, in one step. */
    nudge(edges) {
        if (boxOf(this.editor.map, this.editor.value)) {
            this.#lift();
            this.#place(edges);
            this.up();
        }
    }

    draw(overlay) {
        const box = this.#drag?.box ?? boxOf(this.editor.map, this.editor.value);
        if (box) {
            overlay.path([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]].map(([u, v]) => corner(box, u, v)));
            overlay.dots(HANDLES.map(([u, v]) => corner(box, u, v)));
        }
    }

    /** Handles of a small part reach less far, lest its inside be out of reach. */
    #handleAt(box, point) {
        const distance = (u, v) => this.editor.screenDistance(corner(box, u, v), point);
        const side = Math.min(box.right - box.left, box.bottom - box.top);
        const reach = Math.min(CLOSE, Math.max(4, this.editor.screenDistance({ x: 0, y: 0 }, { x: side, y: 0 }) / 4));
        return HANDLES.find(([u, v]) => distance(u, v) < reach);
    }

    #lift() {
        const { map, value, mirror } = this.editor;
        map.begin();
        const values = mirror ? [...new Set([value, MIRRORED[value]])] : [value];
        const parts = values.map((part) => liftClass(map, part)).filter(Boolean);
        this.#drag = { parts, bare: map.labels.slice(), box: parts[0].box };
    }

    #place({ left, top, right, bottom }) {
        const { parts, bare } = this.#drag;
        const { map } = this.editor;
        map.labels.set(bare);
        map.touch(map.all);
        parts.forEach((part, k) => {
            const sides = k === 0 ? { left, right } : { left: -right, right: -left };
            const target = moved(part.box, { ...sides, top, bottom });
            placeClass(map, part, target);
            this.#drag.box = k === 0 ? target : this.#drag.box;
        });
    }
}

/** A box with its sides moved, the far one kept at a distance. */
function moved(box, by) {
    const [left, right] = apart(box.left + by.left, box.right + by.right, by.left !== 0 && by.right === 0);
    const [top, bottom] = apart(box.top + by.top, box.bottom + by.bottom, by.top !== 0 && by.bottom === 0);
    return { left, top, right, bottom };
}

function apart(low, high, lowMoves) {
    if (high - low >= SMALLEST) {
        return [low, high];
    }
    return lowMoves ? [high - SMALLEST, high] : [low, low + SMALLEST];
}

function corner(box, u, v) {
    return { x: box.left + u * (box.right - box.left), y: box.top + v * (box.bottom - box.top) };
}

/** Drags the view itself. */
class Hand {
    #last = null;

    constructor(editor) {
        this.editor = editor;
    }

    down(_, { screen }) {
        this.#last = screen;
    }

    move(_, { screen }) {
        if (this.#last) {
            this.editor.pan(screen.x - this.#last.x, screen.y - this.#last.y);
            this.#last = screen;
        }
    }

    up() {
        this.#last = null;
    }

    cancel() {
        this.up();
    }
}

/** Makes the tools of one editor, in the order of the tool bar. */
export function makeTools(editor) {
    return {
        brush: new Brush(editor),
        eraser: new Brush(editor, () => BACKGROUND),
        fill: new Fill(editor),
        polygon: new Polygon(editor),
        move: new Move(editor),
        hand: new Hand(editor),
    };
}

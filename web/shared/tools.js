/** Tools that editors share: handles of a box, dragging a box, and the hand. */

export const CLOSE = 10; // screen pixels within which a click takes a handle

const HANDLES = [[0, 0], [0.5, 0], [1, 0], [0, 0.5], [1, 0.5], [0, 1], [0.5, 1], [1, 1]];

/** Boxes are { left, top, right, bottom } in pixels of the content. */
export const contains = (box, { x, y }) => x >= box.left && x < box.right && y >= box.top && y < box.bottom;

/** The handle [u, v] near a point, 0 to 1 along each side. Handles of a small box reach less far and leave it free. */
export function handleAt(editor, box, point) {
    const distance = (u, v) => editor.screenDistance(corner(box, u, v), point);
    const side = Math.min(box.right - box.left, box.bottom - box.top);
    const reach = Math.min(CLOSE, Math.max(4, editor.screenDistance({ x: 0, y: 0 }, { x: side, y: 0 }) / 4));
    return HANDLES.find(([u, v]) => distance(u, v) < reach);
}

/** Distances of the sides when a handle moves. */
export function pullHandle([u, v], dx, dy) {
    return { left: u === 0 ? dx : 0, right: u === 1 ? dx : 0, top: v === 0 ? dy : 0, bottom: v === 1 ? dy : 0 };
}

/** A box with its sides moved, but no smaller than `smallest`. */
export function moveSides(box, by, smallest) {
    const [left, right] = spread(box.left + by.left, box.right + by.right, by.left !== 0 && by.right === 0, smallest);
    const [top, bottom] = spread(box.top + by.top, box.bottom + by.bottom, by.top !== 0 && by.bottom === 0, smallest);
    return { left, top, right, bottom };
}

function spread(low, high, lowMoves, smallest) {
    if (high - low >= smallest) {
        return [low, high];
    }
    return lowMoves ? [high - smallest, high] : [low, low + smallest];
}

/** The point at fractions u of a box's width and v of its height. */
export function corner(box, u, v) {
    return { x: box.left + u * (box.right - box.left), y: box.top + v * (box.bottom - box.top) };
}

export function drawHandles(overlay, box) {
    overlay.dots(HANDLES.map(([u, v]) => corner(box, u, v)));
}

/**
 * Moves and scales a box by pointer or arrow keys; each drag is one step of the history. A subclass has `box`, the box
 * to drag (null or undefined without a box), grab(), which begins the edit, and place(edges), which moves the sides of
 * the grabbed box by these distances from the start. It may override takes(point), whether a click outside the handles
 * grabs the box, and snap(distance), which rounds the distances of a move.
 */
export class Drag {
    #grip = null; // { start, handle } while a pointer drags
    dragged = true;

    constructor(editor) {
        this.editor = editor;
    }

    get busy() {
        return this.#grip !== null;
    }

    takes(point) {
        return Boolean(this.box) && contains(this.box, point);
    }

    snap(distance) {
        return distance;
    }

    down(point) {
        const { box } = this;
        const handle = box && handleAt(this.editor, box, point);
        if (handle || this.takes(point)) {
            this.grab();
            this.#grip = { start: point, handle };
        }
    }

    move(point) {
        if (!this.busy) {
            return;
        }
        const { start, handle } = this.#grip;
        const dx = point.x - start.x, dy = point.y - start.y;
        const x = this.snap(dx), y = this.snap(dy);
        this.place(handle ? pullHandle(handle, dx, dy) : { left: x, right: x, top: y, bottom: y });
    }

    up() {
        if (this.busy) {
            this.#grip = null;
            this.editor.commit();
        }
    }

    drop() {
        if (this.busy) {
            this.#grip = null;
            this.editor.content.cancel();
        }
    }

    cancel() {
        this.drop();
    }

    /** Moves the sides of the box by so many pixels, in one step. */
    nudge(edges) {
        if (this.box) {
            this.grab();
            this.place(edges);
            this.#grip = null;
            this.editor.commit();
        }
    }

    draw(overlay) {
        if (this.box) {
            drawHandles(overlay, this.box);
        }
    }
}

/** Drags the view itself. */
export class Hand {
    #last = null;
    dragged = true;

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

    drop() {
        this.up();
    }

    cancel() {
        this.up();
    }
}

/** What tools of several editors share: the handles of a box, and the hand. */

export const CLOSE = 10; // screen pixels within which a click takes a handle

const HANDLES = [[0, 0], [0.5, 0], [1, 0], [0, 0.5], [1, 0.5], [0, 1], [0.5, 1], [1, 1]];

/** Boxes are { left, top, right, bottom } in pixels of the content. */
export const holds = (box, { x, y }) => x >= box.left && x < box.right && y >= box.top && y < box.bottom;

/** The handle [u, v] near a point, 0 to 1 along each side. Those of a small box reach less far, lest it be covered. */
export function handleAt(editor, box, point) {
    const distance = (u, v) => editor.screenDistance(corner(box, u, v), point);
    const side = Math.min(box.right - box.left, box.bottom - box.top);
    const reach = Math.min(CLOSE, Math.max(4, editor.screenDistance({ x: 0, y: 0 }, { x: side, y: 0 }) / 4));
    return HANDLES.find(([u, v]) => distance(u, v) < reach);
}

/** How far each side goes when a handle does. */
export function pulled([u, v], dx, dy) {
    return { left: u === 0 ? dx : 0, right: u === 1 ? dx : 0, top: v === 0 ? dy : 0, bottom: v === 1 ? dy : 0 };
}

/** A box with its sides moved, the far one kept at a distance. */
export function moved(box, by, smallest) {
    const [left, right] = apart(box.left + by.left, box.right + by.right, by.left !== 0 && by.right === 0, smallest);
    const [top, bottom] = apart(box.top + by.top, box.bottom + by.bottom, by.top !== 0 && by.bottom === 0, smallest);
    return { left, top, right, bottom };
}

function apart(low, high, lowMoves, smallest) {
    if (high - low >= smallest) {
        return [low, high];
    }
    return lowMoves ? [high - smallest, high] : [low, low + smallest];
}

/** The place u of the width and v of the height of a box. */
export function corner(box, u, v) {
    return { x: box.left + u * (box.right - box.left), y: box.top + v * (box.bottom - box.top) };
}

export function drawHandles(overlay, box) {
    overlay.dots(HANDLES.map(([u, v]) => corner(box, u, v)));
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

    cancel() {
        this.up();
    }
}

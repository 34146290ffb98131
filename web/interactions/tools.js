/** The tools. They write boxes of `editor.content`, in pixels of the image. */

import { Drag, Hand, moveSides } from "../shared/tools.js";
import { COLORS, between } from "./model.js";

const LEAST_DRAWN = 5; // CSS pixels; a shorter drag is a click, not a box
const LEAST_FRACTION = 0.01; // of the image's shorter side, for the sides of a box

const clamp = (low, number, high) => Math.min(high, Math.max(low, number));
const least = ({ width, height }) => LEAST_FRACTION * Math.min(width, height);

/** Two boxes, the subject's and the object's, make an interaction. */
class Draw {
    #start = null;
    #end = null;

    constructor(editor) {
        this.editor = editor;
    }

    get held() {
        return this.#start !== null;
    }

    get busy() {
        return this.held || this.editor.pending !== null;
    }

    down(point) {
        this.#start = this.#end = this.#inside(point);
    }

    move(point) {
        if (this.held) {
            this.#end = this.#inside(point);
        }
    }

    up() {
        const { editor } = this, { pending } = editor;
        const box = this.held ? this.#box() : null;
        this.#start = null;
        if (!box) {
            return;
        }
        if (pending) {
            editor.set({ pending: null });
            editor.add(pending, box);
        } else {
            editor.set({ pending: box });
        }
    }

    /** Discards the subject's box. */
    back() {
        this.cancel();
        this.editor.changed("state");
    }

    /** The subject's box stays. */
    drop() {
        this.#start = null;
    }

    cancel() {
        this.drop();
        this.editor.pending = null;
    }

    draw(overlay) {
        const { content, pending } = this.editor;
        const color = COLORS[content.interactions.length % COLORS.length];
        const box = this.held ? this.#box() : null;
        if (pending && box) {
            overlay.action(content.inPixels(between(content.inFractions(pending), content.inFractions(box))), color);
        }
        if (pending) {
            overlay.box(pending, color);
        }
        if (box) {
            overlay.box(box, color, Boolean(pending));
        }
    }

    /** The drawn box; null while it is too small. */
    #box() {
        const [a, b] = [this.#start, this.#end];
        const box = { left: Math.min(a.x, b.x), top: Math.min(a.y, b.y), right: Math.max(a.x, b.x),
            bottom: Math.max(a.y, b.y) };
        const side = Math.max(least(this.editor.content), LEAST_DRAWN * this.editor.view.pixel);
        return box.right - box.left >= side && box.bottom - box.top >= side ? box : null;
    }

    #inside({ x, y }) {
        const { width, height } = this.editor.content;
        return { x: clamp(0, x, width), y: clamp(0, y, height) };
    }
}

/** Chooses, moves and resizes boxes. */
class Move extends Drag {
    #grabbed = null; // the chosen box at the start of the edit

    get box() {
        return this.editor.chosenBox;
    }

    /** Chooses the box at a point; the chosen box comes first, then the smallest. */
    takes(point) {
        const { editor } = this;
        const found = editor.boxesAt(point);
        if (found.length) {
            editor.choose(found.find((one) => editor.isChosen(one)) ?? found[0]);
        }
        return found.length > 0;
    }

    grab() {
        this.editor.content.begin();
        this.#grabbed = this.editor.chosenBox;
    }

    place({ left, right, top, bottom }) {
        const { content } = this.editor;
        const box = this.#grabbed;
        [left, right] = limit(box.left, box.right, left, right, content.width);
        [top, bottom] = limit(box.top, box.bottom, top, bottom, content.height);
        this.editor.place(moveSides(box, { left, right, top, bottom }, least(content)));
    }

    finish() {
        this.editor.rename();
    }
}

/** Distances of two sides, limited to the image: a box that moves as a whole keeps its size. */
function limit(low, high, lowBy, highBy, end) {
    if (lowBy === highBy) {
        const by = clamp(-low, lowBy, end - high);
        return [by, by];
    }
    return [Math.max(-low, lowBy), Math.min(end - high, highBy)];
}

/** Makes the tools of one editor, in the order of the tool bar. */
export function makeTools(editor) {
    return { draw: new Draw(editor), move: new Move(editor), hand: new Hand(editor) };
}

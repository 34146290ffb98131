/** The tools. They write boxes of `editor.content`, in pixels of the picture. */

import { Hand, drawHandles, handleAt, moved, pulled } from "../shared/tools.js";
import { COLOURS, between } from "./model.js";

const LEAST_DRAWN = 5; // CSS pixels; a shorter way is a click, not a box
const LEAST_SHARE = 0.01; // of the picture's shorter side, for the side of a box

const clamp = (low, number, high) => Math.min(high, Math.max(low, number));
const least = ({ width, height }) => LEAST_SHARE * Math.min(width, height);

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
        const box = this.#box();
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

    /** Takes the subject's box back. */
    back() {
        this.cancel();
        this.editor.changed("state");
    }

    cancel() {
        this.#start = null;
        this.editor.pending = null;
    }

    draw(overlay) {
        const { content, pending } = this.editor;
        const colour = COLOURS[content.interactions.length % COLOURS.length];
        const box = this.held ? this.#box() : null;
        if (pending && box) {
            overlay.action(content.inPixels(between(content.inFractions(pending), content.inFractions(box))), colour);
        }
        if (pending) {
            overlay.box(pending, colour);
        }
        if (box) {
            overlay.box(box, colour, Boolean(pending));
        }
    }

    /** What has been drawn, null while that is no box. */
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
class Move {
    #drag = null;
    dragged = true;

    constructor(editor) {
        this.editor = editor;
    }

    get busy() {
        return this.#drag !== null;
    }

    down(point) {
        const { editor } = this;
        const handle = editor.one && handleAt(editor, editor.chosenBox, point);
        const found = editor.boxesAt(point);
        if (!handle && !found.length) {
            return;
        }
        if (!handle) {
            editor.choose(found.find((one) => editor.isChosen(one)) ?? found[0]);
        }
        editor.content.begin();
        this.#drag = { start: point, handle, box: editor.chosenBox };
    }

    move(point) {
        if (this.busy) {
            const { start, handle, box } = this.#drag;
            const dx = point.x - start.x, dy = point.y - start.y;
            this.#place(box, handle ? pulled(handle, dx, dy) : { left: dx, right: dx, top: dy, bottom: dy });
        }
    }

    up() {
        if (this.busy) {
            this.#drag = null;
            this.editor.commit();
        }
    }

    cancel() {
        if (this.busy) {
            this.#drag = null;
            this.editor.content.cancel();
        }
    }

    /** Moves the sides of the chosen box by so many pixels, in one step. */
    nudge(edges) {
        const { editor } = this;
        if (editor.one) {
            editor.content.begin();
            this.#place(editor.chosenBox, edges);
            editor.commit();
        }
    }

    finish() {
        this.editor.rename();
    }

    draw(overlay) {
        if (this.editor.one) {
            drawHandles(overlay, this.editor.chosenBox);
        }
    }

    #place(box, { left, right, top, bottom }) {
        const { content } = this.editor;
        [left, right] = kept(box.left, box.right, left, right, content.width);
        [top, bottom] = kept(box.top, box.bottom, top, bottom, content.height);
        this.editor.place(moved(box, { left, right, top, bottom }, least(content)));
    }
}

/** How far two sides may go: a box that moves keeps its size, and none leaves the picture. */
function kept(low, high, lowBy, highBy, end) {
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

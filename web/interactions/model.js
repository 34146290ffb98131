/** Interactions with the history of their edits, and their text in a graph. No DOM. */

export const MAX_STEPS = 200;
export const LIMIT = 30; // most interactions that the published weights read
export const PHRASES = ["subject", "action", "object"];
export const BOXES = ["subject_box", "object_box"];

const DIGITS = 1e4; // boxes are rounded to a ten-thousandth of the image

/** One color an interaction, in turn, as in `mdit/interactdiffusion/draw.py`. */
export const COLORS = [[214, 39, 40], [148, 150, 20], [31, 119, 180], [44, 160, 44], [255, 127, 14], [140, 86, 75],
    [23, 190, 207], [148, 103, 189]];

/** The text of interactions, which `mdit/interactdiffusion/text.py` reads: a JSON list, one interaction a line. */
export const toText = (interactions) => `[${interactions.map((one) => JSON.stringify(one)).join(",\n ")}]`;

/** The interactions of such a text; throws for any other text, also for the node's other notation. */
export function fromText(text) {
    const found = text.trim() ? JSON.parse(text) : [];
    if (!Array.isArray(found) || !found.every(isInteraction)) {
        throw new Error("not a list of interactions");
    }
    return found.map((one) => Object.fromEntries([...PHRASES, ...BOXES].map((name) => [name, one[name]])));
}

const isInteraction = (one) => one !== null && typeof one === "object"
    && PHRASES.every((name) => typeof one[name] === "string") && BOXES.every((name) => isBox(one[name]));

function isBox(box) {
    const [x0, y0, x1, y1] = Array.isArray(box) && box.length === 4 && box.every(Number.isFinite) ? box : [];
    return 0 <= x0 && x0 < x1 && x1 <= 1 && 0 <= y0 && y0 < y1 && y1 <= 1;
}

/** The action's box: on each axis the second and third of the four sorted coordinates. */
export function between(one, other) {
    const [[x0, x1], [y0, y1]] = [0, 1].map(
        (axis) => [one[axis], one[axis + 2], other[axis], other[axis + 2]].sort((a, b) => a - b).slice(1, 3));
    return [x0, y0, x1, y1];
}

/** Interactions over an image of a size in pixels. Their boxes are [x0, y0, x1, y1], fractions of the image. */
export class Layout {
    #before = null;
    #undo = [];
    #redo = [];

    /** The list and its entries are never changed: an edit replaces the list. */
    constructor(width, height, interactions = []) {
        Object.assign(this, { width, height, interactions });
    }

    get isFull() {
        return this.interactions.length >= LIMIT;
    }

    get canUndo() {
        return this.#undo.length > 0;
    }

    get canRedo() {
        return this.#redo.length > 0;
    }

    /** { left, top, right, bottom } in pixels of a box. */
    inPixels([x0, y0, x1, y1]) {
        const { width, height } = this;
        return { left: x0 * width, top: y0 * height, right: x1 * width, bottom: y1 * height };
    }

    inFractions({ left, top, right, bottom }) {
        const fraction = (pixels, side) => Math.min(1, Math.max(0, Math.round(pixels / side * DIGITS) / DIGITS));
        return [fraction(left, this.width), fraction(top, this.height), fraction(right, this.width),
            fraction(bottom, this.height)];
    }

    /** Starts an edit, unless one is open: `interactions` may be replaced until `commit` or `cancel`. */
    begin() {
        this.#before ??= this.interactions;
    }

    /** Changes fields of one interaction. */
    change(index, fields) {
        this.interactions = this.interactions.with(index, { ...this.interactions[index], ...fields });
    }

    /** Ends an edit; false when it changed nothing. */
    commit() {
        const before = this.#before;
        this.#before = null;
        if (!before || toText(before) === toText(this.interactions)) {
            return false;
        }
        this.#undo.push(before);
        this.#redo.length = 0;
        if (this.#undo.length > MAX_STEPS) {
            this.#undo.shift();
        }
        return true;
    }

    cancel() {
        this.interactions = this.#before ?? this.interactions;
        this.#before = null;
    }

    undo() {
        return this.#restore(this.#undo, this.#redo);
    }

    redo() {
        return this.#restore(this.#redo, this.#undo);
    }

    #restore(from, to) {
        this.commit();
        if (!from.length) {
            return false;
        }
        to.push(this.interactions);
        this.interactions = from.pop();
        return true;
    }
}

/** A label map with the history of its edits. No DOM. */

export const MAX_STEPS = 200;
export const LONGEST_SIDE = 4096;

/** Runs of equal bytes as (length * 256 + byte): a step of a label map takes a few hundred of them. */
function pack(bytes) {
    const runs = [];
    for (let start = 0, end = 1; end <= bytes.length; end++) {
        if (end === bytes.length || bytes[end] !== bytes[start]) {
            runs.push((end - start) * 256 + bytes[start]);
            start = end;
        }
    }
    return Uint32Array.from(runs);
}

function unpack(runs, length) {
    const bytes = new Uint8Array(length);
    let end = 0;
    for (const run of runs) {
        bytes.fill(run & 255, end, end += run >>> 8);
    }
    return bytes;
}

/** Boxes are { left, top, right, bottom } in pixels, right and bottom exclusive. */
export function union(a, b) {
    if (!a || !b) {
        return a ?? b;
    }
    return {
        left: Math.min(a.left, b.left), top: Math.min(a.top, b.top),
        right: Math.max(a.right, b.right), bottom: Math.max(a.bottom, b.bottom),
    };
}

export class LabelMap {
    #before = null;
    #undo = [];
    #redo = [];
    #states = 0;
    state = 0; // number of the present content: undo and redo bring it back

    /** labels: one class a pixel, row by row. */
    constructor(width, height, labels = new Uint8Array(width * height)) {
        this.#assign(width, height, labels);
    }

    get all() {
        return { left: 0, top: 0, right: this.width, bottom: this.height };
    }

    get canUndo() {
        return this.#undo.length > 0;
    }

    get canRedo() {
        return this.#redo.length > 0;
    }

    /** Class at a point in pixels, null outside. */
    at({ x, y }) {
        const inside = x >= 0 && y >= 0 && x < this.width && y < this.height;
        return inside ? this.labels[Math.floor(y) * this.width + Math.floor(x)] : null;
    }

    /** A box cut to whole pixels of the map. */
    clip({ left, top, right, bottom }) {
        return {
            left: Math.max(0, Math.floor(left)), top: Math.max(0, Math.floor(top)),
            right: Math.min(this.width, Math.ceil(right)), bottom: Math.min(this.height, Math.ceil(bottom)),
        };
    }

    /** Marks the pixels inside a box as changed, for the next `takeDirty`. */
    touch(box) {
        this.dirty = union(this.dirty, box);
    }

    takeDirty() {
        const { dirty } = this;
        this.dirty = null;
        return dirty;
    }

    /** Starts an edit, unless one is open: `labels` may be written until `commit` or `cancel`. */
    begin() {
        this.#before ??= this.labels.slice();
    }

    /** Ends an edit; false when it changed nothing. */
    commit() {
        const before = this.#before;
        this.#before = null;
        const box = before && this.#changedBox(before);
        if (!box) {
            return false;
        }
        this.#remember({
            width: this.width, height: this.height, state: this.state, box, runs: pack(cut(before, this.width, box)),
        });
        return true;
    }

    cancel() {
        if (this.#before) {
            this.labels.set(this.#before);
            this.#before = null;
            this.touch(this.all);
        }
    }

    /** Replaces size and labels, as one step. */
    replace(width, height, labels) {
        this.cancel();
        this.#remember(this.#step(this.all));
        this.#assign(width, height, labels);
    }

    undo() {
        return this.#restore(this.#undo, this.#redo);
    }

    redo() {
        return this.#restore(this.#redo, this.#undo);
    }

    #assign(width, height, labels) {
        Object.assign(this, { width, height, labels });
        this.dirty = this.all;
    }

    #step(box) {
        const { width, height, state, labels } = this;
        return { width, height, state, box, runs: pack(cut(labels, width, box)) };
    }

    #remember(step) {
        this.state = ++this.#states;
        this.#undo.push(step);
        this.#redo.length = 0;
        if (this.#undo.length > MAX_STEPS) {
            this.#undo.shift();
        }
    }

    #restore(from, to) {
        this.cancel();
        const step = from.pop();
        if (!step) {
            return false;
        }
        const { width, height, state, box, runs } = step;
        const same = width === this.width && height === this.height;
        to.push(this.#step(same ? box : this.all));
        if (!same) {
            this.#assign(width, height, new Uint8Array(width * height));
        }
        paste(this.labels, width, box, unpack(runs, (box.right - box.left) * (box.bottom - box.top)));
        this.state = state;
        this.touch(box);
        return true;
    }

    #changedBox(before) {
        const { width, height, labels } = this;
        let left = width, right = 0, top = -1, bottom = 0;
        for (let y = 0; y < height; y++) {
            const row = y * width;
            let first = 0, last = width - 1;
            while (first <= last && before[row + first] === labels[row + first]) first++;
            if (first > last) {
                continue;
            }
            while (before[row + last] === labels[row + last]) last--;
            left = Math.min(left, first);
            right = Math.max(right, last + 1);
            top = top < 0 ? y : top;
            bottom = y + 1;
        }
        return top < 0 ? null : { left, top, right, bottom };
    }
}

function cut(labels, width, { left, top, right, bottom }) {
    const bytes = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y++) {
        bytes.set(labels.subarray(y * width + left, y * width + right), (y - top) * (right - left));
    }
    return bytes;
}

function paste(labels, width, { left, top, right, bottom }, bytes) {
    const row = right - left;
    for (let y = top; y < bottom; y++) {
        labels.set(bytes.subarray((y - top) * row, (y - top + 1) * row), y * width + left);
    }
}

/** State and operations of one editor of interactions. */

import { Editor } from "../shared/editor.js";
import { contains } from "../shared/tools.js";
import { BOXES, Layout } from "./model.js";
import { makeTools } from "./tools.js";

const UNNAMED = { subject: "", action: "", object: "" };
const COPY_SHIFT = 0.03; // of the image, from a box to its copy

const area = ({ left, top, right, bottom }) => (right - left) * (bottom - top);

/** Events in addition to those of every editor: "rename" asks for the words of an interaction, "full" is the limit. */
export class LayoutEditor extends Editor {
    content = new Layout(512, 512);
    chosen = null; // { index, box: "subject_box" or "object_box" }, null while there is no interaction
    pending = null; // the subject's box of an interaction whose object is still to be drawn

    constructor() {
        super();
        this.tools = makeTools(this);
        this.tool = "draw";
    }

    get one() {
        return this.content.interactions[this.chosen?.index];
    }

    /** The chosen box in pixels. */
    get chosenBox() {
        return this.one && this.content.inPixels(this.one[this.chosen.box]);
    }

    // Choosing

    choose(chosen) {
        this.set({ chosen });
    }

    /** Chooses the next box in the order of the list, or with direction -1 the previous box. */
    step(direction) {
        const count = BOXES.length * this.content.interactions.length;
        if (count) {
            const now = BOXES.length * this.chosen.index + BOXES.indexOf(this.chosen.box);
            const next = (now + direction + count) % count;
            this.choose({ index: Math.floor(next / BOXES.length), box: BOXES[next % BOXES.length] });
        }
    }

    /** The boxes at a point, smaller boxes first. */
    boxesAt(point) {
        return this.content.interactions.flatMap((one, index) => BOXES.map((box) => ({ index, box })))
            .filter((found) => contains(this.#pixels(found), point))
            .sort((a, b) => area(this.#pixels(a)) - area(this.#pixels(b)));
    }

    isChosen({ index, box }) {
        return index === this.chosen?.index && box === this.chosen.box;
    }

    /** Chooses the box under the pointer; the next call chooses the box below. */
    pick() {
        const found = this.pointer ? this.boxesAt(this.pointer) : [];
        if (found.length) {
            this.choose(found[(found.findIndex((one) => this.isChosen(one)) + 1) % found.length]);
        }
    }

    // Edits

    /** Starts with interactions and an empty history. */
    reset(interactions) {
        const { width, height } = this.content;
        this.cancel();
        this.content = new Layout(width, height, interactions);
        this.set({ tool: interactions.length ? "move" : "draw", chosen: null });
    }

    /** Changes the size of the image; the boxes keep their fractions. */
    resize(width, height) {
        if (width !== this.content.width || height !== this.content.height) {
            this.cancel();
            Object.assign(this.content, { width, height });
            this.view.fit();
            this.changed("state");
        }
    }

    setTool(tool) {
        if (tool === "draw" && this.content.isFull) {
            this.dispatchEvent(new Event("full"));
            this.changed("state"); // releases the tool's button
        } else {
            super.setTool(tool);
        }
    }

    /** Adds an interaction of two boxes in pixels, and asks for its words. */
    add(subject, object) {
        const { content } = this;
        if (content.isFull) {
            this.dispatchEvent(new Event("full"));
            return;
        }
        this.#edit([...content.interactions, {
            ...UNNAMED, subject_box: content.inFractions(subject), object_box: content.inFractions(object),
        }], content.interactions.length);
        this.setTool("move");
        this.rename();
    }

    rename() {
        if (this.chosen) {
            this.dispatchEvent(new Event("rename"));
        }
    }

    /** Writes a phrase while the user types; `commit` makes the step. */
    type(index, phrase, text) {
        this.content.begin();
        this.content.change(index, { [phrase]: text });
        this.changed("typed");
    }

    /** Places the chosen box, in pixels, within an edit. */
    place(box) {
        this.content.change(this.chosen.index, { [this.chosen.box]: this.content.inFractions(box) });
        this.changed("state");
    }

    /** Swaps subject and object, words and boxes. */
    swap() {
        if (this.one) {
            const { subject, object, subject_box, object_box } = this.one;
            this.content.begin();
            this.content.change(this.chosen.index, {
                subject: object, object: subject, subject_box: object_box, object_box: subject_box });
            this.commit();
        }
    }

    duplicate() {
        const { interactions, isFull } = this.content;
        if (this.one && isFull) {
            this.dispatchEvent(new Event("full"));
        } else if (this.one) {
            const next = this.chosen.index + 1;
            this.#edit(interactions.toSpliced(next, 0, shiftCopy(this.one)), next);
        }
    }

    /** Moves the chosen interaction up (-1) or down the list. */
    reorder(direction) {
        const { interactions } = this.content;
        const from = this.chosen?.index, to = from + direction;
        if (interactions[to]) {
            this.#edit(interactions.with(to, interactions[from]).with(from, interactions[to]), to);
        }
    }

    remove() {
        if (this.one) {
            this.#edit(this.content.interactions.toSpliced(this.chosen.index, 1), this.chosen.index);
        }
    }

    clear() {
        this.#edit([], 0);
        this.setTool("draw");
    }

    /** Cancels an unfinished interaction first. */
    undo() {
        this.settle();
        if (this.activeTool.busy) {
            this.cancel();
        } else {
            super.undo();
        }
    }

    changed(what) {
        const last = this.content.interactions.length - 1;
        const { index = 0, box = BOXES[0] } = this.chosen ?? {};
        this.chosen = last < 0 ? null : { index: Math.min(index, last), box };
        super.changed(what);
    }

    #edit(interactions, index) {
        this.cancel();
        this.content.begin();
        this.content.interactions = interactions;
        this.chosen = { index, box: this.chosen?.box ?? BOXES[0] };
        this.commit();
    }

    #pixels({ index, box }) {
        return this.content.inPixels(this.content.interactions[index][box]);
    }
}

/** A copy next to its original: both boxes move by the same distance and stay in the image. */
function shiftCopy(one) {
    const [x, y] = [0, 1].map((axis) => {
        const highest = Math.max(...BOXES.map((box) => one[box][axis + 2]));
        const lowest = Math.min(...BOXES.map((box) => one[box][axis]));
        return highest + COPY_SHIFT <= 1 ? COPY_SHIFT : -Math.min(COPY_SHIFT, lowest);
    });
    const by = [x, y, x, y];
    return { ...one, ...Object.fromEntries(BOXES.map((box) => [box, one[box].map((side, k) => side + by[k])])) };
}

/** The tool that selects parts of the drawing, moves and scales them. */

import { Drag, corner, handleAt, moveSides } from "../shared/tools.js";
import { MIRRORED } from "./classes.js";
import { liftClasses } from "./gaps.js";
import { union } from "./model.js";
import { boxOf, placeClass } from "./raster.js";

const BACKGROUND = 0;
const SMALLEST = 2; // pixels a side of a scaled part
const NOWHERE = { left: 0, right: 0, top: 0, bottom: 0 };

/**
 * A click selects the class under it, with Shift one more. The selected parts float over the drawing until the tool or the
 * selection changes: moved back, they leave everything as it was.
 */
export class Select extends Drag {
    #float = null; // { map, key, parts, own, bare, places }: the first `own` parts are selected, the others are on
    // the other side; bare is the drawing without them, places has their boxes in each state of the drawing. A part is
    // { value, box, pixels, open }; it covers the pixels where open is 1
    #start = null; // boxes of the parts when the drag began
    #boxes = null; // and now

    get box() {
        const { map, selected } = this.editor;
        const boxes = (this.busy ? this.#boxes : this.#places)?.slice(0, this.#float.own)
            ?? selected.map((value) => boxOf(map, value));
        return boxes.filter(Boolean).reduce(union, null);
    }

    takes(point) {
        const { map, selected } = this.editor;
        return selected.includes(map.at(point)) || (map.at(point) === BACKGROUND && super.takes(point));
    }

    down(point, { shift = false } = {}) {
        const { editor } = this;
        const value = editor.map.at(point);
        const isPart = value !== null && value !== BACKGROUND;
        if (isPart && shift) {
            editor.toggleSelected(value);
        } else {
            this.selectUnder(point, isPart && value);
            super.down(point);
        }
    }

    selectUnder(point, value) {
        const { editor, box } = this;
        if (value && !editor.selected.includes(value) && !(box && handleAt(editor, box, point))) {
            editor.setValue(value);
        }
    }

    snap(distance) {
        return Math.round(distance);
    }

    grab() {
        const { map } = this.editor;
        const places = this.#places;
        map.begin();
        if (!places) {
            this.#lift();
        }
        this.#start = places ?? this.#float.parts.map(({ box }) => box);
        this.place(NOWHERE); // a click alone changes nothing
    }

    /** Boxes of what floats in the present state of the drawing, null when nothing does. */
    get #places() {
        const { map } = this.editor;
        return (this.#float?.map === map && this.#float.key === this.#key() && this.#float.places.get(map.state)) || null;
    }

    /** Lays other parts on the drawing `bare`, as one step; they are selected and float. `parts` are as `#lift` makes them. */
    lay(parts, bare) {
        const { editor } = this, { map } = editor;
        map.begin();
        editor.set({ value: parts[0].value, selected: parts.map(({ value }) => value) });
        this.#float = { map, key: this.#key(), parts, own: parts.length, bare, places: new Map() };
        this.#start = parts.map(({ box }) => box);
        this.place(NOWHERE);
        editor.commit();
        this.#float.places.set(map.state, this.#start);
    }

    #key() {
        const { selected, mirror, locked } = this.editor;
        return [mirror, ...selected, "", ...locked].join();
    }

    #lift() {
        const { map, selected, mirror, locked } = this.editor;
        const mirrored = mirror ? selected.map((value) => MIRRORED[value]) : [];
        const values = [...new Set([...selected, ...mirrored])].filter((value) => !locked.has(value));
        const open = map.labels.map((value) => !locked.has(value));
        const parts = liftClasses(map, values).map((part) => ({ ...part, open }));
        const own = parts.filter(({ value }) => selected.includes(value)).length; // these come first
        this.#float = { map, key: this.#key(), parts, own, bare: map.labels.slice(), places: new Map() };
        this.#float.places.set(map.state, parts.map(({ box }) => box));
    }

    /** What floats lies down. */
    leave() {
        this.#float = null;
    }

    place(sides) {
        const { parts, own, bare } = this.#float;
        const { map } = this.editor;
        const mirrored = { ...sides, left: -sides.right, right: -sides.left };
        this.#boxes = [...stretch(this.#start.slice(0, own), sides), ...stretch(this.#start.slice(own), mirrored)];
        map.labels.set(bare);
        map.touch(map.all);
        parts.forEach((part, k) => placeClass(map, part, this.#boxes[k]));
    }

    up() {
        const { busy, editor } = this;
        super.up();
        if (busy) {
            this.#float.places.set(editor.map.state, this.#boxes);
        }
    }

    nudge(sides) {
        const { box } = this;
        super.nudge(sides);
        if (box) {
            this.#float.places.set(this.editor.map.state, this.#boxes);
        }
    }

    draw(overlay) {
        const { box } = this;
        if (box) {
            overlay.path([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]].map(([u, v]) => corner(box, u, v)));
        }
        super.draw(overlay);
    }
}

/** Boxes that share the change of the box around them. */
function stretch(boxes, sides) {
    const whole = boxes.reduce(union, null);
    if (!whole) {
        return [];
    }
    const target = moveSides(whole, sides, SMALLEST);
    const alongX = scale(whole.left, whole.right, target.left, target.right);
    const alongY = scale(whole.top, whole.bottom, target.top, target.bottom);
    return boxes.map(({ left, top, right, bottom }) => (
        { left: alongX(left), top: alongY(top), right: alongX(right), bottom: alongY(bottom) }));
}

const scale = (low, high, newLow, newHigh) => (at) => newLow + (at - low) * (newHigh - newLow) / (high - low);

/** State and operations of one painter. */

import { Editor } from "../shared/editor.js";
import { CLASSES, MIRRORED, NATURAL, PALETTE } from "./classes.js";
import { fitPart } from "./gallery.js";
import { liftClasses } from "./gaps.js";
import { LabelMap } from "./model.js";
import { resample } from "./raster.js";
import { copySide, smoothClass } from "./shapes.js";
import { makeTools } from "./tools.js";

export const RADIUS = { min: 0.5, max: 256 };

const START = { value: 13, selected: [13], tool: "brush", radius: 14, mirror: false, axis: 0.5, opacity: 0.7 };
const BACKGROUND = 0;
const SMOOTHED = 170; // edges are smoothed over the drawing's longer side divided by this

/** What a stroke covers: every class, the selected ones, or only background: it then passes behind the others. */
export const COVERS = ["everything", "selection", "background"];

const between = (low, number, high) => Math.min(high, Math.max(low, number));

export class LabelEditor extends Editor {
    map = new LabelMap(512, 512);

    /** settings: what the graph keeps with the node, by `get` and `set`; a graph may hold anything in their place. */
    constructor(settings) {
        super();
        Object.assign(this, START, { settings });
        this.tools = makeTools(this);
    }

    get content() {
        return this.map;
    }

    get mirrorX() {
        return this.mirror ? this.axis * this.map.width : null;
    }

    mirrored({ x, y }) {
        return { x: 2 * this.mirrorX - x, y };
    }

    /** The classes whose pixels no tool changes. */
    get locked() {
        const kept = this.settings.get("locked");
        return new Set(Array.isArray(kept) ? kept.filter((value) => Number.isInteger(value) && value in CLASSES) : []);
    }

    /** One of `COVERS`. */
    get cover() {
        const kept = this.settings.get("cover");
        return COVERS.includes(kept) ? kept : COVERS[0];
    }

    /** Whether the drawing is shown in colors of faces: for the eye alone, the label map keeps its own. */
    get natural() {
        return Boolean(this.settings.get("naturalColors"));
    }

    /** 8-bit RGB of each class on the screen. */
    get colors() {
        return this.natural ? NATURAL : PALETTE;
    }

    /** For each class, whether moved parts may cover it. */
    get unlocked() {
        const { locked } = this;
        return CLASSES.map((_, value) => !locked.has(value));
    }

    /** For each class, whether a stroke may cover it. */
    get over() {
        const { unlocked, cover, selected } = this;
        const covered = { everything: () => true, selection: (value) => selected.includes(value),
                          background: (value) => value === BACKGROUND }[cover];
        return unlocked.map((isOpen, value) => isOpen && covered(value));
    }

    // Settings

    setValue(value) {
        this.set({ value, selected: [value] });
    }

    /** Adds a class to the selection or removes it; one stays. */
    toggleSelected(value) {
        const others = this.selected.filter((found) => found !== value);
        const selected = others.length < this.selected.length ? others : [...others, value];
        if (selected.length) {
            this.set({ selected, value: selected.includes(this.value) ? this.value : selected[0] });
        }
    }

    /** The graph keeps the choice with the node. */
    keep(name, value) {
        this.settings.set(name, value);
        this.changed("state");
    }

    toggleLock(value) {
        const { locked } = this;
        if (!locked.delete(value)) {
            locked.add(value);
        }
        this.keep("locked", [...locked]);
    }

    /** The next of `COVERS`. */
    turnCover() {
        this.keep("cover", COVERS[(COVERS.indexOf(this.cover) + 1) % COVERS.length]);
    }

    setRadius(radius) {
        this.set({ radius: between(RADIUS.min, Math.round(radius * 2) / 2, RADIUS.max) });
    }

    /** The next brush size up (1) or down (-1): in steps that look equal. */
    stepRadius(direction) {
        this.setRadius(this.radius + direction * Math.max(0.5, this.radius * 0.12));
    }

    setOpacity(opacity) {
        this.set({ opacity: between(0, opacity, 1) });
    }

    shiftAxis(pixels) {
        const axis = between(0, this.axis + pixels / this.map.width, 1);
        this.set({ mirror: true, axis });
    }

    // Edits

    /** Replaces the label map, as a step of the history. */
    replace({ width, height, labels }) {
        this.settle();
        this.activeTool.cancel?.();
        this.map.replace(width, height, labels);
        this.view?.fit();
        this.changed("edit");
    }

    /** Starts with a label map and an empty history. */
    reset({ width, height, labels }) {
        this.cancel();
        this.map = new LabelMap(width, height, labels);
        this.view?.fit();
        this.changed("state");
    }

    /** Empties the drawing; locked parts stay. */
    clear() {
        const { map: { width, height, labels }, locked } = this;
        this.replace({ width, height, labels: labels.map((value) => locked.has(value) ? value : BACKGROUND) });
    }

    /** Lays a part of the gallery on the face; it floats. False if all its classes are locked. */
    layPart(gallery, group, name) {
        this.setTool("move");
        const { parts, bare } = fitPart(this.map, gallery, group, name, this.unlocked);
        if (parts.length) {
            this.tools.move.lay(parts, bare);
        }
        return parts.length > 0;
    }

    /** Removes the selected classes; their pixels take what lies around. */
    removeSelected() {
        const { selected, mirror, unlocked } = this;
        const values = [...selected, ...(mirror ? selected.map((value) => MIRRORED[value]) : [])];
        this.#edit((map) => liftClasses(map, [...new Set(values)].filter((value) => unlocked[value])));
    }

    /** Smooths the edges of the selected parts. */
    smooth() {
        const { selected, unlocked } = this;
        const radius = Math.max(1, Math.round(Math.max(this.map.width, this.map.height) / SMOOTHED));
        this.#edit((map) => selected.filter((value) => unlocked[value]).forEach(
            (value) => smoothClass(map, value, radius, unlocked)));
    }

    /** Copies one side of the mirror's axis to the other. */
    copySide(toRight) {
        this.#edit((map) => copySide(map, this.axis * map.width, toRight, this.unlocked));
    }

    /** A step of the history: change(map) writes the labels. */
    #edit(change) {
        this.settle();
        this.cancel();
        this.map.begin();
        change(this.map);
        this.commit();
    }

    resize(width, height) {
        this.settle();
        this.replace({ width, height, labels: resample(this.map, width, height) });
    }

    /** Chooses the class under the pointer. */
    pick() {
        const value = this.pointer ? this.map.at(this.pointer) : null;
        if (value !== null) {
            this.setValue(value);
        }
    }
}

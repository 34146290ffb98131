/** State and operations of one painter. */

import { Editor } from "../shared/editor.js";
import { MIRRORED } from "./classes.js";
import { LabelMap } from "./model.js";
import { liftClass, resample } from "./raster.js";
import { makeTools } from "./tools.js";

export const RADIUS = { min: 0.5, max: 256 };

const START = { value: 13, tool: "brush", radius: 14, mirror: false, axis: 0.5, opacity: 0.7 };

const between = (low, number, high) => Math.min(high, Math.max(low, number));

export class LabelEditor extends Editor {
    map = new LabelMap(512, 512);

    constructor() {
        super();
        Object.assign(this, START);
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

    // Settings

    setValue(value) {
        this.set({ value });
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

    clear() {
        const { width, height } = this.map;
        this.replace({ width, height, labels: new Uint8Array(width * height) });
    }

    /** Removes the chosen class; its pixels take the nearest other class. */
    removeClass() {
        this.settle();
        this.cancel();
        this.map.begin();
        liftClass(this.map, this.value);
        if (this.mirror) {
            liftClass(this.map, MIRRORED[this.value]);
        }
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

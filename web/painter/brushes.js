/** The brush, the erasers, and the lasso: tools that follow the pointer. */

import { MIRRORED } from "./classes.js";
import { fillGaps } from "./gaps.js";
import { LabelMap } from "./model.js";
import { paintPolygon, paintSegment } from "./raster.js";

const BACKGROUND = 0;

export class Brush {
    #last = null;
    #end = null; // of the last stroke, for straight lines

    constructor(editor, value = () => editor.value) {
        Object.assign(this, { editor, value });
    }

    get busy() {
        return this.#last !== null;
    }

    get held() {
        return this.busy;
    }

    down(point, { pressure = 1, eraser = false, shift = false } = {}) {
        const { map } = this.editor;
        map.begin();
        this.#last = shift && this.#end?.map === map ? this.#end.point : point;
        this.now = eraser ? BACKGROUND : this.value();
        this.move(point, { pressure });
    }

    move(point, { pressure = 1 } = {}) {
        if (!this.busy) {
            return;
        }
        const { editor } = this, radius = editor.radius * pressure;
        this.paint(this.#last, point, radius, this.now);
        if (editor.mirror) {
            this.paint(editor.mirrored(this.#last), editor.mirrored(point), radius, MIRRORED[this.now]);
        }
        this.#last = point;
    }

    paint(from, to, radius, value) {
        paintSegment(this.editor.map, from, to, radius, value, this.editor.over);
    }

    up() {
        if (this.busy) {
            this.#end = { map: this.editor.map, point: this.#last };
            this.#last = null;
            this.finishStroke();
            this.editor.commit();
        }
    }

    /** Ends the stroke before it becomes a step of the history. */
    finishStroke() {}

    drop() {
        this.#last = null;
        this.editor.map.cancel();
    }

    cancel() {
        this.drop();
    }

    wheel(direction) {
        this.editor.stepRadius(direction);
    }

    draw(overlay, pointer) {
        const { editor } = this;
        overlay.circle(pointer, editor.radius);
        if (editor.mirror && pointer) {
            overlay.circle(editor.mirrored(pointer), editor.radius);
        }
    }
}

/** Erases; the stroke takes what lies around it. */
export class Healer extends Brush {
    #stroke = null; // a map of its own, 1 inside
    #before = null;

    constructor(editor) {
        super(editor, () => BACKGROUND);
    }

    paint(from, to, radius, value) {
        const { map } = this.editor;
        this.#stroke ??= new LabelMap(map.width, map.height);
        this.#before ??= map.labels.slice();
        paintSegment(this.#stroke, from, to, radius, 1);
        super.paint(from, to, radius, value);
    }

    finishStroke() {
        const { map, over } = this.editor, before = this.#before;
        fillGaps(map, this.#stroke.labels.map((inside, i) => inside && over[before[i]]), map.all);
        this.#forget();
    }

    drop() {
        this.#forget();
        super.drop();
    }

    #forget() {
        this.#stroke = null;
        this.#before = null;
    }
}

/** Fills what the pointer goes around. */
export class Lasso {
    #points = [];

    constructor(editor) {
        this.editor = editor;
    }

    get busy() {
        return this.#points.length > 0;
    }

    get held() {
        return this.busy;
    }

    down(point) {
        this.#points = [point];
    }

    move(point) {
        if (this.busy) {
            this.#points.push(point);
        }
    }

    up() {
        const { editor } = this, points = this.#points;
        this.#points = [];
        if (points.length > 2) {
            editor.map.begin();
            paintPolygons(editor, points);
            editor.commit();
        }
    }

    drop() {
        this.#points = [];
    }

    cancel() {
        this.drop();
    }

    draw(overlay) {
        if (this.busy) {
            overlay.path(this.#points);
        }
        if (this.busy && this.editor.mirror) {
            overlay.path(this.#points.map((point) => this.editor.mirrored(point)));
        }
    }
}

/** Paints the chosen class into a polygon, and its other side into the mirrored one. */
export function paintPolygons(editor, points) {
    paintPolygon(editor.map, points, editor.value, editor.over);
    if (editor.mirror) {
        paintPolygon(editor.map, points.map((point) => editor.mirrored(point)), MIRRORED[editor.value], editor.over);
    }
}

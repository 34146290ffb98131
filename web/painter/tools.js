/** The tools. Each edits `editor.map` between `begin` and `commit`. With the mirror on, the other side follows. */

import { CLOSE, Drag, Hand, corner, moveSides } from "../shared/tools.js";
import { MIRRORED } from "./classes.js";
import { boxOf, fillRegion, liftClass, paintPolygon, paintSegment, placeClass } from "./raster.js";

const BACKGROUND = 0;
const SMALLEST = 2; // pixels a side of a scaled class

class Brush {
    #last = null;

    constructor(editor, value = () => editor.value) {
        Object.assign(this, { editor, value });
    }

    get busy() {
        return this.#last !== null;
    }

    get held() {
        return this.busy;
    }

    down(point, { pressure = 1, eraser = false } = {}) {
        this.editor.map.begin();
        this.#last = point;
        this.now = eraser ? BACKGROUND : this.value();
        this.move(point, { pressure });
    }

    move(point, { pressure = 1 } = {}) {
        if (!this.busy) {
            return;
        }
        const { editor, now } = this, radius = editor.radius * pressure;
        paintSegment(editor.map, this.#last, point, radius, now);
        if (editor.mirror) {
            paintSegment(editor.map, editor.mirrored(this.#last), editor.mirrored(point), radius, MIRRORED[now]);
        }
        this.#last = point;
    }

    up() {
        if (this.busy) {
            this.#last = null;
            this.editor.commit();
        }
    }

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

class Fill {
    constructor(editor) {
        this.editor = editor;
    }

    down(point) {
        const { editor } = this;
        editor.map.begin();
        fillRegion(editor.map, point, editor.value);
        if (editor.mirror) {
            fillRegion(editor.map, editor.mirrored(point), MIRRORED[editor.value]);
        }
        editor.commit();
    }
}

class Polygon {
    points = [];

    constructor(editor) {
        this.editor = editor;
    }

    get busy() {
        return this.points.length > 0;
    }

    down(point) {
        const [first] = this.points;
        if (first && this.points.length > 2 && this.editor.screenDistance(first, point) < CLOSE) {
            this.finish();
        } else {
            this.points.push(point);
        }
    }

    finish() {
        const { editor, points } = this;
        this.points = [];
        if (points.length < 3) {
            return;
        }
        editor.map.begin();
        paintPolygon(editor.map, points, editor.value);
        if (editor.mirror) {
            paintPolygon(editor.map, points.map((point) => editor.mirrored(point)), MIRRORED[editor.value]);
        }
        editor.commit();
    }

    back() {
        this.points.pop();
    }

    cancel() {
        this.points = [];
    }

    draw(overlay, pointer) {
        const ahead = pointer ? [pointer] : [];
        if (this.busy) {
            overlay.path([...this.points, ...ahead]);
            overlay.dots(this.points);
        }
        if (this.busy && this.editor.mirror) {
            overlay.path([...this.points, ...ahead].map((point) => this.editor.mirrored(point)));
        }
    }
}

/** Moves and scales every pixel of one class; pixels that the class leaves take the nearest other class. */
class Move extends Drag {
    #lifted = null; // { parts, bare, box }: the lifted classes, the map without them, and the first class's box

    get box() {
        return this.busy ? this.#lifted.box : boxOf(this.editor.map, this.editor.value);
    }

    snap(distance) {
        return Math.round(distance);
    }

    grab() {
        const { map, value, mirror } = this.editor;
        map.begin();
        const values = mirror ? [...new Set([value, MIRRORED[value]])] : [value];
        const parts = values.map((part) => liftClass(map, part)).filter(Boolean);
        this.#lifted = { parts, bare: map.labels.slice(), box: parts[0].box };
    }

    place({ left, top, right, bottom }) {
        const { parts, bare } = this.#lifted;
        const { map } = this.editor;
        map.labels.set(bare);
        map.touch(map.all);
        parts.forEach((part, k) => {
            const sides = k === 0 ? { left, right } : { left: -right, right: -left };
            const target = moveSides(part.box, { ...sides, top, bottom }, SMALLEST);
            placeClass(map, part, target);
            this.#lifted.box = k === 0 ? target : this.#lifted.box;
        });
    }

    draw(overlay) {
        const { box } = this;
        if (box) {
            overlay.path([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]].map(([u, v]) => corner(box, u, v)));
        }
        super.draw(overlay);
    }
}

/** Makes the tools of one editor, in the order of the tool bar. */
export function makeTools(editor) {
    return {
        brush: new Brush(editor),
        eraser: new Brush(editor, () => BACKGROUND),
        fill: new Fill(editor),
        polygon: new Polygon(editor),
        move: new Move(editor),
        hand: new Hand(editor),
    };
}

/** The tools. Each edits `editor.map` between `begin` and `commit`. With the mirror on, the other side follows. */

import { CLOSE, Hand } from "../shared/tools.js";
import { Brush, Healer, Lasso, paintPolygons } from "./brushes.js";
import { MIRRORED } from "./classes.js";
import { fillRegion } from "./raster.js";
import { Select } from "./selection.js";

const BACKGROUND = 0;

class Fill {
    constructor(editor) {
        this.editor = editor;
    }

    down(point) {
        const { editor } = this;
        editor.map.begin();
        fillRegion(editor.map, point, editor.value, editor.over);
        if (editor.mirror) {
            fillRegion(editor.map, editor.mirrored(point), MIRRORED[editor.value], editor.over);
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
        paintPolygons(editor, points);
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

/** Makes the tools of one editor, in the order of the tool bar. */
export function makeTools(editor) {
    return {
        brush: new Brush(editor),
        eraser: new Brush(editor, () => BACKGROUND),
        healer: new Healer(editor),
        fill: new Fill(editor),
        polygon: new Polygon(editor),
        lasso: new Lasso(editor),
        move: new Select(editor),
        hand: new Hand(editor),
    };
}

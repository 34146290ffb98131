/** A canvas with zoom and pan, and the drawing functions of the tools. */

const ZOOM = { min: 0.01, max: 32 };
const LINE = ["rgba(0, 0, 0, 0.85)", "rgba(255, 255, 255, 0.95)"]; // visible on any color

/** A subclass paints `editor.content`: `paint(context)` draws in its pixels, under the overlay of the tool. */
export class View {
    #fitted = true;
    #frame = 0;

    /** onDrawn() follows every frame. */
    constructor(canvas, editor, onDrawn) {
        Object.assign(this, { canvas, editor, onDrawn, scale: 1, left: 0, top: 0 });
        this.context = canvas.getContext("2d");
        this.observer = new ResizeObserver(() => this.#resize());
        this.observer.observe(canvas);
    }

    close() {
        this.observer.disconnect();
        cancelAnimationFrame(this.#frame);
    }

    /** Draws before the next frame. */
    refresh() {
        this.#frame ||= requestAnimationFrame(() => {
            this.#frame = 0;
            this.#draw();
        });
    }

    /** Backing-store pixels of the canvas per CSS pixel on the screen, at any zoom of the graph. */
    get density() {
        return this.canvas.width / (this.canvas.getBoundingClientRect().width || 1);
    }

    /** Size of one CSS pixel of the unscaled screen in pixels of the content. */
    get pixel() {
        return window.devicePixelRatio / this.scale;
    }

    /** Client coordinates to backing-store pixels. */
    toScreen({ clientX, clientY }) {
        const rect = this.canvas.getBoundingClientRect();
        return { x: (clientX - rect.left) * this.density, y: (clientY - rect.top) * this.density };
    }

    toContent({ x, y }) {
        return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
    }

    fit() {
        const { content } = this.editor;
        const { width, height } = this.canvas;
        this.scale = Math.max(ZOOM.min, Math.min(width / content.width, height / content.height));
        this.left = (width - content.width * this.scale) / 2;
        this.top = (height - content.height * this.scale) / 2;
        this.#fitted = true;
        this.refresh();
    }

    /** Zooms about a point of the screen, by default the middle. */
    zoom(factor, { x, y } = { x: this.canvas.width / 2, y: this.canvas.height / 2 }) {
        const scale = Math.min(ZOOM.max, Math.max(ZOOM.min, this.scale * factor));
        this.left = x - (x - this.left) * scale / this.scale;
        this.top = y - (y - this.top) * scale / this.scale;
        this.scale = scale;
        this.#fitted = false;
        this.refresh();
    }

    pan(dx, dy) {
        this.left += dx;
        this.top += dy;
        this.#fitted = false;
        this.refresh();
    }

    #resize() {
        const { clientWidth, clientHeight } = this.canvas;
        if (!clientWidth || !clientHeight) {
            return; // hidden: the observer runs again when the canvas is shown
        }
        const density = window.devicePixelRatio;
        const width = Math.round(clientWidth * density), height = Math.round(clientHeight * density);
        const dx = (width - this.canvas.width) / 2, dy = (height - this.canvas.height) / 2;
        Object.assign(this.canvas, { width, height });
        if (this.#fitted) {
            this.fit();
        } else {
            this.pan(dx, dy);
        }
        this.#draw(); // now: setting the size has cleared the canvas
    }

    #draw() {
        const { context, canvas, editor } = this;
        context.setTransform(1, 0, 0, 1, 0, 0);
        context.clearRect(0, 0, canvas.width, canvas.height);
        context.setTransform(this.scale, 0, 0, this.scale, this.left, this.top);
        this.paint(context);
        editor.activeTool.draw?.(this, editor.pointer);
        if (editor.pointer && editor.keyboardCursor) {
            this.cross(editor.pointer);
        }
        this.onDrawn();
    }

    // Drawing functions of the tools, in pixels of the content; lines keep their width on the screen.

    circle(center, radius) {
        if (center) {
            const circle = new Path2D();
            circle.arc(center.x, center.y, Math.max(radius, 0.71), 0, 2 * Math.PI);
            this.#stroke(circle);
        }
    }

    path(points, dash = []) {
        const path = new Path2D();
        points.forEach(({ x, y }) => path.lineTo(x, y));
        this.#stroke(path, dash);
    }

    dots(points) {
        const side = 7 * this.pixel;
        const path = new Path2D();
        points.forEach(({ x, y }) => path.rect(x - side / 2, y - side / 2, side, side));
        this.context.fillStyle = LINE[1];
        this.context.fill(path);
        this.#stroke(path);
    }

    cross({ x, y }) {
        const arm = 10 * this.pixel;
        this.path([{ x: x - arm, y }, { x: x + arm, y }]);
        this.path([{ x, y: y - arm }, { x, y: y + arm }]);
    }

    #stroke(path, dash = []) {
        const { pixel } = this;
        LINE.forEach((style, k) => {
            this.context.strokeStyle = style;
            this.context.lineWidth = (k === 0 ? 3 : 1) * pixel;
            this.context.setLineDash(dash.map((length) => length * pixel));
            this.context.stroke(path);
        });
    }
}

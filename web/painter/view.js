/** Shows a label map on a canvas: zoom, pan, the picture underneath, and the overlay of the tools. */

import { PALETTE } from "./classes.js";

const ZOOM = { min: 0.05, max: 32 };
const LINE = ["rgba(0, 0, 0, 0.85)", "rgba(255, 255, 255, 0.95)"]; // seen on any colour

export class View {
    #shown = document.createElement("canvas"); // the map in colours, one pixel each
    #pixels = null;
    #fitted = true;
    #frame = 0;

    /** state(): { map, picture, opacity, mirrorX, pointer, draw } of the moment; onDrawn() follows every frame. */
    constructor(canvas, state, onDrawn) {
        Object.assign(this, { canvas, state, onDrawn, scale: 1, left: 0, top: 0 });
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

    /** Backing-store pixels of the canvas per CSS pixel on the screen, whatever the graph's own zoom. */
    get density() {
        return this.canvas.width / (this.canvas.getBoundingClientRect().width || 1);
    }

    /** Client coordinates to backing-store pixels. */
    toScreen({ clientX, clientY }) {
        const rect = this.canvas.getBoundingClientRect();
        return { x: (clientX - rect.left) * this.density, y: (clientY - rect.top) * this.density };
    }

    toMap({ x, y }) {
        return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
    }

    fit() {
        const { map } = this.state();
        const { width, height } = this.canvas;
        this.scale = Math.max(ZOOM.min, Math.min(width / map.width, height / map.height));
        this.left = (width - map.width * this.scale) / 2;
        this.top = (height - map.height * this.scale) / 2;
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
            return; // hidden; the size comes back with it
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
        this.#draw(); // at once: a canvas is blank after its size was set
    }

    #draw() {
        const { context, canvas } = this;
        const { map, picture, opacity } = this.state();
        this.#colour(map, Boolean(picture));
        context.setTransform(1, 0, 0, 1, 0, 0);
        context.clearRect(0, 0, canvas.width, canvas.height);
        context.setTransform(this.scale, 0, 0, this.scale, this.left, this.top);
        context.imageSmoothingEnabled = true;
        if (picture) {
            context.drawImage(picture, 0, 0, map.width, map.height);
            context.globalAlpha = opacity;
        }
        context.imageSmoothingEnabled = this.scale < 1;
        context.drawImage(this.#shown, 0, 0);
        context.globalAlpha = 1;
        this.#drawOverlay();
        this.onDrawn();
    }

    #drawOverlay() {
        const { map, mirrorX, pointer, draw } = this.state();
        if (mirrorX !== null) {
            this.path([{ x: mirrorX, y: 0 }, { x: mirrorX, y: map.height }], [6, 4]);
        }
        draw?.(this, pointer);
    }

    /** Brings the coloured copy up to date; over a picture the background class is clear. */
    #colour(map, overPicture) {
        const fresh = !this.#pixels || this.#pixels.width !== map.width || this.#pixels.height !== map.height
            || this.overPicture !== overPicture;
        const dirty = map.takeDirty();
        const box = fresh ? map.all : dirty;
        if (!box) {
            return;
        }
        if (fresh) {
            Object.assign(this.#shown, { width: map.width, height: map.height });
            this.#pixels = new ImageData(map.width, map.height);
            this.colours = packedPalette(overPicture);
            this.overPicture = overPicture;
        }
        const packed = new Uint32Array(this.#pixels.data.buffer);
        for (let y = box.top; y < box.bottom; y++) {
            for (let i = y * map.width + box.left, end = y * map.width + box.right; i < end; i++) {
                packed[i] = this.colours[map.labels[i]];
            }
        }
        this.#shown.getContext("2d").putImageData(
            this.#pixels, 0, 0, box.left, box.top, box.right - box.left, box.bottom - box.top);
    }

    // What tools draw, in pixels of the map; lines keep their width on the screen.

    circle(centre, radius) {
        if (centre) {
            const circle = new Path2D();
            circle.arc(centre.x, centre.y, Math.max(radius, 0.71), 0, 2 * Math.PI);
            this.#stroke(circle);
        }
    }

    path(points, dash = []) {
        const path = new Path2D();
        points.forEach(({ x, y }) => path.lineTo(x, y));
        this.#stroke(path, dash);
    }

    dots(points) {
        const side = 7 * window.devicePixelRatio / this.scale;
        const path = new Path2D();
        points.forEach(({ x, y }) => path.rect(x - side / 2, y - side / 2, side, side));
        this.context.fillStyle = LINE[1];
        this.context.fill(path);
        this.#stroke(path);
    }

    cross({ x, y }) {
        const arm = 10 * window.devicePixelRatio / this.scale;
        this.path([{ x: x - arm, y }, { x: x + arm, y }]);
        this.path([{ x, y: y - arm }, { x, y: y + arm }]);
    }

    #stroke(path, dash = []) {
        const pixel = window.devicePixelRatio / this.scale;
        LINE.forEach((style, k) => {
            this.context.strokeStyle = style;
            this.context.lineWidth = (k === 0 ? 3 : 1) * pixel;
            this.context.setLineDash(dash.map((length) => length * pixel));
            this.context.stroke(path);
        });
    }
}

function packedPalette(clearBackground) {
    const bytes = PALETTE.flatMap((rgb, k) => [...rgb, clearBackground && k === 0 ? 0 : 255]);
    return new Uint32Array(Uint8ClampedArray.from(bytes).buffer);
}

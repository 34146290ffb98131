/** Shows a label map over an image, with the mirror's axis. */

import { View } from "../shared/view.js";

export class LabelView extends View {
    #shown = document.createElement("canvas"); // the map in colors, one pixel each
    #pixels = null;

    paint(context) {
        const { map, image, opacity, mirrorX } = this.editor;
        this.#color(map, Boolean(image));
        context.imageSmoothingEnabled = true;
        if (image) {
            context.drawImage(image, 0, 0, map.width, map.height);
            context.globalAlpha = opacity;
        }
        context.imageSmoothingEnabled = this.scale < 1;
        context.drawImage(this.#shown, 0, 0);
        context.globalAlpha = 1;
        if (mirrorX !== null) {
            this.path([{ x: mirrorX, y: 0 }, { x: mirrorX, y: map.height }], [6, 4]);
        }
    }

    /** Brings the colored copy up to date; over an image the background class is clear. */
    #color(map, overImage) {
        const fresh = !this.#pixels || this.#pixels.width !== map.width || this.#pixels.height !== map.height
            || this.overImage !== overImage || this.shownColors !== this.editor.colors;
        const dirty = map.takeDirty();
        const box = fresh ? map.all : dirty;
        if (!box) {
            return;
        }
        if (fresh) {
            Object.assign(this.#shown, { width: map.width, height: map.height });
            this.#pixels = new ImageData(map.width, map.height);
            this.shownColors = this.editor.colors;
            this.packed = pack(this.shownColors, overImage);
            this.overImage = overImage;
        }
        const packed = new Uint32Array(this.#pixels.data.buffer);
        for (let y = box.top; y < box.bottom; y++) {
            for (let i = y * map.width + box.left, end = y * map.width + box.right; i < end; i++) {
                packed[i] = this.packed[map.labels[i]];
            }
        }
        this.#shown.getContext("2d").putImageData(
            this.#pixels, 0, 0, box.left, box.top, box.right - box.left, box.bottom - box.top);
    }
}

function pack(colors, clearBackground) {
    const bytes = colors.flatMap((rgb, k) => [...rgb, clearBackground && k === 0 ? 0 : 255]);
    return new Uint32Array(Uint8ClampedArray.from(bytes).buffer);
}

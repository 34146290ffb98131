/** Shows interactions over an image: the subject's box, the object's dashed, the action's filled, and an arrow. */

import { View } from "../shared/view.js";
import { COLORS, between } from "./model.js";

const SHADE = "rgb(0 0 0 / 0.5)"; // next to lines, visible on light images

// In CSS pixels
const STROKE = 2;
const HEAD = 12; // of an arrow
const LETTERS = 12;
const MARGIN = 4; // around the letters of a label

const rgb = (color, alpha = 1) => `rgb(${color.join(" ")} / ${alpha})`;
const center = ({ left, top, right, bottom }) => ({ x: (left + right) / 2, y: (top + bottom) / 2 });

export class LayoutView extends View {
    paint(context) {
        const { content, image, chosen } = this.editor, { width, height, interactions } = content;
        if (image) {
            context.imageSmoothingEnabled = true;
            context.drawImage(image, 0, 0, width, height);
        } else {
            context.fillStyle = "#26282c";
            context.fillRect(0, 0, width, height);
        }
        const shown = interactions.map(
            (one, index) => ({ ...this.#placed(one), color: COLORS[index % COLORS.length] }));
        const [top] = chosen ? shown.splice(chosen.index, 1) : [];
        const ordered = top ? [...shown, top] : shown;
        ordered.forEach((one) => this.#boxes(one));
        ordered.forEach((one) => this.#labels(one));
    }

    #placed({ subject_box, object_box, ...phrases }) {
        const [subject, object, action] = [subject_box, object_box, between(subject_box, object_box)].map(
            (box) => this.editor.content.inPixels(box));
        return { subject, object, action, phrases };
    }

    #boxes({ subject, object, action, color }) {
        this.action(action, color);
        this.box(subject, color);
        this.box(object, color, true);
        this.#arrow(center(subject), center(object), color);
    }

    #labels({ subject, object, phrases, color }) {
        const [from, to] = [center(subject), center(object)];
        this.#label({ x: subject.left, y: subject.top }, phrases.subject, color);
        this.#label({ x: object.left, y: object.top }, phrases.object, color);
        this.#label({ x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 }, phrases.action, color, true);
    }

    /** The action's box, between the other two. */
    action({ left, top, right, bottom }, color) {
        this.context.fillStyle = rgb(color, 0.28);
        this.context.fillRect(left, top, right - left, bottom - top);
        this.#line(rectangle({ left, top, right, bottom }), rgb(color, 0.55), 1);
    }

    box(box, color, dashed = false) {
        const dash = dashed ? [7, 5] : [];
        this.#line(rectangle(box), SHADE, STROKE + 2, dash);
        this.#line(rectangle(box), rgb(color), STROKE, dash);
    }

    #line(path, style, width, dash = []) {
        const { context, pixel } = this;
        context.strokeStyle = style;
        context.lineWidth = width * pixel;
        context.setLineDash(dash.map((length) => length * pixel));
        context.stroke(path);
        context.setLineDash([]);
    }

    #arrow(from, to, color) {
        const length = Math.hypot(to.x - from.x, to.y - from.y), head = Math.min(HEAD * this.pixel, length);
        if (!length) {
            return;
        }
        const x = (to.x - from.x) / length, y = (to.y - from.y) / length;
        const neck = { x: to.x - head * x, y: to.y - head * y };
        const shaft = new Path2D(), tip = new Path2D();
        shaft.moveTo(from.x, from.y);
        shaft.lineTo(neck.x, neck.y);
        tip.moveTo(to.x, to.y);
        tip.lineTo(neck.x - y * head / 2, neck.y + x * head / 2);
        tip.lineTo(neck.x + y * head / 2, neck.y - x * head / 2);
        this.#line(shaft, SHADE, STROKE + 2);
        this.#line(shaft, rgb(color), STROKE);
        this.context.fillStyle = rgb(color);
        this.context.fill(tip);
    }

    /** White letters on the color, their top left (or middle) at a point, moved into the image. */
    #label({ x, y }, text, color, middle = false) {
        const { context, pixel } = this, { width, height } = this.editor.content;
        context.font = `600 ${LETTERS * pixel}px system-ui, sans-serif`;
        context.textBaseline = "middle";
        const shown = text || "?";
        const across = context.measureText(shown).width + 2 * MARGIN * pixel, down = (LETTERS + MARGIN) * pixel;
        const left = Math.max(0, Math.min(middle ? x - across / 2 : x, width - across));
        const top = Math.max(0, Math.min(middle ? y - down / 2 : y, height - down));
        context.fillStyle = rgb(color, 0.88);
        context.fillRect(left, top, across, down);
        context.fillStyle = "#fff";
        context.fillText(shown, left + MARGIN * pixel, top + down / 2);
    }
}

function rectangle({ left, top, right, bottom }) {
    const path = new Path2D();
    path.rect(left, top, right - left, bottom - top);
    return path;
}

/** Mouse, pen and touch on the canvas: the first pointer owns the gesture until it ends; two fingers zoom and pan. */

const WHEEL_ZOOM = 1.0015;
const LIGHTEST = 0.25; // of the brush's size, for the lightest touch of a pen
const PEN_ERASER = 32; // PointerEvent.buttons
const BUTTONS = [1, 4, 2, 8, 16, PEN_ERASER]; // the bit of PointerEvent.buttons for each PointerEvent.button
const HOSTS = ["touchmove", "contextmenu"]; // events that only the host handles
const PEN_REST = 10_000; // milliseconds after a pen in which a finger alone is a palm
const STILL = 10; // CSS pixels; a finger that moves farther uses the tool, and a second finger is ignored

/**
 * A gesture has move(event), finish() and cancel() for its own pointers, and owns(event). It may have join(event), true
 * if the gesture takes another pointer, and yields(event), true if another pointer may replace the gesture.
 */
class OnePointer {
    constructor(editor, event) {
        const button = BUTTONS[event.button] & event.buttons || event.buttons;
        Object.assign(this, { editor, id: event.pointerId, button });
    }

    owns({ pointerId }) {
        return pointerId === this.id;
    }

    /** The button of the gesture is up, though another button of the mouse is still down. */
    isOver({ buttons }) {
        return !(buttons & this.button);
    }

    move() {}

    finish() {}

    cancel() {}
}

/** Uses the tool. */
class Stroke extends OnePointer {
    constructor(editor, event) {
        super(editor, event);
        this.tool = editor.activeTool;
        this.#apply("down", event);
    }

    move(event) {
        const steps = event.getCoalescedEvents?.() ?? [];
        for (const step of steps.length ? steps : [event]) {
            this.#apply("move", step);
        }
    }

    finish() {
        this.tool.up?.();
    }

    cancel() {
        this.tool.drop?.();
        this.editor.changed("state");
    }

    #apply(action, event) {
        const { view } = this.editor, screen = view.toScreen(event), isPen = event.pointerType === "pen";
        this.tool[action]?.(view.toContent(screen), {
            screen,
            shift: event.shiftKey,
            pressure: isPen ? LIGHTEST + (1 - LIGHTEST) * event.pressure : 1,
            eraser: isPen && Boolean(event.buttons & PEN_ERASER),
        });
    }
}

/** Moves the view. */
class Pan extends OnePointer {
    constructor(editor, event) {
        super(editor, event);
        this.last = editor.view.toScreen(event);
    }

    move(event) {
        const now = this.editor.view.toScreen(event);
        this.editor.view.pan(now.x - this.last.x, now.y - this.last.y);
        this.last = now;
    }
}

/** Fingers on the canvas: a finger that moves or leaves uses the tool; two fingers zoom and move the view. */
class Fingers {
    #stroke = null;
    #pinched = false;
    #fingers = new Map(); // the last event of each finger

    /** isPalm: a pen is in use; a finger alone then does nothing. */
    constructor(editor, event, isPalm) {
        this.editor = editor;
        this.isPalm = isPalm;
        this.first = event;
        this.#fingers.set(event.pointerId, event);
    }

    owns({ pointerId }) {
        return this.#fingers.has(pointerId);
    }

    yields({ pointerType }) {
        return pointerType !== "touch" && !this.#stroke;
    }

    isOver() {
        return false;
    }

    join(event) {
        const joins = event.pointerType === "touch" && !this.#stroke && this.#fingers.size < 2;
        if (joins) {
            this.#fingers.set(event.pointerId, event);
            this.#pinched = true;
        }
        return joins;
    }

    /** True while another finger of the gesture is on the canvas. */
    leave({ pointerId }) {
        if (this.#fingers.size > 1) {
            this.#fingers.delete(pointerId);
            return true;
        }
        return false;
    }

    move(event) {
        if (this.#fingers.size > 1) {
            this.#pinch(event);
        } else if (!this.isPalm && !this.#pinched && (this.#stroke || distance(this.first, event) > STILL)) {
            this.#stroke ??= new Stroke(this.editor, this.first);
            this.#stroke.move(event);
        }
        this.#fingers.set(event.pointerId, event);
    }

    finish() {
        if (!this.isPalm && !this.#pinched) {
            (this.#stroke ?? new Stroke(this.editor, this.first)).finish();
        }
    }

    cancel() {
        this.#stroke?.cancel();
    }

    #pinch(event) {
        const { view } = this.editor;
        const [a, b] = [...this.#fingers.values()].map((finger) => view.toScreen(finger));
        const moved = new Map(this.#fingers).set(event.pointerId, event);
        const [c, d] = [...moved.values()].map((finger) => view.toScreen(finger));
        const before = middle(a, b), now = middle(c, d);
        view.pan(now.x - before.x, now.y - before.y);
        view.zoom(span(c, d) / Math.max(1, span(a, b)), now);
    }
}

/** Follows the pointers on a canvas. */
export class Pointers {
    #gesture = null;
    #penAt = -Infinity; // when a pen was seen last
    isPanning = false; // the next gesture moves the view, whatever the tool

    /** pansByWheel(): the wheel moves the view, as the host's wheel may move its graph; else it zooms. */
    constructor(canvas, editor, signal, pansByWheel) {
        Object.assign(this, { canvas, editor, pansByWheel });
        const listen = (target, type, handler) => target.addEventListener(type, handler, { signal });
        listen(canvas, "pointerdown", (event) => this.#down(event));
        listen(canvas, "pointermove", (event) => this.#move(event));
        listen(canvas, "pointerup", (event) => this.#owns(event) && this.#leave(event, () => this.finish()));
        listen(canvas, "pointercancel", (event) => this.#owns(event) && this.#leave(event, () => this.cancel()));
        listen(canvas, "pointerleave", () => this.#hide());
        listen(canvas, "dblclick", () => !this.busy && editor.activeTool.finish?.());
        for (const type of ["mousedown", "mouseup", "auxclick"]) {
            listen(canvas, type, (event) => this.busy && event.button !== 0 && event.preventDefault());
        }
        for (const target of [canvas, document]) { // the document, if the canvas is no longer in the page
            listen(target, "lostpointercapture", (event) => this.#owns(event) && this.#leave(event, () => this.finish()));
        }
        for (const type of ["pointerdown", "wheel", ...HOSTS]) {
            window.addEventListener(type, (event) => this.#shield(event), { signal, capture: true, passive: false });
        }
        listen(window, "blur", () => this.finish());
        listen(document, "visibilitychange", () => document.hidden && this.finish());
    }

    /** True from the first pointer down to the end of its gesture. */
    get busy() {
        return this.#gesture !== null;
    }

    setPanning(isPanning) {
        this.isPanning = isPanning;
        this.canvas.classList.toggle("panning", isPanning);
    }

    /** Ends the gesture as if its pointer had left the canvas. */
    finish() {
        this.#end("finish");
    }

    /** Ends the gesture and takes back what it has done. */
    cancel() {
        this.#end("cancel");
    }

    wheel(event) {
        const { view, activeTool } = this.editor;
        if (this.busy) {
            return;
        }
        if (event.shiftKey && activeTool.wheel) {
            activeTool.wheel(-Math.sign(event.deltaY || event.deltaX)); // with Shift some systems turn it sideways
        } else if (event.altKey || event.ctrlKey || event.metaKey || !this.pansByWheel()) {
            view.zoom(WHEEL_ZOOM ** -event.deltaY, view.toScreen(event));
        } else {
            view.pan(-event.deltaX, -event.deltaY);
        }
    }

    #end(how) {
        const gesture = this.#gesture;
        this.#gesture = null;
        if (gesture) {
            gesture[how]();
            this.editor.view.refresh();
        }
    }

    /** Until the gesture ends, the host gets no other pointer: it would move the graph, and the canvas with it. */
    #shield(event) {
        if (this.busy && (HOSTS.includes(event.type) || !event.composedPath().includes(this.canvas))) {
            event.stopImmediatePropagation();
            event.preventDefault();
        }
    }

    #owns(event) {
        return Boolean(this.#gesture?.owns(event));
    }

    #leave(event, end) {
        if (!this.#gesture.leave?.(event)) {
            end();
        }
    }

    #down(event) {
        this.#notePen(event);
        if (this.#owns(event)) {
            this.finish(); // the browser has not told the end of the last gesture
        }
        if (this.#gesture?.join?.(event)) {
            return;
        }
        if (this.#gesture?.yields?.(event)) {
            this.cancel();
        }
        if (this.busy) {
            return;
        }
        this.canvas.focus({ preventScroll: true });
        if (this.editor.activeTool.held) {
            this.editor.activeTool.up(); // the keyboard has lowered the tool
        }
        this.#show(event);
        this.#begin(event);
        this.editor.view.refresh();
    }

    #begin(event) {
        const { editor, canvas } = this;
        canvas.setPointerCapture(event.pointerId);
        if (event.button === 1 || this.isPanning) {
            event.preventDefault();
            this.#gesture = new Pan(editor, event);
        } else if (event.altKey) {
            this.#gesture = new OnePointer(editor, event);
            editor.pick();
        } else if (event.pointerType === "touch") {
            this.#gesture = new Fingers(editor, event, event.timeStamp - this.#penAt < PEN_REST);
        } else if (event.button === 0 || event.buttons & PEN_ERASER) {
            this.#gesture = new Stroke(editor, event);
        }
    }

    #notePen({ pointerType, timeStamp }) {
        this.#penAt = pointerType === "pen" ? timeStamp : this.#penAt;
    }

    #move(event) {
        const { editor } = this;
        this.#notePen(event);
        if (this.busy && !this.#owns(event)) {
            return;
        }
        if (this.#gesture?.isOver(event)) {
            this.finish();
        }
        if (!this.busy && (event.pointerType === "touch" || keyboardDraws(editor))) {
            return;
        }
        this.#show(event);
        this.#gesture?.move(event);
        editor.view.refresh();
    }

    #show(event) {
        const { editor } = this;
        editor.pointer = editor.view.toContent(editor.view.toScreen(event));
        editor.keyboardCursor = false;
    }

    #hide() {
        if (!this.busy && !keyboardDraws(this.editor)) {
            this.editor.pointer = null;
            this.editor.view.refresh();
        }
    }
}

const keyboardDraws = ({ keyboardCursor, activeTool }) => keyboardCursor && Boolean(activeTool.held);
const distance = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
const span = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

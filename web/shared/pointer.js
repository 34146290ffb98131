/** Mouse, pen and touch on the canvas: one pointer works, two fingers zoom and pan. */

const WHEEL_ZOOM = 1.0015;
const LIGHTEST = 0.25; // of the brush's size, for the lightest touch of a pen
const PEN_ERASER = 32; // PointerEvent.buttons

export function followPointers(canvas, editor, signal) {
    const { view } = editor;
    const fingers = new Map();
    let drawing = null; // id of the pointer that uses the tool
    let panning = null; // last position of the middle button

    const details = (event) => ({
        screen: view.toScreen(event),
        pressure: event.pointerType === "pen" ? LIGHTEST + (1 - LIGHTEST) * event.pressure : 1,
        eraser: event.pointerType === "pen" && Boolean(event.buttons & PEN_ERASER),
    });

    const show = ({ screen }) => {
        editor.pointer = view.toContent(screen);
        editor.keyboardCursor = false;
    };

    const down = (event) => {
        canvas.focus({ preventScroll: true });
        canvas.setPointerCapture(event.pointerId);
        const position = details(event);
        if (event.pointerType === "touch") {
            fingers.set(event.pointerId, position.screen);
        }
        show(position);
        if (fingers.size > 1) {
            drawing = null;
            editor.cancel();
        } else if (event.button === 1) {
            event.preventDefault();
            panning = position.screen;
        } else if (event.altKey) {
            editor.pick();
        } else if (event.button === 0 || position.eraser) {
            drawing = event.pointerId;
            editor.activeTool.down(editor.pointer, position);
        }
        view.refresh();
    };

    const pinch = (event) => {
        const [a, b] = fingers.values();
        fingers.set(event.pointerId, view.toScreen(event));
        const [c, d] = fingers.values();
        const before = middle(a, b), now = middle(c, d);
        view.pan(now.x - before.x, now.y - before.y);
        view.zoom(span(c, d) / Math.max(1, span(a, b)), now);
    };

    const move = (event) => {
        if (fingers.size > 1) {
            if (fingers.has(event.pointerId)) pinch(event);
            return;
        }
        const position = details(event);
        show(position);
        if (panning) {
            view.pan(position.screen.x - panning.x, position.screen.y - panning.y);
            panning = position.screen;
        } else if (drawing === event.pointerId) {
            const steps = event.getCoalescedEvents?.() ?? [];
            for (const step of steps.length ? steps : [event]) {
                const at = details(step);
                editor.activeTool.move?.(view.toContent(at.screen), at);
            }
        }
        view.refresh();
    };

    const up = (event) => {
        fingers.delete(event.pointerId);
        panning = null;
        if (drawing === event.pointerId) {
            drawing = null;
            editor.activeTool.up?.();
        }
        view.refresh();
    };

    const cancel = (event) => {
        fingers.delete(event.pointerId);
        panning = null;
        if (drawing === event.pointerId) {
            drawing = null;
            editor.cancel();
        }
    };

    const leave = () => {
        editor.pointer = null;
        view.refresh();
    };

    const wheel = (event) => {
        const zooms = event.altKey || event.ctrlKey || !editor.activeTool.wheel;
        if (!zooms) {
            editor.activeTool.wheel(-Math.sign(event.deltaY));
        } else {
            view.zoom(WHEEL_ZOOM ** -event.deltaY, view.toScreen(event));
        }
    };

    const listen = (type, handler) => canvas.addEventListener(type, handler, { signal });
    listen("pointerdown", down);
    listen("pointermove", move);
    listen("pointerup", up);
    listen("pointercancel", cancel);
    listen("pointerleave", leave);
    listen("dblclick", () => editor.activeTool.finish?.());
    return { wheel };
}

const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
const span = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

/**
 * Commands of an editor, for keys and buttons. A command has an id, which is also the key of its word; keys, of which
 * the first is shown; and run(panel).
 */

import { combinations, keyOf } from "./keys.js";

export const tool = (id, key) => ({ id, keys: [key], run: ({ editor }) => editor.setTool(id) });

export const HISTORY = [
    { id: "undo", keys: ["Ctrl+Z"], run: ({ editor }) => editor.undo() },
    { id: "redo", keys: ["Ctrl+Y", "Ctrl+Shift+Z"], run: ({ editor }) => editor.redo() },
];

export const ZOOM = [
    { id: "zoomIn", keys: ["+", "="], run: ({ editor }) => editor.view.zoom(1.25) },
    { id: "zoomOut", keys: ["-"], run: ({ editor }) => editor.view.zoom(0.8) },
    { id: "fit", keys: ["Home"], run: ({ editor }) => editor.view.fit() },
];

export const SIZE = { id: "size", keys: ["S"], run: (panel) => panel.toggle("size") };

export const PANEL = [
    { id: "fullscreen", keys: ["G"], run: (panel) => panel.toggleFullscreen() },
    { id: "help", keys: ["?", "F1"], run: (panel) => panel.toggle("help") },
];

/** Runs the command of a key; false when it has none. */
export function commandKey(event, panel) {
    const found = combinations(event).map((text) => panel.commands.find(({ keys }) => keys.includes(text)))
        .find(Boolean);
    found?.run(panel);
    return Boolean(found);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Keys of the canvas: arrows move the cursor or the box, Space presses or moves the view, Enter ends, Escape cancels. */
export function canvasKey(event, panel) {
    const { editor } = panel, { activeTool } = editor;
    const key = keyOf(event), arrow = ARROWS[key];
    if (event.ctrlKey || event.metaKey) {
        return false;
    }
    if (arrow) {
        steer(editor, arrow, event);
    } else if (key === " ") {
        if (!event.repeat) holdSpace(editor);
    } else if (key === "Enter") {
        (activeTool.finish ?? activeTool.up)?.call(activeTool);
    } else if (key === "Backspace") {
        activeTool.back?.();
    } else if (key === "Escape" && activeTool.busy) {
        editor.cancel();
    } else if (key === "Escape") {
        panel.leave();
    } else {
        return false;
    }
    editor.view.refresh();
    return true;
}

function steer(editor, [dx, dy], { shiftKey, altKey }) {
    const step = shiftKey ? 10 : 1;
    if (editor.activeTool.nudge) {
        const far = altKey ? -1 : 1; // Alt scales about the middle: right widens, up heightens
        const x = dx * step, y = dy * step;
        editor.activeTool.nudge({ left: far * x, right: x, top: y, bottom: far * y });
        return;
    }
    const { width, height } = editor.content;
    const from = editor.pointer ?? { x: width / 2, y: height / 2 };
    editor.pointer = {
        x: Math.min(width - 0.5, Math.max(0.5, from.x + dx * step)),
        y: Math.min(height - 0.5, Math.max(0.5, from.y + dy * step)),
    };
    editor.keyboardCursor = true;
    if (editor.activeTool.held) {
        editor.activeTool.move(editor.pointer);
    }
}

/** Space moves the view while a pointer is over the canvas; with the cursor of the keyboard it presses. */
function holdSpace(editor) {
    if (editor.pointer && !editor.keyboardCursor) {
        editor.pointers.setPanning(true);
    } else {
        press(editor);
    }
}

/** Space: lowers or raises a tool that is held, such as a brush; other tools click. */
function press(editor) {
    const { activeTool, content } = editor;
    if (activeTool.dragged) {
        return;
    }
    editor.pointer ??= { x: content.width / 2, y: content.height / 2 };
    editor.keyboardCursor = true;
    if (activeTool.held) {
        activeTool.up();
    } else {
        activeTool.down(editor.pointer);
    }
}

/** Everything that a key or a button does: id (also its word), keys, action on the panel. The first key is shown. */

const tool = (id, key) => ({ id, keys: [key], run: ({ editor }) => editor.setTool(id) });

export const COMMANDS = [
    tool("brush", "B"),
    tool("eraser", "E"),
    tool("fill", "F"),
    tool("polygon", "P"),
    tool("move", "V"),
    tool("hand", "H"),
    { id: "smaller", keys: ["["], run: ({ editor }) => editor.stepRadius(-1) },
    { id: "larger", keys: ["]"], run: ({ editor }) => editor.stepRadius(1) },
    { id: "pick", keys: ["K"], run: ({ editor }) => editor.pick() },
    { id: "mirror", keys: ["M"], run: ({ editor }) => editor.set({ mirror: !editor.mirror }) },
    { id: "axisLeft", keys: [","], run: ({ editor }) => editor.shiftAxis(-1) },
    { id: "axisRight", keys: ["."], run: ({ editor }) => editor.shiftAxis(1) },
    { id: "undo", keys: ["Ctrl+Z"], run: ({ editor }) => editor.undo() },
    { id: "redo", keys: ["Ctrl+Y", "Ctrl+Shift+Z"], run: ({ editor }) => editor.redo() },
    { id: "zoomIn", keys: ["+", "="], run: ({ editor }) => editor.view.zoom(1.25) },
    { id: "zoomOut", keys: ["-"], run: ({ editor }) => editor.view.zoom(0.8) },
    { id: "fit", keys: ["Home"], run: ({ editor }) => editor.view.fit() },
    { id: "fainter", keys: ["O"], run: ({ editor }) => editor.setOpacity(editor.opacity - 0.1) },
    { id: "stronger", keys: ["Shift+O"], run: ({ editor }) => editor.setOpacity(editor.opacity + 0.1) },
    { id: "faces", keys: ["T"], run: (panel) => panel.toggle("faces") },
    { id: "size", keys: ["S"], run: (panel) => panel.toggle("size") },
    { id: "import", keys: ["I"], run: (panel) => panel.chooseFiles() },
    { id: "export", keys: ["X"], run: (panel) => panel.export() },
    { id: "remove", keys: ["Delete"], run: ({ editor }) => editor.removePart() },
    { id: "clear", keys: ["Shift+Delete"], run: ({ editor }) => editor.clear() },
    { id: "fullscreen", keys: ["G"], run: (panel) => panel.toggleFullscreen() },
    { id: "help", keys: ["?"], run: (panel) => panel.toggle("help") },
];

export const command = (id) => COMMANDS.find((found) => found.id === id);

/** "Ctrl+Shift+Z" for a key event; Shift counts with letters and named keys only, for others it makes the sign. */
export function combination(event) {
    const named = event.key.length > 1;
    const letter = /^[a-z]$/i.test(event.key);
    const typed = event.getModifierState("AltGraph"); // how some keyboards type a bracket
    return [
        !typed && (event.ctrlKey || event.metaKey) ? "Ctrl" : null,
        !typed && event.altKey ? "Alt" : null,
        event.shiftKey && (named || letter) ? "Shift" : null,
        named ? event.key : event.key.toUpperCase(),
    ].filter(Boolean).join("+");
}

/** The class that a digit stands for: 0 to 9, with Shift 10 to 18; null for other keys. */
export function digitClass({ code, shiftKey, ctrlKey, metaKey, altKey }) {
    const [, digit] = /^(?:Digit|Numpad)(\d)$/.exec(code) ?? [];
    const value = Number(digit) + (shiftKey ? 10 : 0);
    return digit && !ctrlKey && !metaKey && !altKey && value < 19 ? value : null;
}

/** The key that chooses a class, as shown. */
export const classKey = (value) => value < 10 ? `${value}` : `\u21e7${value - 10}`;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Keys of the canvas: arrows lead a cursor (or the part), Space presses, Enter ends, Escape gives up. */
function canvasKey(event, panel) {
    const { editor } = panel, { activeTool } = editor;
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey) {
        return false;
    }
    if (arrow) {
        steer(editor, arrow, event);
    } else if (event.key === " ") {
        press(editor);
    } else if (event.key === "Enter") {
        (activeTool.finish ?? activeTool.up)?.call(activeTool);
    } else if (event.key === "Backspace") {
        activeTool.back?.();
    } else if (event.key === "Escape" && activeTool.busy) {
        editor.cancel();
    } else if (event.key === "Escape") {
        panel.leave();
    } else {
        return false;
    }
    editor.view.refresh();
    return true;
}

function steer(editor, [dx, dy], { shiftKey, altKey }) {
    const step = shiftKey ? 10 : 1;
    if (editor.tool === "move") {
        const far = altKey ? -1 : 1; // Alt scales about the middle: right widens, up heightens
        const x = dx * step, y = dy * step;
        editor.activeTool.nudge({ left: far * x, right: x, top: y, bottom: far * y });
        return;
    }
    const { map, pointer } = editor;
    const from = pointer ?? { x: map.width / 2, y: map.height / 2 };
    editor.pointer = {
        x: Math.min(map.width - 0.5, Math.max(0.5, from.x + dx * step)),
        y: Math.min(map.height - 0.5, Math.max(0.5, from.y + dy * step)),
    };
    editor.keyboardCursor = true;
    if (editor.activeTool.busy) {
        editor.activeTool.move?.(editor.pointer);
    }
}

/** Space: the brush goes down or up, other tools click. */
function press(editor) {
    const { activeTool, map } = editor;
    if (editor.tool === "hand" || editor.tool === "move") {
        return;
    }
    editor.pointer ??= { x: map.width / 2, y: map.height / 2 };
    editor.keyboardCursor = true;
    if (activeTool.up && activeTool.busy) {
        activeTool.up();
    } else {
        activeTool.down(editor.pointer);
    }
}

/** Does what a key stands for; false when it is none of ours. `target` is the element with the focus. */
export function handleKey(event, panel, target) {
    if (target.matches("input[type=number]")) {
        return event.key !== "Escape" && event.key !== "Tab";
    }
    if (target === panel.canvas && canvasKey(event, panel)) {
        return true;
    }
    const value = digitClass(event);
    const found = COMMANDS.find(({ keys }) => keys.includes(combination(event)));
    if (value !== null) {
        panel.editor.setValue(value);
    } else {
        found?.run(panel);
    }
    return value !== null || Boolean(found);
}

/** The commands of the painter. */

import { HISTORY, PANEL, SIZE, ZOOM, canvasKey, commandKey, tool } from "../shared/commands.js";
import { digitOf } from "../shared/keys.js";

export const COMMANDS = [
    tool("brush", "B"),
    tool("eraser", "E"),
    tool("healer", "J"),
    tool("fill", "F"),
    tool("polygon", "P"),
    tool("lasso", "A"),
    tool("move", "V"),
    tool("hand", "H"),
    { id: "smaller", keys: ["["], run: ({ editor }) => editor.stepRadius(-1) },
    { id: "larger", keys: ["]"], run: ({ editor }) => editor.stepRadius(1) },
    { id: "pick", keys: ["K"], run: ({ editor }) => editor.pick() },
    { id: "lock", keys: ["N"], run: ({ editor }) => editor.toggleLock(editor.value) },
    { id: "cover", keys: ["C"], run: ({ editor }) => editor.turnCover() },
    { id: "mirror", keys: ["M"], run: ({ editor }) => editor.set({ mirror: !editor.mirror }) },
    { id: "axisLeft", keys: [","], run: ({ editor }) => editor.shiftAxis(-1) },
    { id: "axisRight", keys: ["."], run: ({ editor }) => editor.shiftAxis(1) },
    ...HISTORY,
    ...ZOOM,
    { id: "fainter", keys: ["O"], run: ({ editor }) => editor.setOpacity(editor.opacity - 0.1) },
    { id: "stronger", keys: ["Shift+O"], run: ({ editor }) => editor.setOpacity(editor.opacity + 0.1) },
    { id: "start", keys: ["L"], run: (panel) => panel.takeStart() },
    { id: "faces", keys: ["T"], run: (panel) => panel.toggle("faces") },
    { id: "parts", keys: ["D"], run: (panel) => panel.toggle("parts") },
    SIZE,
    { id: "import", keys: ["I"], run: (panel) => panel.chooseFiles() },
    { id: "export", keys: ["X"], run: (panel) => panel.export() },
    { id: "more", keys: ["W"], run: (panel) => panel.toggle("more") },
    { id: "smooth", keys: ["U"], run: ({ editor }) => editor.smooth() },
    { id: "copyRight", keys: ["Shift+M"], run: ({ editor }) => editor.copySide(true) },
    { id: "copyLeft", keys: ["Alt+M"], run: ({ editor }) => editor.copySide(false) },
    { id: "natural", keys: ["Y"], run: ({ editor }) => editor.keep("naturalColors", !editor.natural) },
    { id: "remove", keys: ["Delete"], run: ({ editor }) => editor.removeSelected() },
    { id: "clear", keys: ["Shift+Delete"], run: ({ editor }) => editor.clear() },
    { id: "run", keys: ["R"], run: ({ result }) => result.run() },
    { id: "live", keys: ["Shift+R"], run: ({ result }) => result.setLive(!result.isLive) },
    ...PANEL,
];

/** The class that a digit stands for: 0 to 9, with Shift 10 to 18; null for other keys. */
export function digitClass(event) {
    const digit = digitOf(event), value = digit + (event.shiftKey ? 10 : 0);
    return digit !== null && value < 19 ? value : null;
}

/** The key that chooses a class, in its displayed form. */
export const classKey = (value) => value < 10 ? `${value}` : `\u21e7${value - 10}`;

/** Runs the command of a key; false for a key without a command. `target` is the element with the focus. */
export function handleKey(event, panel, target) {
    if (target === panel.canvas && canvasKey(event, panel)) {
        return true;
    }
    const value = digitClass(event);
    if (value === null) {
        return commandKey(event, panel);
    }
    panel.editor.setValue(value);
    return true;
}

/** The commands of the editor. */

import { HISTORY, PANEL, SIZE, ZOOM, canvasKey, commandKey, tool } from "../shared/commands.js";

export const COMMANDS = [
    tool("draw", "N"),
    tool("move", "V"),
    tool("hand", "H"),
    { id: "previous", keys: ["["], run: ({ editor }) => editor.step(-1) },
    { id: "next", keys: ["]"], run: ({ editor }) => editor.step(1) },
    { id: "pick", keys: ["K"], run: ({ editor }) => editor.pick() },
    { id: "rename", keys: ["F2", "R"], run: ({ editor }) => editor.rename() },
    { id: "swap", keys: ["W"], run: ({ editor }) => editor.swap() },
    { id: "duplicate", keys: ["D"], run: ({ editor }) => editor.duplicate() },
    { id: "earlier", keys: [","], run: ({ editor }) => editor.reorder(-1) },
    { id: "later", keys: ["."], run: ({ editor }) => editor.reorder(1) },
    { id: "remove", keys: ["Delete"], run: ({ editor }) => editor.remove() },
    { id: "clear", keys: ["Shift+Delete"], run: ({ editor }) => editor.clear() },
    ...HISTORY,
    ...ZOOM,
    SIZE,
    ...PANEL,
];

/** Runs the command of a key; false for a key without a command. `target` is the element with the focus. */
export function handleKey(event, panel, target) {
    return (target === panel.canvas && canvasKey(event, panel)) || commandKey(event, panel);
}

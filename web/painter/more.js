/** The pop-up of rarer commands, and of the brushes that the graph keeps with the node. */

import { element } from "../shared/elements.js";
import { icon } from "../shared/icons.js";
import { popup } from "../shared/popups.js";
import { CLASSES } from "./classes.js";

const MOST_BRUSHES = 8;

export function morePopup(panel, ...ids) {
    const rows = ids.map((id) => commandRow(panel, panel.command(id)));
    return popup(panel.words("more"), "more", element("div", { className: "rows" }, ...rows), brushes(panel));
}

function commandRow(panel, command) {
    const { words, signal } = panel;
    const button = element("button", { type: "button", className: "row" }, icon(command.id),
        element("span", { className: "name" }, words(command.id)), element("kbd", {}, command.keys[0]));
    button.dataset.command = command.id;
    button.addEventListener("click", () => {
        leave(panel);
        command.run(panel);
    }, { signal });
    return button;
}

function brushes(panel) {
    const { words, settings, signal, editor } = panel;
    const list = element("div", { className: "brushes" });
    const keep = (all) => editor.keep("brushes", all);
    const add = element("button", { type: "button", className: "text" }, words("keepBrush"));
    add.addEventListener("click", () => {
        const { radius, value } = editor;
        keep([...brushesOf(settings), { radius, value }].slice(-MOST_BRUSHES));
    }, { signal });
    let shown = null;
    panel.onState(() => {
        const all = brushesOf(settings), now = JSON.stringify(all);
        if (now !== shown) {
            shown = now;
            list.replaceChildren(...all.map((brush) => (
                brushRow(panel, brush, () => keep(all.filter((other) => other !== brush))))));
        }
    });
    return element("section", {}, element("h2", {}, words("brushes")), list, add);
}

/** The brushes of a node; a graph may hold anything in their place. */
function brushesOf(settings) {
    const kept = settings.get("brushes");
    const isBrush = ({ radius, value }) => Number.isFinite(radius) && Number.isInteger(value) && value in CLASSES;
    return Array.isArray(kept) ? kept.filter((brush) => brush && isBrush(brush)).slice(-MOST_BRUSHES) : [];
}

function brushRow(panel, { radius, value }, remove) {
    const { words, editor, signal } = panel;
    const name = words("brushName", { size: 2 * radius, part: words(CLASSES[value]) });
    const use = element("button", { type: "button", className: "row" }, icon("brush"), name);
    use.addEventListener("click", () => {
        leave(panel);
        editor.setTool("brush");
        editor.setValue(value);
        editor.setRadius(radius);
    }, { signal });
    const label = words("forgetBrush", { name });
    const forget = element("button", { type: "button", className: "tool", title: label, "aria-label": label },
        icon("remove"));
    forget.addEventListener("click", remove, { signal });
    return element("div", { className: "group" }, use, forget);
}

/** Closes the pop-up; keys go to the drawing. */
function leave({ popups, canvas }) {
    popups.more.hidePopover();
    canvas.focus({ preventScroll: true });
}

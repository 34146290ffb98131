/** Small parts of a panel. */

import { icon } from "./icons.js";

/** An element with properties (aria-* and data-* become attributes) and children. */
export function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (name.includes("-") || ["role", "popover", "list"].includes(name)) {
            made.setAttribute(name, value);
        } else {
            made[name] = value;
        }
    }
    made.append(...children);
    return made;
}

/** Words and key of a command as a tooltip. */
const hint = (words, { id, keys }) => `${words(id)} (${keys[0]})`;

function described(words, found) {
    return { title: hint(words, found), "aria-label": words(found.id), "aria-keyshortcuts": found.keys.join(" ") };
}

export function commandButton(panel, found) {
    const { words } = panel;
    const button = element("button", { type: "button", className: "tool", ...described(words, found) }, icon(found.id));
    button.dataset.command = found.id;
    button.addEventListener("click", () => found.run(panel), { signal: panel.signal });
    return button;
}

/** A button that looks pressed while `isOn()`. */
export function commandToggle(panel, found, isOn) {
    const button = commandButton(panel, found);
    panel.onState(() => button.setAttribute("aria-pressed", isOn()));
    return button;
}

/** One choice of a group: a native radio button, which arrow keys and screen readers support. */
export function radio(panel, { group, value, label, title, isOn, choose }, ...children) {
    const input = element("input", { type: "radio", name: group, value, "aria-label": label });
    input.addEventListener("change", choose, { signal: panel.signal });
    panel.onState(() => { input.checked = isOn(); });
    return element("label", { title }, input, ...children);
}

export function toolRadio(panel, found) {
    const { editor, words } = panel;
    const made = radio(panel, {
        group: "tool", value: found.id, label: words(found.id), title: hint(words, found),
        isOn: () => editor.tool === found.id, choose: () => found.run(panel),
    }, icon(found.id));
    made.className = "tool";
    return made;
}

/** A slider over a setting; `read` and `write` convert between 0..1 and the setting. */
export function slider(panel, label, read, write) {
    const input = element("input", { type: "range", min: 0, max: 1, step: 0.005, "aria-label": label, title: label });
    input.addEventListener("input", () => write(Number(input.value)), { signal: panel.signal });
    panel.onState(() => { input.value = read(); });
    return input;
}

export function numberField(label, properties) {
    const input = element("input", { type: "number", ...properties });
    return { input, field: element("label", {}, label, input) };
}

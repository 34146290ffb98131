/** The pop-ups of the panel: template faces, size of the drawing, list of keys. */

import { COMMANDS } from "./commands.js";
import { element, numberField } from "./elements.js";
import { LONGEST_SIDE } from "./model.js";
import { TEMPLATES, loadTemplate, templateUrl } from "./templates.js";

const SMALLEST_SIDE = 64;

function popup(title, className, ...children) {
    return element("div", { popover: "auto", className: `popup ${className}`, role: "dialog", "aria-label": title },
        element("h2", {}, title), ...children);
}

export function facesPopup(panel) {
    const { words, signal } = panel;
    const card = (name, picture, choose) => {
        const button = element("button", { type: "button", className: "card" }, picture, words(`template_${name}`));
        button.dataset.template = name;
        button.addEventListener("click", () => {
            panel.popups.faces.hidePopover();
            choose();
        }, { signal });
        return button;
    };
    const empty = card("empty", element("span", { className: "blank" }), () => panel.editor.clear());
    const faces = TEMPLATES.map((name) => card(
        name, element("img", { src: templateUrl(name), alt: "", loading: "lazy" }),
        () => panel.take(loadTemplate(name))));
    return popup(words("faces"), "faces", element("div", { className: "cards" }, ...faces, empty));
}

export function sizePopup(panel) {
    const { words, signal, editor } = panel;
    const limits = { min: SMALLEST_SIDE, max: LONGEST_SIDE, required: true };
    const width = numberField(words("width"), limits), height = numberField(words("height"), limits);
    const likePicture = element("button", { type: "button", className: "text" }, words("likePicture"));
    const form = element("form", {}, width.field, height.field, likePicture,
        element("button", { className: "text" }, words("apply")));
    panel.onState(() => {
        width.input.value = editor.map.width;
        height.input.value = editor.map.height;
        likePicture.hidden = !editor.picture;
    });
    likePicture.addEventListener("click", () => {
        const { naturalWidth, naturalHeight } = editor.picture;
        const shrink = Math.min(1, LONGEST_SIDE / Math.max(naturalWidth, naturalHeight));
        width.input.value = Math.round(naturalWidth * shrink);
        height.input.value = Math.round(naturalHeight * shrink);
    }, { signal });
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        panel.popups.size.hidePopover();
        editor.resize(Number(width.input.value), Number(height.input.value));
    }, { signal });
    return popup(words("size"), "resize", form);
}

export function helpPopup({ words }) {
    const rows = COMMANDS.map(({ id, keys }) => [keys, words(id)]);
    const others = ["moveKeys", "spaceKey", "wheel", "touch"].map((id) => [[words(id)], words(`${id}Help`)]);
    const digits = [["0 \u2013 9", "\u21e70 \u2013 \u21e78"], words("chooseClass")];
    const list = [digits, ...rows, ...others].map(([keys, what]) => element("div", {},
        element("dt", {}, ...keys.map((key) => element("kbd", {}, key))), element("dd", {}, what)));
    return popup(words("help"), "help", element("dl", {}, ...list));
}

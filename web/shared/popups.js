/** Pop-ups of all editors: size, list of keys. */

import { element, numberField } from "./elements.js";

export function popup(title, className, ...children) {
    return element("div", { popover: "auto", className: `popup ${className}`, role: "dialog", "aria-label": title },
        element("h2", {}, title), ...children);
}

/** limits: least and greatest side, and their step; apply(width, height). */
export function sizePopup(panel, { min, max, step = 1 }, apply) {
    const { words, signal, editor } = panel;
    const limits = { min, max, step, required: true };
    const width = numberField(words("width"), limits), height = numberField(words("height"), limits);
    const likeImage = element("button", { type: "button", className: "text" }, words("likeImage"));
    const form = element("form", {}, width.field, height.field, likeImage,
        element("button", { className: "text" }, words("apply")));
    panel.onState(() => {
        width.input.value = editor.content.width;
        height.input.value = editor.content.height;
        likeImage.hidden = !editor.image;
    });
    likeImage.addEventListener("click", () => {
        const { naturalWidth, naturalHeight } = editor.image;
        const shrink = Math.min(1, max / Math.max(naturalWidth, naturalHeight)) / step;
        width.input.value = step * Math.round(naturalWidth * shrink);
        height.input.value = step * Math.round(naturalHeight * shrink);
    }, { signal });
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        panel.popups.size.hidePopover();
        apply(Number(width.input.value), Number(height.input.value));
    }, { signal });
    return popup(words("size"), "resize", form);
}

/** The keys of all commands; `first` and `others` are more rows: [keys, text]. */
export function helpPopup({ words, commands }, first, others) {
    const rows = commands.map(({ id, keys }) => [keys, words(id)]);
    const list = [...first, ...rows, ...others].map(([keys, what]) => element("div", {},
        element("dt", {}, ...keys.map((key) => element("kbd", {}, key))), element("dd", {}, what)));
    return popup(words("help"), "help", element("dl", {}, ...list));
}

/** Rows of `helpPopup` whose words are `id` and `idHelp`. */
export const helpRows = (words, ...ids) => ids.map((id) => [[words(id)], words(`${id}Help`)]);

/** The pop-ups of the painter: template faces, parts, size of the drawing, list of keys. */

import { element } from "../shared/elements.js";
import { helpPopup, helpRows, popup, sizePopup } from "../shared/popups.js";
import { morePopup } from "./more.js";
import { LONGEST_SIDE } from "./model.js";
import { partsPopup } from "./parts.js";
import { TEMPLATES, loadTemplate, templateUrl } from "./templates.js";

const SMALLEST_SIDE = 64;

function facesPopup(panel) {
    const { words, signal } = panel;
    const card = (name, image, choose) => {
        const button = element("button", { type: "button", className: "card" }, image, words(`template_${name}`));
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
        () => panel.take(loadTemplate(name, panel.fetchApi))));
    return popup(words("faces"), "faces", element("div", { className: "cards" }, ...faces, empty));
}

export function painterPopups(panel) {
    const { words, editor } = panel;
    const digits = [["0 \u2013 9", "\u21e70 \u2013 \u21e78"], words("chooseClass")];
    return {
        faces: facesPopup(panel),
        size: sizePopup(panel, { min: SMALLEST_SIDE, max: LONGEST_SIDE }, (...size) => editor.resize(...size)),
        parts: partsPopup(panel),
        more: morePopup(panel, "import", "export", "smooth", "copyRight", "copyLeft", "natural", "clear"),
        help: helpPopup(panel, [digits], helpRows(words, "shiftClick", "shiftStroke", "moveKeys", "spaceKey", "pan", "wheel",
            "touch", "others", "files", "layouts")),
    };
}

/** The pop-up of the gallery: parts of faces by group, each at its place on a head. */

import { element, radio } from "../shared/elements.js";
import { popup } from "../shared/popups.js";
import { GROUPS, classOnHead, loadGallery } from "./gallery.js";

const SIDE = 168; // pixels of a thumbnail
const MARGIN = 0.3; // around the parts of a group, as a share of their size
const FAINT = 0.3; // how much of its colors the head below a part keeps

export function partsPopup(panel) {
    const { words, signal } = panel;
    const cards = element("div", { className: "cards parts" });
    const groups = Object.keys(GROUPS);
    let [chosen] = groups;
    const show = async () => {
        const gallery = await loadGallery().catch(() => null);
        if (gallery) {
            cards.replaceChildren(...groupCards(panel, gallery, chosen));
        } else {
            panel.popups.parts.hidePopover();
            panel.say(words("noAnswer", { name: words("parts") }));
        }
    };
    const tabs = groups.map((group) => radio(panel, {
        group: "part", value: group, label: words(`group_${group}`), title: words(`group_${group}`),
        isOn: () => group === chosen, choose: () => {
            chosen = group;
            show();
        },
    }, words(`group_${group}`)));
    const made = popup(words("parts"), "gallery",
        element("div", { className: "tabs", role: "radiogroup", "aria-label": words("parts") }, ...tabs), cards);
    made.addEventListener("toggle", ({ newState }) => newState === "open" && show(), { signal });
    return made;
}

function groupCards(panel, gallery, group) {
    const { words, signal, editor } = panel, parts = gallery.parts[group];
    const square = squareAround(Object.values(parts), gallery.size);
    return Object.entries(parts).map(([name, part]) => {
        const label = words(`${group}_${name}`);
        const button = element("button", { type: "button", className: "card" },
            thumbnail(gallery.head, group, part, square, editor.colors), label);
        button.dataset.part = `${group}/${name}`;
        button.addEventListener("click", () => lay(panel, gallery, group, name), { signal });
        return button;
    });
}

function lay(panel, gallery, group, name) {
    const { words, editor, canvas } = panel;
    panel.popups.parts.hidePopover();
    if (!editor.layPart(gallery, group, name)) {
        panel.say(words("partLocked"));
    } else if (group === "beards") {
        panel.tell(words("beardHint"));
    }
    canvas.focus({ preventScroll: true });
}

/** The square around all parts of a group: { left, top, side }. */
function squareAround(parts, size) {
    const left = Math.min(...parts.map((part) => part.left)), top = Math.min(...parts.map((part) => part.top));
    const right = Math.max(...parts.map((part) => part.left + part.width));
    const bottom = Math.max(...parts.map((part) => part.top + part.height));
    const side = Math.min(size, Math.max(right - left, bottom - top) * (1 + MARGIN));
    const start = (low, high) => Math.max(0, Math.min(size - side, (low + high - side) / 2));
    return { left: start(left, right), top: start(top, bottom), side };
}

function thumbnail(head, group, part, { left, top, side }, colors) {
    const canvas = element("canvas", { width: SIDE, height: SIDE });
    const image = new ImageData(SIDE, SIDE);
    for (let y = 0, i = 0; y < SIDE; y++) {
        for (let x = 0; x < SIDE; x++, i += 4) {
            const { value, isPart } = classOnHead(head, group, part, { x: left + (x + 0.5) * side / SIDE,
                                                                       y: top + (y + 0.5) * side / SIDE });
            image.data.set([...colors[value], value === 0 ? 0 : 255 * (isPart ? 1 : FAINT)], i);
        }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return element("img", { src: canvas.toDataURL(), alt: "" });
}

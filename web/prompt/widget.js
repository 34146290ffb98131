/** Words of a prompt that the text encoder does not know, told after a run, with those that it knows. */

import { app } from "../../../scripts/app.js";
import { chain } from "../shared/chain.js";
import { element } from "../shared/elements.js";
import { readStyle } from "../shared/style.js";
import { translator } from "../shared/words.js";
import { WORDS } from "./words.js";

const STYLE = await readStyle("prompt.css", import.meta.url);
const MIN_HEIGHT = 110;

/** Shows the words that a run of the node has sent; a message tells them where the node is out of sight. */
export function followWords(node) {
    let shown = null, told = "";
    chain(node, "onExecuted", ({ unknown_words: unknown = [], known_words: known = [] } = {}) => {
        if (unknown.join() === told) {
            return;
        }
        told = unknown.join();
        if (shown) {
            node.removeWidget(shown);
        }
        shown = unknown.length ? showWords(node, unknown, known) : null;
    });
}

function showWords(node, unknown, known) {
    const words = translator(WORDS, app.extensionManager.setting.get("Comfy.Locale"));
    const detail = words("unknown", { words: unknown.join(", ") });
    app.extensionManager.toast.add({ severity: "warn", summary: words("title"), detail, life: 8000 });
    const host = document.createElement("div");
    host.dataset.captureWheel = "true"; // Nodes 2.0 then leave the wheel to the list
    const chips = known.map((word) => chip(word, () => append(node, word)));
    host.attachShadow({ mode: "open" }).append(element("style", { textContent: STYLE }),
        element("section", {}, element("p", { role: "status" }, detail), element("p", {}, words("known")),
            element("div", { className: "chips" }, ...chips)));
    const widget = node.addDOMWidget("words", "MDIT_WORDS", host, { getMinHeight: () => MIN_HEIGHT, serialize: false,
                                                                    hideInPanel: true, socketless: true });
    widget.serialize = false;
    node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
    node.setDirtyCanvas(true, true); // the widget takes its place when the node is drawn
    return widget;
}

function chip(word, add) {
    const button = element("button", { type: "button" }, word);
    button.addEventListener("click", add);
    return button;
}

/** Adds a word to the prompt. */
function append(node, word) {
    const prompt = node.widgets.find(({ name }) => name === "text");
    prompt.value = prompt.value.trim() ? `${prompt.value.trimEnd()}, ${word}` : word;
    prompt.callback?.(prompt.value);
}

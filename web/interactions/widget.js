/** The editor of interactions as a widget of a node. */

import { app } from "../../../scripts/app.js";
import { chain } from "../shared/chain.js";
import { editorWidget } from "../shared/widget.js";
import { fromText, toText } from "./model.js";
import { LayoutPanel } from "./panel.js";
import { wordsFor } from "./words.js";

const SIDES = ["width", "height"];
const KIND = {
    Panel: LayoutPanel, wordsFor,
    codec: { decode: async (text) => fromText(text), encode: async ({ interactions }) => toText(interactions) },
};

export function layoutWidget(node, name, [, { default: text }]) {
    const { widget, panel } = editorWidget(node, name, "MDIT_LAYOUT", text, KIND);
    followSize(node, panel);
    return { widget, minWidth: 520, minHeight: 700 };
}

/** Sets the image's size from the node's widgets, or from the last run if other nodes give the size. */
function followSize(node, panel) {
    const widgets = SIDES.map((side) => node.widgets.find(({ name }) => name === side));
    const isConnected = (side) => node.isInputConnected(node.inputs.findIndex(({ name }) => name === side));
    const refresh = () => {
        if (!SIDES.some(isConnected)) {
            panel.editor.resize(...widgets.map(({ value }) => value));
        }
    };
    panel.onResize = (...size) => {
        app.canvas.emitBeforeChange();
        widgets.forEach((widget, k) => {
            widget.value = size[k];
            widget.callback?.(size[k]);
        });
        app.canvas.emitAfterChange();
    };
    widgets.forEach((widget) => chain(widget, "callback", refresh));
    chain(node, "onConfigure", refresh);
    chain(node, "onExecuted", (output) => output?.size && panel.editor.resize(...output.size));
    panel.host.addEventListener("pointerenter", refresh, { signal: panel.signal });
    refresh();
}

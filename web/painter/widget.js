/** The painter as a widget of a node: its value, the picture underneath, its end. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { decode, encode } from "./codec.js";
import { Panel } from "./panel.js";
import { wordsFor } from "./words.js";

export const MIN_SIZE = { minWidth: 600, minHeight: 680 };
const MIN_HEIGHT = 300;
const BACKGROUND = "background";

/** Calls `after` when a method of this one node has run. */
function chain(node, name, after) {
    const before = node[name];
    node[name] = function (...values) {
        const result = before?.apply(this, values);
        after.apply(this, values);
        return result;
    };
}

/** The text of a drawing, kept beside the panel that shows it. */
class Drawing {
    #revision = 0;
    settled = Promise.resolve();

    constructor(panel, onSaved) {
        Object.assign(this, { panel, onSaved, text: "" });
        panel.editor.addEventListener("edit", () => { this.settled = this.#save(); }, { signal: panel.signal });
    }

    /** Shows a text; one that cannot be read stays as it is until something is painted. */
    load(text) {
        this.text = text;
        this.settled = this.#show(text, ++this.#revision);
    }

    async #show(text, revision) {
        const map = await decode(text).catch(() => null);
        if (revision !== this.#revision) {
            return; // something newer came in between
        }
        this.panel.say(map ? "" : this.panel.words("damaged"));
        if (map) {
            this.panel.editor.reset(map);
        }
    }

    async #save() {
        const revision = ++this.#revision;
        const text = await encode(this.panel.editor.map);
        if (revision === this.#revision) {
            this.text = text;
            this.onSaved(text);
        }
    }
}

export function labelMapWidget(node, name, [, { default: text }]) {
    const host = document.createElement("div");
    // The host's undo leaves the keys to an element with the focus whose type is that of a text area.
    host.type = "textarea";
    host.dataset.captureWheel = "true"; // Nodes 2.0 leave the wheel to such an element while it has the focus
    const words = wordsFor(app.extensionManager.setting.get("Comfy.Locale"));
    const panel = new Panel(host, words, (event) => app.canvas.processMouseWheel(event));
    const drawing = new Drawing(panel, (saved) => {
        widget.callback?.(saved);
        app.canvas.emitBeforeChange(); // the two ask for an entry in the host's own history
        app.canvas.emitAfterChange();
    });
    const widget = node.addDOMWidget(name, "MDIT_LABEL_MAP", host, {
        getValue: () => drawing.text,
        setValue: (value) => drawing.load(value),
        getMinHeight: () => MIN_HEIGHT,
        hideOnZoom: false,
        socketless: true,
    });
    widget.serializeValue = async () => {
        await drawing.settled;
        return drawing.text;
    };
    chain(widget, "onRemove", () => panel.close());
    followBackground(node, panel);
    drawing.load(text);
    return { widget, ...MIN_SIZE };
}

/** Shows the connected picture: what the node before shows, or what the last run brought. */
function followBackground(node, { editor, host, signal }) {
    const input = () => node.inputs.findIndex(({ name }) => name === BACKGROUND);
    const show = (src) => {
        const picture = new Image();
        picture.addEventListener("load", () => editor.setPicture(picture), { signal });
        picture.src = src;
    };
    const refresh = () => {
        const shown = node.getInputNode(input())?.imgs?.[0]?.src;
        if (!node.isInputConnected(input())) {
            editor.setPicture(null);
        } else if (shown && !editor.picture) {
            show(shown);
        }
    };
    chain(node, "onConnectionsChange", refresh);
    chain(node, "onExecuted", (output) => {
        const [file] = output?.[BACKGROUND] ?? [];
        if (file) {
            show(api.apiURL(`/view?${new URLSearchParams(file)}`));
        }
    });
    host.addEventListener("pointerenter", refresh, { signal });
}

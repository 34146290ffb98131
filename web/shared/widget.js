/** An editor as a widget of a node: its value, the image underneath, its end. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const MIN_HEIGHT = 300;
const BACKGROUND = "background";

/** Calls `after` when a method of this one object has run. */
export function chain(object, name, after) {
    const before = object[name];
    object[name] = function (...values) {
        const result = before?.apply(this, values);
        after.apply(this, values);
        return result;
    };
}

/** The text of what is edited, kept beside the panel that shows it. */
class Value {
    #revision = 0;
    settled = Promise.resolve();

    /** codec: { decode(text), encode(content) }, both promises; onSaved(text) follows each step. */
    constructor(panel, codec, onSaved) {
        Object.assign(this, { panel, codec, text: "" });
        const { editor, signal } = panel;
        editor.addEventListener("edit", () => { this.settled = this.#save(onSaved); }, { signal });
        editor.addEventListener("typed", () => { this.settled = this.#save(() => {}); }, { signal });
    }

    /** Shows a text; one that cannot be read stays as it is until something is edited. */
    load(text) {
        this.text = text;
        this.settled = this.#show(text, ++this.#revision);
    }

    async #show(text, revision) {
        const content = await this.codec.decode(text).catch(() => null);
        if (revision !== this.#revision) {
            return; // something newer came in between
        }
        this.panel.say(content ? "" : this.panel.words("damaged"));
        if (content) {
            this.panel.editor.reset(content);
        }
    }

    async #save(onSaved) {
        const revision = ++this.#revision;
        const text = await this.codec.encode(this.panel.editor.content);
        if (revision === this.#revision) {
            this.text = text;
            onSaved(text);
        }
    }
}

/**
 * A widget of a node, `name` and `type`, that starts with a text. `Panel` is its kind of panel, wordsFor(locale) the
 * panel's words, `codec` reads and writes the text.
 */
export function editorWidget(node, name, type, text, { Panel, wordsFor, codec }) {
    const host = document.createElement("div");
    // The host's undo leaves the keys to an element with the focus whose type is that of a text area.
    host.type = "textarea";
    host.dataset.captureWheel = "true"; // Nodes 2.0 leave the wheel to such an element while it has the focus
    const words = wordsFor(app.extensionManager.setting.get("Comfy.Locale"));
    const panel = new Panel(host, words, (event) => app.canvas.processMouseWheel(event));
    const value = new Value(panel, codec, (saved) => {
        widget.callback?.(saved);
        app.canvas.emitBeforeChange(); // the two ask for an entry in the host's own history
        app.canvas.emitAfterChange();
    });
    const widget = node.addDOMWidget(name, type, host, {
        getValue: () => value.text,
        setValue: (given) => value.load(given),
        getMinHeight: () => MIN_HEIGHT,
        hideOnZoom: false,
        socketless: true,
    });
    widget.serializeValue = async () => {
        await value.settled;
        return value.text;
    };
    chain(widget, "onRemove", () => panel.close());
    followBackground(node, panel);
    value.load(text);
    return { widget, panel };
}

/** Shows the connected image: what the node before shows, or what the last run brought. */
function followBackground(node, { editor, host, signal }) {
    const input = () => node.inputs.findIndex(({ name }) => name === BACKGROUND);
    const show = (src) => {
        const image = new Image();
        image.addEventListener("load", () => editor.setImage(image), { signal });
        image.src = src;
    };
    const refresh = () => {
        const shown = node.getInputNode(input())?.imgs?.[0]?.src;
        if (!node.isInputConnected(input())) {
            editor.setImage(null);
        } else if (shown && !editor.image) {
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

/** An editor as a widget of a node: value, background image, removal. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const MIN_HEIGHT = 300;
const BACKGROUND = "background";

/** Calls `after` each time after a method of this object. */
export function chain(object, name, after) {
    const before = object[name];
    object[name] = function (...values) {
        const result = before?.apply(this, values);
        after.apply(this, values);
        return result;
    };
}

/** The text of the edited content, next to the panel that shows the content. */
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

    /** Shows a text. A text that cannot be read stays as it is until the first edit. */
    load(text) {
        this.text = text;
        this.settled = this.#show(text, ++this.#revision);
    }

    async #show(text, revision) {
        const content = await this.codec.decode(text).catch(() => null);
        if (revision !== this.#revision) {
            return; // a newer text has arrived
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
 * A widget of a node, by name and type, that starts with a text. Panel is the class of its panel, wordsFor(locale) gives
 * the panel's words, codec reads and writes the text.
 */
export function editorWidget(node, name, type, text, { Panel, wordsFor, codec }) {
    const host = document.createElement("div");
    // The host's undo ignores keys while an element with this type has the focus.
    host.type = "textarea";
    host.dataset.captureWheel = "true"; // Nodes 2.0 then leave the wheel to the focused element
    const words = wordsFor(app.extensionManager.setting.get("Comfy.Locale"));
    const panel = new Panel(host, words, (event) => app.canvas.processMouseWheel(event));
    const value = new Value(panel, codec, (saved) => {
        widget.callback?.(saved);
        app.canvas.emitBeforeChange(); // together: an entry in the host's own history
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

/** Shows the connected image: the preview of the connected node, or the image of the last run. */
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

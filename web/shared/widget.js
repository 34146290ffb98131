/** An editor as a widget of a node: value, background image, removal. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { followBackground } from "./background.js";
import { chain } from "./chain.js";
import { takeNodeDrops } from "./files.js";

const MIN_HEIGHT = 300;

/** The text of the edited content, next to the panel that shows the content. */
class Value {
    #revision = 0;
    settled = Promise.resolve();

    /** codec: { decode(text), encode(content) }, both promises; onSaved(text) follows each step. */
    constructor(panel, codec, onSaved) {
        Object.assign(this, { panel, codec, text: "" });
        const { editor, signal } = panel;
        editor.addEventListener("edit", () => { this.settled = holdHistory(this.#save(onSaved)); }, { signal });
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
 * Makes one entry in the host's own history when a step is saved. Until then the host takes none: the end of the pointer's
 * gesture would be a change of its own, with the drawing before the step.
 */
async function holdHistory(saving) {
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    changeTracker.beforeChange();
    try {
        await saving;
    } finally {
        changeTracker.afterChange();
    }
}

/**
 * A widget of a node, by name and type, that starts with a text. Panel is the class of its panel, wordsFor(locale) gives
 * the panel's words, codec reads and writes the text, servicesFor(node) gives what only this panel needs.
 */
export function editorWidget(node, name, type, text, { Panel, wordsFor, codec, servicesFor = () => ({}) }) {
    const host = document.createElement("div");
    // The host's undo ignores keys while an element with this type has the focus.
    host.type = "textarea";
    host.dataset.captureWheel = "true"; // Nodes 2.0 then leave the wheel to the focused element
    const words = wordsFor(app.extensionManager.setting.get("Comfy.Locale"));
    const panel = new Panel(host, words, {
        forward: (event) => app.canvas.processMouseWheel(event),
        pansByWheel: () => app.extensionManager.setting.get("Comfy.Canvas.NavigationMode") === "standard",
        fetchApi: (path, options) => api.fetchApi(path, options),
        ...servicesFor(node),
    });
    const value = new Value(panel, codec, (saved) => {
        widget.callback?.(saved);
        panel.onSaved();
    });
    const widget = node.addDOMWidget(name, type, host, {
        getValue: () => value.text,
        setValue: (given) => value.load(given),
        getMinHeight: () => MIN_HEIGHT,
        hideOnZoom: false,
        hideInPanel: true, // the panel cannot show it, and would set its width
        socketless: true,
    });
    widget.serializeValue = async () => {
        await value.settled;
        return value.text;
    };
    chain(widget, "onRemove", () => panel.close());
    followBackground(node, panel);
    takeNodeDrops(node, panel);
    value.load(text);
    return { widget, panel };
}

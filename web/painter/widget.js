/** The painter as a widget of a node. */

import { followInput } from "../shared/background.js";
import { chain } from "../shared/chain.js";
import { Runs } from "../shared/runs.js";
import { editorWidget } from "../shared/widget.js";
import { decode, encode } from "./codec.js";
import { PainterPanel } from "./panel.js";
import { wordsFor } from "./words.js";

const servicesFor = (node) => ({ runs: new Runs(node), settings: settingsOf(node) });
const KIND = { Panel: PainterPanel, wordsFor, codec: { decode, encode }, servicesFor };

/** Settings that the graph keeps with the node. */
function settingsOf(node) {
    return {
        get: (name) => node.properties?.[name],
        set: (name, value) => node.setProperty(name, value),
    };
}

export function labelMapWidget(node, name, [, { default: text }]) {
    const { widget, panel } = editorWidget(node, name, "MDIT_LABEL_MAP", text, KIND);
    chain(node, "onConfigure", () => panel.editor.changed("state")); // the settings have arrived
    followInput(node, "start", panel, (address) => panel.offer(address));
    return { widget, minWidth: 600, minHeight: 680 };
}

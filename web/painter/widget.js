/** The painter as a widget of a node. */

import { followInput } from "../shared/background.js";
import { editorWidget } from "../shared/widget.js";
import { decode, encode } from "./codec.js";
import { PainterPanel } from "./panel.js";
import { wordsFor } from "./words.js";

const KIND = { Panel: PainterPanel, wordsFor, codec: { decode, encode } };

export function labelMapWidget(node, name, [, { default: text }]) {
    const { widget, panel } = editorWidget(node, name, "MDIT_LABEL_MAP", text, KIND);
    followInput(node, "start", panel, (address) => panel.offer(address));
    return { widget, minWidth: 600, minHeight: 680 };
}

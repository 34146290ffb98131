/** Registers the editor of interactions, the widget of the node Draw Interactions. */

import { app } from "../../scripts/app.js";
import { layoutWidget } from "./interactions/widget.js";

app.registerExtension({
    name: "mditface.Interactions",
    getCustomWidgets: () => ({ MDIT_LAYOUT: layoutWidget }),
});

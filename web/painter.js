/** Registers the label-map painter, the widget of the node Paint Face. */

import { app } from "../../scripts/app.js";
import { labelMapWidget } from "./painter/widget.js";

app.registerExtension({
    name: "mditface.Painter",
    getCustomWidgets: () => ({ MDIT_LABEL_MAP: labelMapWidget }),
});

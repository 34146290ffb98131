/** Registers the words under the prompt of the node Prompt + Mask. */

import { app } from "../../scripts/app.js";
import { followWords } from "./prompt/widget.js";

app.registerExtension({
    name: "mditface.Prompt",
    nodeCreated: (node) => node.comfyClass === "MDiT_TextConditioning" && followWords(node),
});

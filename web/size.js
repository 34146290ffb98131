/** Tells a size far above the trained one, while the picture is not yet drawn. */

import { app } from "../../scripts/app.js";
import { chain } from "./shared/chain.js";
import { translator } from "./shared/words.js";

const WORDS = {
    en: {
        title: "Large picture",
        detail: "{width} x {height} pixels are far above the {trained} that the model was trained at: it has seen no "
            + "faces of that size. Choose 'trained' at the input 'size'.",
    },
    zh: {
        title: "图像过大",
        detail: "{width} x {height} 像素远大于模型训练时的 {trained}，模型没有见过这样大的人脸。请在“尺寸”中选择 trained。",
    },
};

app.registerExtension({
    name: "mditface.Size",
    nodeCreated: (node) => node.comfyClass === "MDiT_PictureSize" && followSize(node),
});

/** A message reaches the user also where the node is inside a subgraph or behind an app. It is shown once a size. */
function followSize(node) {
    let told = "";
    chain(node, "onExecuted", ({ far_size: size = [] } = {}) => {
        if (size.length && size.join() !== told) {
            const [width, height, trained] = size;
            const words = translator(WORDS, app.extensionManager.setting.get("Comfy.Locale"));
            const detail = words("detail", { width, height, trained });
            app.extensionManager.toast.add({ severity: "warn", summary: words("title"), detail, life: 8000 });
        }
        told = size.join();
    });
}

/** The editor of interactions on the screen: tool bar, canvas, list of words and status line. */

import { element, toolRadio } from "../shared/elements.js";
import { Panel } from "../shared/panel.js";
import { helpPopup, helpRows, sizePopup } from "../shared/popups.js";
import { readStyle } from "../shared/style.js";
import { COMMANDS, handleKey } from "./commands.js";
import { LayoutEditor } from "./editor.js";
import { List } from "./list.js";
import { LIMIT } from "./model.js";
import { LayoutView } from "./view.js";

const STYLE = await readStyle("interactions.css", import.meta.url);
const SIDE = { min: 16, max: 16384, step: 8 };

export class LayoutPanel extends Panel {
    constructor(host, words, services) {
        super(host, words, services, new LayoutEditor(), COMMANDS);
        const { editor, signal } = this;
        this.popups = {
            size: sizePopup(this, SIDE, (width, height) => this.onResize(width, height)),
            help: helpPopup(this, [], helpRows(words, "moveKeys", "spaceKey", "enterKey", "pan", "wheel", "touch", "others", "files",
                "layouts")),
        };
        this.list = new List(this);
        this.assemble("interactions", STYLE, LayoutView,
            [this.#bar(), this.stage(), this.list.element, this.#status()]);
        editor.addEventListener("full", () => this.say(words("full", { limit: LIMIT })), { signal });
        editor.addEventListener("rename", () => {
            this.list.focus(editor.chosen.index, editor.chosen.box === "object_box" && editor.one.subject
                ? "object" : "subject");
        }, { signal });
    }

    handleKey(event, target) {
        return handleKey(event, this, target);
    }

    takeFiles() {
        this.say(this.words("noFiles"));
    }

    /** Applies the size that the user entered. */
    onResize(width, height) {
        this.editor.resize(width, height);
    }

    #bar() {
        const { editor, words } = this;
        const tools = ["draw", "move", "hand"].map((id) => toolRadio(this, this.command(id)));
        const edits = this.buttons("swap", "duplicate", "earlier", "later", "remove");
        this.onState(() => {
            for (const button of edits) button.setAttribute("aria-disabled", !editor.one);
        });
        return element("div", { className: "bar", role: "toolbar", "aria-label": words("tools") },
            element("div", { className: "group", role: "radiogroup", "aria-label": words("tools") }, ...tools),
            element("div", { className: "group" }, ...this.historyButtons()),
            element("div", { className: "group" }, ...edits),
            element("div", { className: "group" }, ...this.buttons("clear")),
            element("div", { className: "group end" }, ...this.buttons("help", "fullscreen")));
    }

    #status() {
        const { editor, words } = this;
        const hint = element("output", { className: "under", "aria-live": "polite" });
        this.onState(() => {
            const { width, height, interactions } = editor.content;
            this.canvas.setAttribute("aria-label", words("canvas", { width, height, count: interactions.length }));
            hint.textContent = this.#hint();
        });
        return element("div", { className: "status" }, this.sizeButton(), hint, ...this.zoomButtons());
    }

    /** The next action, or the chosen box and its position. */
    #hint() {
        const { editor, words } = this, { one, chosen } = editor;
        if (editor.tool === "draw") {
            return words(editor.pending ? "drawObject" : "drawSubject");
        }
        if (!one) {
            return words("empty");
        }
        const [left, top, right, bottom] = one[chosen.box].map((fraction) => Math.round(100 * fraction));
        const phrase = chosen.box === "subject_box" ? "subject" : "object";
        return words("position", { number: chosen.index + 1, phrase: one[phrase] || words(phrase), left, top, right, bottom });
    }
}

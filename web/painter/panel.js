/** The painter on the screen: tool bar, palette, drawing and status line. */

import { commandToggle, element, radio, slider, toolRadio } from "../shared/elements.js";
import { icon } from "../shared/icons.js";
import { Panel } from "../shared/panel.js";
import { readStyle } from "../shared/style.js";
import { CLASSES } from "./classes.js";
import { COMMANDS, classKey, handleKey } from "./commands.js";
import { COVERS, LabelEditor, RADIUS } from "./editor.js";
import { ImageError, readAddress, readFiles, toPng } from "./images.js";
import { painterPopups } from "./popups.js";
import { Result } from "./result.js";
import { LabelView } from "./view.js";

const STYLE = await readStyle("painter.css", import.meta.url);

export class PainterPanel extends Panel {
    #taken = 0; // imports so far: only the latest counts
    #start = null; // address of the label map that is offered as the drawing

    /** services: also `runs`, as shared/runs.js describes it, and `settings` of the node, with get and set. */
    constructor(host, words, { runs, settings, ...services }) {
        super(host, words, services, new LabelEditor(settings), COMMANDS);
        Object.assign(this, { runs, settings });
        this.result = new Result(this);
        this.files = element("input", { type: "file", multiple: true, accept: "image/*", hidden: true });
        this.files.addEventListener("change", () => this.takeFiles([...this.files.files]), { signal: this.signal });
        this.popups = painterPopups(this);
        this.assemble("painter", STYLE, LabelView,
            [this.#bar(), this.#work(), this.#status(), this.files]);
    }

    handleKey(event, target) {
        return handleKey(event, this, target);
    }

    onDrawn() {
        const { editor, words } = this;
        const value = editor.pointer ? editor.map.at(editor.pointer) : null;
        this.under.textContent = value === null ? "" : words(CLASSES[value]);
        super.onDrawn();
    }

    onSaved() {
        this.result.redraw();
    }

    chooseFiles() {
        this.files.value = "";
        this.files.click();
    }

    async takeFiles(files) {
        const { editor, fetchApi } = this, found = await files;
        if (found.length) {
            await this.take(readFiles(found, editor.value, fetchApi));
        }
    }

    /** Offers the label map at an address as the drawing, or with null none. The drawing stays until `takeStart`. */
    offer(address) {
        this.#start = address;
        this.editor.changed("state");
    }

    /** Replaces the drawing by the offered label map. */
    async takeStart() {
        const { editor, fetchApi } = this;
        if (this.#start) {
            await this.take(readAddress(this.#start, this.words("startName"), editor.value, fetchApi));
        }
    }

    /** Replaces the drawing by the promised label map, and shows the notes on it; or shows the error. */
    async take(promise) {
        const number = ++this.#taken;
        try {
            const map = await promise;
            if (number === this.#taken) {
                this.editor.replace(map);
                this.tell(map.notes.map((note) => this.#sentence(note)).join(" "));
                this.canvas.focus();
            }
        } catch (error) {
            if (!(error instanceof ImageError)) throw error;
            this.say(this.#sentence(error));
        }
    }

    #sentence({ word, values: { part, ...values } }) {
        return this.words(word, part ? { ...values, part: this.words(part) } : values);
    }

    async export() {
        const url = URL.createObjectURL(await toPng(this.editor.map));
        element("a", { href: url, download: "label-map.png" }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000); // the download has begun by then
    }

    #bar() {
        const { editor, words } = this;
        const tools = ["brush", "eraser", "healer", "fill", "polygon", "lasso", "move", "hand"].map(
            (id) => toolRadio(this, this.command(id)));
        const radius = slider(this, words("brushSize"),
            () => Math.log(editor.radius / RADIUS.min) / Math.log(RADIUS.max / RADIUS.min),
            (share) => editor.setRadius(RADIUS.min * (RADIUS.max / RADIUS.min) ** share));
        const number = element("output", { className: "number" });
        this.onState(() => { number.textContent = `${2 * editor.radius} px`; });
        const [start] = this.buttons("start");
        this.onState(() => { start.hidden = !this.#start; });
        return element("div", { className: "bar", role: "toolbar", "aria-label": words("tools") },
            element("div", { className: "group", role: "radiogroup", "aria-label": words("tools") }, ...tools),
            element("div", { className: "group size" }, radius, number),
            element("div", { className: "group" },
                commandToggle(this, this.command("mirror"), () => editor.mirror)),
            element("div", { className: "group" }, ...this.historyButtons()),
            element("div", { className: "group" }, start, ...this.buttons("faces", "parts", "more")),
            element("div", { className: "group end" }, ...this.buttons("fullscreen")));
    }

    #work() {
        return element("div", { className: "work" }, this.#palette(), this.stage(), this.result.element);
    }

    #palette() {
        const { editor, words } = this;
        const rows = CLASSES.map((name, value) => {
            const swatch = element("span", { className: "swatch" });
            this.onState(() => { swatch.style.background = `rgb(${editor.colors[value]})`; });
            const row = radio(this, {
                group: "class", value, label: words(name), title: `${words(name)} (${classKey(value)})`,
                isOn: () => editor.value === value, choose: () => editor.setValue(value),
            }, swatch, element("span", { className: "name" }, words(name)), element("kbd", {}, classKey(value)),
            this.#lock(value));
            row.addEventListener("click", (event) => event.shiftKey && this.#extend(event, value), { signal: this.signal });
            this.onState(() => row.classList.toggle("selected", editor.selected.includes(value)));
            return row;
        });
        return element("div", { className: "palette", role: "radiogroup", "aria-label": words("classes") }, ...rows);
    }

    /** Shift and a click add a class to the selection; the radio button stays as it is. */
    #extend(event, value) {
        event.preventDefault();
        this.editor.toggleSelected(value);
    }

    #lock(value) {
        const { editor, words } = this, label = words("lockName", { part: words(CLASSES[value]) });
        const button = element("button", { type: "button", className: "lock", title: label, "aria-label": label },
            icon("lock"));
        button.addEventListener("click", (event) => {
            event.preventDefault(); // the row is not chosen
            editor.toggleLock(value);
        }, { signal: this.signal });
        this.onState(() => button.setAttribute("aria-pressed", editor.locked.has(value)));
        return button;
    }

    #coverChoice() {
        const { editor, words } = this;
        const choices = COVERS.map((cover) => element("option", { value: cover }, words(`cover_${cover}`)));
        const select = element("select", { title: `${words("cover")} (C)`, "aria-label": words("cover") }, ...choices);
        select.addEventListener("change", () => editor.keep("cover", select.value), { signal: this.signal });
        this.onState(() => { select.value = editor.cover; });
        return select;
    }

    #status() {
        const { editor, words } = this;
        const chosen = element("output", { className: "chosen" }); // where the list shows no names, or hides under a hand
        this.onState(() => { chosen.textContent = words(CLASSES[editor.value]); });
        this.under = element("output", { className: "under", "aria-live": "polite" });
        const opacity = slider(this, words("opacity"), () => editor.opacity, (share) => editor.setOpacity(share));
        this.onState(() => {
            const { width, height } = editor.map;
            this.canvas.setAttribute("aria-label", words("canvas", { width, height }));
            opacity.hidden = !editor.image;
        });
        return element("div", { className: "status" }, this.sizeButton(), this.#coverChoice(), chosen, this.under, opacity,
            ...this.zoomButtons(), ...this.buttons("help"));
    }
}

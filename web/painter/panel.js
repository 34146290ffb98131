/** The painter on the screen: tool bar, palette, canvas, status line and pop-ups, in a shadow tree of its own. */

import { CLASSES, PALETTE } from "./classes.js";
import { classKey, command, handleKey } from "./commands.js";
import { Editor, RADIUS } from "./editor.js";
import { commandButton, commandToggle, element, radio, slider, toolRadio } from "./elements.js";
import { PictureError, readFiles, toPng } from "./pictures.js";
import { followPointers } from "./pointer.js";
import { facesPopup, helpPopup, sizePopup } from "./popups.js";
import { View } from "./view.js";

const STYLE = new URL("painter.css", import.meta.url).href;

export class Panel {
    editor = new Editor();
    #watchers = [];
    #closing = new AbortController();

    /** host: an empty element; words: see `wordsFor`; forward(event): gets the wheel while the focus is elsewhere. */
    constructor(host, words, forward) {
        Object.assign(this, { host, words, forward });
        this.root = host.attachShadow({ mode: "open" });
        this.#build();
        this.#connect();
        this.#update();
    }

    get signal() {
        return this.#closing.signal;
    }

    /** Runs `update` now and whenever the editor's state changes. */
    onState(update) {
        this.#watchers.push(update);
    }

    close() {
        this.#closing.abort();
        this.editor.view.close();
    }

    /** Shows a message over the canvas until the next edit. */
    say(text) {
        this.message.textContent = text;
    }

    toggle(name) {
        const popup = this.popups[name];
        popup.togglePopover();
        if (popup.matches(":popover-open")) {
            place(popup, this.root.querySelector(`[data-command="${name}"]`));
            popup.querySelector("button, input")?.focus();
        }
    }

    toggleFullscreen() {
        if (this.dialog.open) {
            this.dialog.close();
        } else {
            this.dialog.append(this.body);
            this.dialog.showModal();
            this.canvas.focus();
        }
    }

    /** Closes what is open, a pop-up first; else gives the keys back to the graph. */
    leave() {
        const popup = Object.values(this.popups).find((found) => found.matches(":popover-open"));
        if (popup) {
            popup.hidePopover();
        } else if (this.dialog.open) {
            this.dialog.close();
        } else {
            this.canvas.blur();
        }
    }

    chooseFiles() {
        this.files.value = "";
        this.files.click();
    }

    /** Takes over what the promise of a label map brings, or says why not. */
    async take(promise) {
        try {
            this.editor.replace(await promise);
            this.canvas.focus();
        } catch (error) {
            if (!(error instanceof PictureError)) throw error;
            this.say(this.words(error.word, error.values));
        }
    }

    async export() {
        const url = URL.createObjectURL(await toPng(this.editor.map));
        element("a", { href: url, download: "label-map.png" }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000); // the download has begun by then
    }

    #build() {
        const { words } = this;
        this.canvas = element("canvas", { tabIndex: 0, role: "application", "aria-describedby": "keys" });
        this.message = element("p", { className: "message", role: "alert" });
        this.files = element("input", { type: "file", multiple: true, accept: "image/*", hidden: true });
        this.popups = { faces: facesPopup(this), size: sizePopup(this), help: helpPopup(this) };
        this.dialog = element("dialog", { "aria-label": words("title") });
        this.body = element("div", { className: "painter", role: "group", "aria-label": words("title") },
            this.#bar(), this.#palette(),
            element("div", { className: "stage" }, this.canvas, this.message),
            this.#status(), this.files, ...Object.values(this.popups),
            element("p", { id: "keys", className: "unseen", textContent: words("canvasKeys") }));
        this.root.append(element("link", { rel: "stylesheet", href: STYLE }), this.body, this.dialog);
        const { editor } = this;
        editor.view = new View(this.canvas, () => ({
            map: editor.map, picture: editor.picture, opacity: editor.opacity, mirrorX: editor.mirrorX,
            pointer: editor.pointer, draw: drawTool(editor),
        }), this.showPlace);
    }

    #bar() {
        const { editor, words } = this;
        const buttons = (...ids) => ids.map((id) => commandButton(this, command(id)));
        const tools = ["brush", "eraser", "fill", "polygon", "move", "hand"].map((id) => toolRadio(this, command(id)));
        const radius = slider(this, words("brushSize"),
            () => Math.log(editor.radius / RADIUS.min) / Math.log(RADIUS.max / RADIUS.min),
            (share) => editor.setRadius(RADIUS.min * (RADIUS.max / RADIUS.min) ** share));
        const number = element("output", { className: "number" });
        this.onState(() => { number.textContent = `${2 * editor.radius} px`; });
        return element("div", { className: "bar", role: "toolbar", "aria-label": words("tools") },
            element("div", { className: "group", role: "radiogroup", "aria-label": words("tools") }, ...tools),
            element("div", { className: "group size" }, radius, number),
            element("div", { className: "group" }, commandToggle(this, command("mirror"), () => editor.mirror)),
            element("div", { className: "group" }, ...this.#history()),
            element("div", { className: "group" }, ...buttons("faces", "import", "export", "clear")),
            element("div", { className: "group end" }, ...buttons("help", "fullscreen")));
    }

    #history() {
        return [["undo", "canUndo"], ["redo", "canRedo"]].map(([id, can]) => {
            const button = commandButton(this, command(id));
            this.onState(() => button.setAttribute("aria-disabled", !this.editor.map[can]));
            return button;
        });
    }

    #palette() {
        const { editor, words } = this;
        const rows = CLASSES.map((name, value) => {
            const swatch = element("span", { className: "swatch" });
            swatch.style.background = `rgb(${PALETTE[value]})`;
            return radio(this, {
                group: "class", value, label: words(name), title: `${words(name)} (${classKey(value)})`,
                isOn: () => editor.value === value, choose: () => editor.setValue(value),
            }, swatch, element("span", { className: "name" }, words(name)), element("kbd", {}, classKey(value)));
        });
        return element("div", { className: "palette", role: "radiogroup", "aria-label": words("classes") }, ...rows);
    }

    #status() {
        const { editor, words } = this;
        const size = element("button", { type: "button", className: "text", title: `${words("size")} (S)` });
        size.dataset.command = "size";
        size.addEventListener("click", () => this.toggle("size"), { signal: this.signal });
        const under = element("output", { className: "under", "aria-live": "polite" });
        const zoom = element("output", { className: "number" });
        const opacity = slider(this, words("opacity"), () => editor.opacity, (share) => editor.setOpacity(share));
        this.onState(() => {
            const { width, height } = editor.map;
            size.textContent = `${width} \u00d7 ${height}`;
            this.canvas.setAttribute("aria-label", words("canvas", { width, height }));
            opacity.hidden = !editor.picture;
        });
        this.showPlace = () => {
            const value = editor.pointer ? editor.map.at(editor.pointer) : null;
            under.textContent = value === null ? "" : words(CLASSES[value]);
            zoom.textContent = `${Math.round(100 * editor.view.scale / window.devicePixelRatio)} %`;
        };
        return element("div", { className: "status" }, size, under, opacity,
            ...["zoomOut", "fit", "zoomIn"].map((id) => commandButton(this, command(id))), zoom);
    }

    #connect() {
        const { signal, editor, host } = this;
        const pointers = followPointers(this.canvas, editor, signal);
        const listen = (target, type, handler, options = {}) => {
            target.addEventListener(type, handler, { signal, ...options });
        };
        listen(editor, "state", () => this.#update());
        listen(editor, "edit", () => {
            this.say("");
            this.#update();
        });
        listen(this.files, "change", () => this.take(readFiles([...this.files.files])));
        listen(this.root, "keydown", (event) => {
            if (handleKey(event, this, event.target)) {
                event.stopPropagation();
                if (!event.target.matches("input[type=number]")) event.preventDefault();
            }
        });
        listen(host, "wheel", (event) => {
            event.stopPropagation();
            event.preventDefault();
            if (document.activeElement !== host) {
                this.forward(event);
            } else if (event.composedPath()[0] === this.canvas) {
                pointers.wheel(event);
            }
        }, { passive: false });
        listen(this.dialog, "close", () => {
            this.root.append(this.body);
            this.canvas.focus();
        });
    }

    #update() {
        for (const update of this.#watchers) update();
    }
}

function drawTool(editor) {
    return (overlay, pointer) => {
        editor.activeTool.draw?.(overlay, pointer);
        if (pointer && editor.keyboardCursor) overlay.cross(pointer);
    };
}

/** Puts a pop-up under its button, inside the window. */
function place(popup, button) {
    const below = button.getBoundingClientRect();
    const { width, height } = popup.getBoundingClientRect();
    const left = Math.max(4, Math.min(below.left, window.innerWidth - width - 4));
    const top = below.bottom + 4 + height < window.innerHeight ? below.bottom + 4 : Math.max(4, below.top - height - 4);
    Object.assign(popup.style, { left: `${left}px`, top: `${top}px` });
}

/** An editor on the screen: bars, canvas, status line and pop-ups, in a shadow tree of its own. */

import { commandButton, element } from "./elements.js";
import { takeFiles } from "./files.js";
import { Pointers } from "./pointer.js";
import { readStyle } from "./style.js";

const STYLE = await readStyle("panel.css", import.meta.url);
const FIELDS = "input[type=number], input[type=text]"; // these handle their keys and clipboard themselves

/**
 * A subclass makes the parts and calls `assemble`. handleKey(event, target) runs the command of a key while `target`
 * has the focus; it returns false for a key without a command. takeFiles(files) gets files, or a promise of them, that
 * are dropped or pasted.
 */
export class Panel {
    #watchers = [];
    #closing = new AbortController();
    popups = {};

    /**
     * host: an empty element; words: see `translator`. Of the page around it: forward(event) gets the wheel while the
     * focus is elsewhere, fetchApi(path, options) asks the server, pansByWheel() tells what the wheel does.
     */
    constructor(host, words, { forward, fetchApi, pansByWheel }, editor, commands) {
        Object.assign(this, { host, words, forward, fetchApi, pansByWheel, editor, commands });
        this.root = host.attachShadow({ mode: "open" });
        this.canvas = element("canvas", { tabIndex: 0, role: "application", "aria-describedby": "keys" });
        this.message = element("p", { className: "message", role: "alert" });
        this.dialog = element("dialog", { "aria-label": words("title"), tabIndex: -1 }); // keeps the focus of a click
    }

    get signal() {
        return this.#closing.signal;
    }

    /** Runs `update` whenever the editor's state changes, and once when the panel is complete. */
    onState(update) {
        this.#watchers.push(update);
    }

    close() {
        this.#closing.abort();
        this.editor.view.close();
    }

    /** Shows what went wrong over the canvas, until the next edit. */
    say(text) {
        this.message.textContent = text;
        this.message.classList.remove("note");
    }

    /** Shows a message that is no error. */
    tell(text) {
        this.say(text);
        this.message.classList.add("note");
    }

    toggle(name) {
        const popup = this.popups[name];
        popup.togglePopover();
        if (popup.matches(":popover-open")) {
            placePopup(popup, this.root.querySelector(`[data-command="${name}"]`));
            popup.querySelector("button, input")?.focus();
        }
    }

    toggleFullscreen() {
        if (this.dialog.open) {
            this.#leaveFullscreen();
        } else {
            this.dialog.append(this.body);
            this.dialog.showModal();
            this.canvas.focus();
        }
    }

    /** Closes an open pop-up, else the full screen; without either, gives the keys back to the graph. */
    leave() {
        const popup = Object.values(this.popups).find((found) => found.matches(":popover-open"));
        if (popup) {
            popup.hidePopover();
        } else if (this.dialog.open) {
            this.#leaveFullscreen();
        } else {
            this.canvas.blur();
        }
    }

    /** Does not wait for the dialog's own event: a pop-up may be open again by then. */
    #leaveFullscreen() {
        this.dialog.close();
        this.root.append(this.body);
        this.canvas.focus();
    }

    // Parts

    command(id) {
        return this.commands.find((found) => found.id === id);
    }

    buttons(...ids) {
        return ids.map((id) => commandButton(this, this.command(id)));
    }

    historyButtons() {
        return [["undo", "canUndo"], ["redo", "canRedo"]].map(([id, can]) => {
            const [button] = this.buttons(id);
            this.onState(() => button.setAttribute("aria-disabled", !this.editor.content[can]));
            return button;
        });
    }

    stage() {
        return element("div", { className: "stage" }, this.canvas, this.message);
    }

    sizeButton() {
        const { words } = this;
        const button = element("button", { type: "button", className: "text", title: `${words("size")} (S)` });
        button.dataset.command = "size";
        button.addEventListener("click", () => this.toggle("size"), { signal: this.signal });
        this.onState(() => {
            const { width, height } = this.editor.content;
            button.textContent = `${width} \u00d7 ${height}`;
        });
        return button;
    }

    zoomButtons() {
        const number = element("output", { className: "number" });
        this.showZoom = () => {
            number.textContent = `${Math.round(100 * this.editor.view.scale / window.devicePixelRatio)} %`;
        };
        return [...this.buttons("zoomOut", "fit", "zoomIn"), number];
    }

    /** Puts the parts together, with the style sheet of the kind, and starts to listen. */
    assemble(kind, style, View, parts) {
        const { words, editor } = this;
        this.body = element("div", { className: `panel ${kind}`, role: "group", "aria-label": words("title") },
            ...parts, ...Object.values(this.popups),
            element("p", { id: "keys", className: "unseen", textContent: words("canvasKeys") }));
        const styles = [STYLE, style].map((textContent) => element("style", { textContent }));
        this.root.append(...styles, this.body, this.dialog);
        editor.view = new View(this.canvas, editor, () => this.onDrawn());
        this.#connect();
        this.#update();
    }

    onDrawn() {
        this.showZoom();
    }

    /** A step is in the widget's text. */
    onSaved() {}

    #connect() {
        const { signal, editor, host, root } = this;
        const pointers = editor.pointers = new Pointers(this.canvas, editor, signal, this.pansByWheel);
        const listen = (target, type, handler, options = {}) => {
            target.addEventListener(type, handler, { signal, ...options });
        };
        for (const type of ["state", "typed"]) {
            listen(editor, type, () => this.#update());
        }
        listen(editor, "edit", () => {
            this.say("");
            this.#update();
        });
        listen(root, "keydown", (event) => this.#key(event));
        listen(window, "keyup", ({ code }) => code === "Space" && pointers.setPanning(false));
        listen(window, "blur", () => pointers.setPanning(false));
        for (const type of ["click", "input"]) {
            listen(this.body, type, (event) => pointers.busy && this.#ignore(event), { capture: true });
        }
        for (const type of ["copy", "cut", "paste"]) {
            listen(root, type, (event) => event.target.matches(FIELDS) && event.stopPropagation());
        }
        takeFiles(this);
        listen(host, "wheel", (event) => {
            event.stopPropagation();
            event.preventDefault();
            if (document.activeElement !== host) {
                this.forward(event);
            } else if (event.composedPath()[0] === this.canvas) {
                pointers.wheel(event);
            }
        }, { passive: false });
        listen(this.dialog, "cancel", (event) => {
            event.preventDefault();
            this.#leaveFullscreen();
        });
    }

    #key(event) {
        const { pointers } = this.editor;
        if (pointers.busy && event.key === "Escape") {
            pointers.cancel();
            this.#ignore(event);
        } else if (pointers.busy) {
            this.#ignore(event);
        } else if (event.target.matches(FIELDS)) {
            this.#fieldKey(event);
        } else if (this.handleKey(event, event.target)) {
            event.stopPropagation();
            event.preventDefault();
        }
    }

    /** While a pointer draws, other pointers and keys do nothing. */
    #ignore(event) {
        event.stopImmediatePropagation();
        event.preventDefault();
    }

    /** A field keeps its keys, except keys that leave the field, and Ctrl+Enter, which runs the graph. */
    #fieldKey(event) {
        const runs = event.key === "Enter" && (event.ctrlKey || event.metaKey);
        if (event.key !== "Escape" && event.key !== "Tab" && !runs) {
            event.stopPropagation();
        }
    }

    #update() {
        for (const update of this.#watchers) update();
    }
}

/** Puts a pop-up under its button, inside the window. */
function placePopup(popup, button) {
    const below = button.getBoundingClientRect();
    const { width, height } = popup.getBoundingClientRect();
    const left = Math.max(4, Math.min(below.left, window.innerWidth - width - 4));
    const top = below.bottom + 4 + height < window.innerHeight ? below.bottom + 4 : Math.max(4, below.top - height - 4);
    Object.assign(popup.style, { left: `${left}px`, top: `${top}px` });
}

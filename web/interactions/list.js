/** The interactions as rows of words: subject, action, object. */

import { element } from "../shared/elements.js";
import { COLORS, PHRASES } from "./model.js";

const NEIGHBOURS = { ArrowUp: -1, ArrowDown: 1 };

export class List {
    #rows = [];

    constructor(panel) {
        this.panel = panel;
        this.element = element("div", { className: "list", role: "radiogroup", "aria-label": panel.words("list") });
        panel.onState(() => this.#update());
    }

    /** Gives the focus to a phrase of a row. */
    focus(index, phrase = PHRASES[0]) {
        const field = this.#rows[index]?.fields[phrase];
        field?.focus();
        field?.select();
    }

    #update() {
        const { content, chosen } = this.panel.editor;
        while (this.#rows.length > content.interactions.length) {
            this.#rows.pop().element.remove();
        }
        while (this.#rows.length < content.interactions.length) {
            this.#rows.push(this.#row(this.#rows.length));
            this.element.append(this.#rows.at(-1).element);
        }
        this.#rows.forEach((row, index) => {
            row.radio.checked = index === chosen?.index;
            for (const phrase of PHRASES) {
                write(row.fields[phrase], content.interactions[index][phrase]);
            }
        });
    }

    #row(index) {
        const { editor, words, signal } = this.panel;
        const number = index + 1, name = words("interaction", { number });
        const choose = (box) => editor.choose({ index, box: box ?? editor.chosen.box });
        const radio = element("input", { type: "radio", name: "interaction", value: index, "aria-label": name });
        radio.addEventListener("change", () => choose(), { signal });
        const swatch = element("span", { className: "swatch" }, `${number}`);
        swatch.style.background = `rgb(${COLORS[index % COLORS.length]})`;
        const fields = Object.fromEntries(PHRASES.map((phrase) => [phrase, this.#field(index, phrase, choose)]));
        return { radio, fields, element: element("div", { className: "row", role: "group", "aria-label": name },
            element("label", { title: name }, radio, swatch), ...Object.values(fields)) };
    }

    #field(index, phrase, choose) {
        const { editor, words, signal } = this.panel;
        const field = element("input", { type: "text", placeholder: words(phrase), spellcheck: false,
            "aria-label": words("phrase", { phrase: words(phrase), number: index + 1 }) });
        field.dataset.phrase = phrase;
        const listen = (type, handler) => field.addEventListener(type, handler, { signal });
        listen("focus", () => choose({ subject: "subject_box", object: "object_box" }[phrase]));
        listen("input", () => editor.type(index, phrase, field.value));
        listen("change", () => editor.commit());
        listen("keydown", (event) => this.#key(event, index, phrase));
        return field;
    }

    /** Enter goes to the next phrase, and from the last phrase to the canvas; up and down go to the neighbours. */
    #key(event, index, phrase) {
        const { canvas } = this.panel;
        const after = PHRASES[PHRASES.indexOf(phrase) + 1];
        if (event.isComposing || event.ctrlKey || event.metaKey) {
            return;
        }
        if (event.key === "Escape" || (event.key === "Enter" && !after)) {
            canvas.focus();
        } else if (event.key === "Enter") {
            this.focus(index, after);
        } else if (event.key in NEIGHBOURS) {
            this.focus(index + NEIGHBOURS[event.key], phrase);
        } else {
            return;
        }
        event.preventDefault();
        event.stopPropagation();
    }
}

/** Leaves a field with the same text alone: its caret stays. */
function write(field, text) {
    if (field.value !== text) {
        field.value = text;
    }
}

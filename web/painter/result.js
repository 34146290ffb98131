/** The picture that the graph makes of the drawing, beside it: run, Live, progress. */

import { commandToggle, element } from "../shared/elements.js";

/** Follows the panel's `runs`. Live, a setting of the node, queues the graph after each step of the drawing. */
export class Result {
    constructor(panel) {
        const { words, signal, runs } = panel;
        this.panel = panel;
        this.image = element("img", { alt: words("picture"), draggable: false });
        this.hint = element("p", { className: "hint" }, words("noPicture"));
        this.bar = element("progress", { max: 1, value: 0, "aria-label": words("progress") });
        this.live = commandToggle(panel, panel.command("live"), () => this.isLive);
        this.live.append(words("liveName"));
        const [run] = panel.buttons("run");
        run.append(words("runName"));
        this.element = element("section", { className: "result", "aria-label": words("picture"), hidden: true },
            element("div", { className: "picture" }, this.image, this.hint, this.bar),
            element("div", { className: "group" }, run, this.live));
        runs.addEventListener("change", () => this.#update(), { signal });
        runs.addEventListener("failed", () => this.#fail(), { signal });
        runs.follow(signal);
        this.#update();
    }

    get isLive() {
        return Boolean(this.panel.settings.get("live"));
    }

    run() {
        this.panel.say("");
        this.panel.runs.run();
    }

    setLive(isLive) {
        this.panel.editor.keep("live", isLive);
        this.redraw();
    }

    /** The drawing has changed. */
    redraw() {
        if (this.isLive && this.panel.runs.isConnected) {
            this.panel.runs.repeat();
        }
    }

    #fail() {
        const { words, runs } = this.panel;
        const wasLive = this.isLive;
        if (wasLive) {
            this.setLive(false);
        }
        this.panel.say(words(wasLive ? "liveFailed" : "runFailed", { reason: runs.error }));
    }

    #update() {
        const { isConnected, shown, progress } = this.panel.runs;
        this.element.hidden = !isConnected;
        this.image.hidden = !shown;
        this.hint.hidden = Boolean(shown);
        if (shown && this.image.getAttribute("src") !== shown) {
            this.image.src = shown;
        }
        this.bar.hidden = !progress;
        this.bar.value = progress ? progress.value / progress.max : 0;
    }
}

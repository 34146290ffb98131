/**
 * State and operations of an editor on a canvas. Events: "edit" after a step of the history, "typed" for letters within
 * a step, "state" for every other change.
 */

/**
 * A subclass has `tools` by name, the name of the active tool in `tool`, and the edited object in `content`, which has
 * a width and a height in pixels and a history (commit, undo, redo).
 *
 * A tool gets the pointer's positions in pixels of the content: down, and optionally move, up and cancel. `held` is
 * true between down and up, `busy` while the tool can be cancelled, `dragged` for a tool that needs a pointer. Also
 * optional: drop() takes back what the tool has done since down, draw(overlay, pointer), finish() for Enter or a double
 * click, back() for one step back, nudge(edges) for arrow keys, and leave() when another tool is chosen.
 */
export class Editor extends EventTarget {
    image = null; // shown under the content
    pointer = null; // position of the pointer or the keyboard's cursor, in pixels of the content
    keyboardCursor = false;
    view = null;
    pointers = null; // follows the pointers on the canvas

    get activeTool() {
        return this.tools[this.tool];
    }

    /** CSS pixels between two points of the content. */
    screenDistance(a, b) {
        return Math.hypot(a.x - b.x, a.y - b.y) * this.view.scale / this.view.density;
    }

    set(settings) {
        Object.assign(this, settings);
        this.changed("state");
    }

    setTool(tool) {
        this.settle();
        this.cancel();
        this.activeTool.leave?.();
        this.set({ tool });
    }

    setImage(image) {
        this.set({ image });
    }

    /** Ends the tool's edit; sends "edit" if the content changed. */
    commit() {
        this.changed(this.content.commit() ? "edit" : "state");
    }

    /** Cancels what the tool has begun. */
    cancel() {
        this.pointers?.cancel();
        this.activeTool.cancel?.();
        this.changed("state");
    }

    /** Ends what a pointer draws: other edits follow it. */
    settle() {
        this.pointers?.finish();
    }

    undo() {
        this.settle();
        this.activeTool.cancel?.();
        this.changed(this.content.undo() ? "edit" : "state");
    }

    redo() {
        this.settle();
        this.activeTool.cancel?.();
        this.changed(this.content.redo() ? "edit" : "state");
    }

    pan(dx, dy) {
        this.view.pan(dx, dy);
    }

    changed(what) {
        this.view?.refresh();
        this.dispatchEvent(new Event(what));
    }
}

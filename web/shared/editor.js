/**
 * State of an editor on a canvas and what can be done with it. Events tell what changed: "edit" after a step, "typed"
 * for letters of a step that goes on, "state" for all else.
 */

/**
 * A subclass has `tools` by name, the name of the active one in `tool`, and in `content` what is edited: of a width
 * and height in pixels, with a history (commit, undo, redo).
 *
 * A tool takes the pointer's way in pixels of the content: down, move, up, cancel, all but the first optional. `held`
 * is true between down and up, `busy` while there is something to give up, `dragged` for a tool that needs a pointer.
 * It may `draw` over the content, `finish` with Enter or a double click, go `back` a step, and `nudge` with arrows.
 */
export class Editor extends EventTarget {
    image = null; // shown under the content
    pointer = null; // where the pointer or the keyboard's cursor is, in pixels of the content
    keyboardCursor = false;
    view = null;

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
        this.cancel();
        this.set({ tool });
    }

    setImage(image) {
        this.set({ image });
    }

    /** Ends the tool's edit and tells the world, if it changed something. */
    commit() {
        this.changed(this.content.commit() ? "edit" : "state");
    }

    /** Gives up what the tool has begun. */
    cancel() {
        this.activeTool.cancel?.();
        this.changed("state");
    }

    undo() {
        this.activeTool.cancel?.();
        this.changed(this.content.undo() ? "edit" : "state");
    }

    redo() {
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

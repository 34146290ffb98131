/** What unit tests of modules in the browser share. */

export function check(condition, what) {
    if (!condition) throw new Error(what);
}

export function same(a, b, what) {
    check(a.length === b.length && a.every((value, i) => value === b[i]), what);
}

export async function refused(promise, type = Error) {
    const error = await promise.then(() => null, (caught) => caught);
    check(error instanceof type, `refused, not ${error}`);
    return error;
}

/** Numbers 0 <= n < 1, the same in every run (mulberry32). */
export function random(seed) {
    return () => {
        seed = (seed + 0x6D2B79F5) | 0;
        let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
}

/** A key event. */
export const key = (fields) => ({ ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, code: "",
    getModifierState: (name) => fields.graph === true && name === "AltGraph", ...fields });

/** The same words, with the same values left open, in both languages. */
export function bothLanguages({ en, zh }) {
    check(Object.keys(en).sort().join() === Object.keys(zh).sort().join(), "keys");
    const holes = (text) => (text.match(/\{\w+\}/g) ?? []).sort().join();
    for (const [id, text] of Object.entries(en)) check(holes(text) === holes(zh[id]), id);
}

/** A panel of this kind has both of its style sheets when it is laid out first, not some time later. */
export function dressedAtOnce(Panel, words, services = {}) {
    const panel = new Panel(document.body.appendChild(document.createElement("div")), words, services);
    const { display, gridTemplateAreas } = getComputedStyle(panel.body);
    panel.close();
    panel.host.remove();
    check(display === "grid" && gridTemplateAreas !== "none", `laid out as ${display}, areas ${gridTemplateAreas}`);
}

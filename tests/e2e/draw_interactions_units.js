/** Unit tests of the editor of interactions; test_draw_interactions_units.py runs each exported function in the browser. */

import { bothLanguages, check, dressedAtOnce, random } from "/units.js";
import { COMMANDS } from "/interactions/commands.js";
import { LayoutEditor } from "/interactions/editor.js";
import { LIMIT, Layout, MAX_STEPS, between, fromText, toText } from "/interactions/model.js";
import { LayoutPanel } from "/interactions/panel.js";
import { WORDS, wordsFor } from "/interactions/words.js";

const ONE = { subject: "person", action: "feeding", object: "cat", subject_box: [0.1, 0.2, 0.4, 0.9],
    object_box: [0.3, 0.5, 0.7, 0.8] };

const named = (subject) => ({ ...ONE, subject });
const subjects = ({ content }) => content.interactions.map((one) => one.subject).join("");

/** An editor whose canvas shows 512 x 512 pixels as they are. */
function editorOf(...interactions) {
    const editor = new LayoutEditor();
    editor.view = { refresh() {}, fit() {}, scale: 1, density: 1, pixel: 1 };
    editor.reset(interactions);
    return editor;
}

function drag(editor, ...points) {
    const [first, ...others] = points.map(([x, y]) => ({ x, y }));
    editor.activeTool.down(first);
    others.forEach((point) => editor.activeTool.move(point));
    editor.activeTool.up();
}

function near(box, expected, what) {
    check(box.every((place, k) => Math.abs(place - expected[k]) < 1e-3), `${what}: ${box}, not ${expected}`);
}

export function every_step_is_undone_and_redone() {
    const next = random(1), editor = editorOf();
    const states = [editor.content.interactions];
    const steps = ["duplicate", "swap", "remove", "earlier", "later", "nudge", "type"];
    for (let step = 0; states.length < 102; step++) {
        const kind = steps[Math.floor(next() * steps.length)];
        if (step % 3 === 0 && !editor.content.isFull) {
            editor.add({ left: 0, top: 0, right: 50 + 300 * next(), bottom: 90 },
                { left: 400 * next(), top: 100, right: 500, bottom: 500 });
        } else if (kind === "nudge") {
            editor.tools.move.nudge({ left: 1, right: 3, top: -2, bottom: 4 });
        } else if (kind === "type" && editor.one) {
            editor.type(editor.chosen.index, "action", `a${step}`);
            editor.commit();
        } else if (kind === "earlier" || kind === "later") {
            editor.reorder(kind === "later" ? 1 : -1);
        } else {
            editor[kind]?.();
        }
        const now = editor.content.interactions;
        if (toText(now) !== toText(states.at(-1))) states.push(now);
    }
    for (let k = states.length - 2; k >= 0; k--) {
        editor.undo();
        check(toText(editor.content.interactions) === toText(states[k]), `undone to ${k}`);
    }
    check(!editor.content.canUndo && editor.chosen === null, "nothing before the first step");
    for (let k = 1; k < states.length; k++) {
        editor.redo();
        check(toText(editor.content.interactions) === toText(states[k]), `redone to ${k}`);
    }
    check(!editor.content.canRedo, "nothing after the last step");
}

export function history_has_an_end_and_a_new_step_cuts_it() {
    const layout = new Layout(8, 8, [ONE]);
    const step = (subject) => {
        layout.begin();
        layout.change(0, { subject });
        return layout.commit();
    };
    for (let k = 0; k < MAX_STEPS + 20; k++) check(step(`s${k}`), "changed");
    let undone = 0;
    while (layout.undo()) undone++;
    check(undone === MAX_STEPS && MAX_STEPS >= 100, `${undone} steps`);
    step("other");
    check(!layout.canRedo, "redo ends with a new step");
    check(!step("other"), "no change is no step");
    layout.begin();
    layout.change(0, { subject: "given up" });
    layout.cancel();
    check(layout.interactions[0].subject === "other", "cancelled");
}

export function text_comes_back() {
    const odd = { ...ONE, subject: "a \"tall\" [x] = y; \n\u4eba {z}", action: "" };
    for (const given of [[], [ONE], [ONE, odd]]) {
        check(JSON.stringify(fromText(toText(given))) === JSON.stringify(given), toText(given));
    }
    check(fromText(" \n").length === 0, "empty");
    check(!("more" in fromText(JSON.stringify([{ ...ONE, more: 1 }]))[0]), "what is unknown");
}

export function other_texts_are_refused() {
    for (const text of ["x", "{}", "person [0 0 1 1] = feeding = cat [0 0 1 1]", "[1]", "[null]", JSON.stringify(ONE),
        JSON.stringify([{ ...ONE, action: 1 }]), ...[[0, 0, 1], [0, 0, 1, "1"], [0.5, 0, 0.5, 1], [0.9, 0, 0.1, 1],
            [0, 0, 1.5, 1], [-0.1, 0, 1, 1], [0, 0, null, 1], "0011"].map(
            (box) => JSON.stringify([{ ...ONE, object_box: box }]))]) {
        let found = null;
        try {
            found = fromText(text);
        } catch {
            continue;
        }
        check(false, `${text} gave ${JSON.stringify(found)}`);
    }
}

export function the_action_lies_between() {
    const cases = [[[0, 0, 0.2, 1], [0.5, 0.2, 0.9, 0.4], [0.2, 0.2, 0.5, 0.4]],
        [[0, 0, 0.6, 0.6], [0.4, 0.5, 1, 1], [0.4, 0.5, 0.6, 0.6]], [[0, 0, 1, 1], [0.2, 0.3, 0.4, 0.5],
            [0.2, 0.3, 0.4, 0.5]]];
    for (const [a, b, expected] of cases) {
        near(between(a, b), expected, "one way");
        near(between(b, a), expected, "the other way");
    }
}

export function two_boxes_make_an_interaction() {
    const editor = editorOf();
    let asked = 0;
    editor.addEventListener("rename", () => asked++);
    check(editor.tool === "draw", "an empty layout wants boxes");
    drag(editor, [10, 10], [12, 300]);
    check(editor.pending === null, "a click is no box");
    drag(editor, [256, 256], [51.2, -40]);
    check(editor.pending && !editor.content.interactions.length, "half of it");
    drag(editor, [100, 100], [600, 400], [512, 512]);
    const [one] = editor.content.interactions;
    near(one.subject_box, [0.1, 0, 0.5, 0.5], "from any corner, cut to the image");
    near(one.object_box, [100 / 512, 100 / 512, 1, 1], "object");
    check(asked === 1 && editor.tool === "move" && !editor.pending, "then come the words");
    check(editor.content.canUndo, "a step");
    editor.undo();
    check(!editor.content.interactions.length, "both boxes are one step");
}

export function what_is_half_drawn_goes_first() {
    const editor = editorOf(ONE);
    editor.setTool("draw");
    drag(editor, [10, 10], [100, 100]);
    editor.undo();
    check(editor.pending === null && editor.content.interactions.length === 1, "the subject's box alone");
    drag(editor, [10, 10], [100, 100]);
    editor.activeTool.down({ x: 200, y: 200 });
    editor.cancel();
    check(!editor.activeTool.busy, "given up");
    drag(editor, [10, 10], [100, 100]);
    editor.activeTool.back();
    check(editor.pending === null, "taken back");
    drag(editor, [10, 10], [100, 100]);
    editor.setTool("move");
    check(editor.pending === null, "left with the tool");
}

export function boxes_move_and_stay_inside() {
    const editor = editorOf(ONE);
    drag(editor, [60, 110], [111.2, 161.2]);
    near(editor.one.subject_box, [0.2, 0.3, 0.5, 1], "moved, as far as there is room");
    drag(editor, [150, 200], [-900, -900]);
    near(editor.one.subject_box, [0, 0, 0.3, 0.7], "pushed into the corner");
    drag(editor, [153.6, 358.4], [256, 256]);
    near(editor.one.subject_box, [0, 0, 0.5, 0.5], "pulled by its corner");
    drag(editor, [0, 128], [500, 128]);
    near(editor.one.subject_box, [0.49, 0, 0.5, 0.5], "kept from turning inside out");
    editor.tools.move.nudge({ left: -51.2, right: 51.2, top: 0, bottom: 0 });
    near(editor.one.subject_box, [0.39, 0, 0.6, 0.5], "widened");
    editor.tools.move.nudge({ left: 0, right: 0, top: -20, bottom: -20 });
    near(editor.one.subject_box, [0.39, 0, 0.6, 0.5], "no way up");
}

export function the_chosen_box_goes_first_then_the_smallest() {
    const large = { ...ONE, subject_box: [0, 0, 1, 1] };
    const editor = editorOf(large, ONE);
    editor.activeTool.down({ x: 180, y: 300 });
    check(editor.chosen.index === 0 && editor.chosen.box === "subject_box", "the chosen one");
    editor.activeTool.up();
    editor.choose({ index: 0, box: "object_box" });
    drag(editor, [60, 110], [60, 110]);
    check(editor.chosen.index === 1 && editor.chosen.box === "subject_box", "the smallest at that place");
    check(!editor.content.canUndo, "choosing is no step");
    editor.pointer = { x: 180, y: 300 };
    const seen = new Set();
    for (let k = 0; k < 4; k++) {
        editor.pick();
        seen.add(`${editor.chosen.index} ${editor.chosen.box}`);
    }
    check(seen.size === 4, "each in turn");
    editor.choose({ index: 0, box: "subject_box" });
    const order = Array.from({ length: 4 }, () => (editor.step(1), `${editor.chosen.index} ${editor.chosen.box}`));
    check(order.join() === "0 object_box,1 subject_box,1 object_box,0 subject_box", order.join());
}

export function the_list_is_put_in_order() {
    const editor = editorOf(named("a"), named("b"), named("c"));
    editor.reorder(-1);
    check(subjects(editor) === "abc", "the first stays");
    editor.reorder(1);
    check(subjects(editor) === "bac" && editor.chosen.index === 1, "down, still chosen");
    editor.reorder(1);
    editor.reorder(1);
    check(subjects(editor) === "bca" && editor.chosen.index === 2, "down to the end");
    editor.swap();
    check(editor.one.object === "a" && editor.one.object_box.join() === ONE.subject_box.join(), "roles change");
    editor.remove();
    check(subjects(editor) === "bc" && editor.chosen.index === 1, "the one after it is chosen");
    editor.clear();
    check(subjects(editor) === "" && editor.tool === "draw" && editor.chosen === null, "all gone");
    for (const empty of ["swap", "duplicate", "remove", "clear", "pick", "rename"]) editor[empty]();
    editor.reorder(1);
    editor.step(1);
    editor.tools.move.nudge({ left: 1, right: 1, top: 0, bottom: 0 });
}

export function a_copy_lies_beside_its_original() {
    const editor = editorOf({ ...ONE, object_box: [0.6, 0.5, 1, 0.8] }, named("last"));
    editor.duplicate();
    check(subjects(editor) === "personpersonlast" && editor.chosen.index === 1, "after it");
    near(editor.one.subject_box, [0.07, 0.23, 0.37, 0.93], "there is room to the left alone");
    near(editor.one.object_box, [0.57, 0.53, 0.97, 0.83], "the pair keeps together");
}

export function no_more_than_can_be_read() {
    const editor = editorOf(...Array.from({ length: LIMIT - 1 }, () => ONE));
    let told = 0;
    editor.addEventListener("full", () => told++);
    editor.duplicate();
    check(editor.content.interactions.length === LIMIT && !told, "the last one fits");
    editor.duplicate();
    editor.setTool("draw");
    editor.add({ left: 0, top: 0, right: 9, bottom: 9 }, { left: 0, top: 0, right: 9, bottom: 9 });
    check(editor.content.interactions.length === LIMIT && told === 3 && editor.tool === "move", "no other");
    editor.undo();
    editor.setTool("draw");
    check(editor.tool === "draw" && told === 3, "there is room again");
}

export function letters_make_one_step() {
    const editor = editorOf(ONE), events = [];
    for (const type of ["edit", "typed"]) editor.addEventListener(type, () => events.push(type));
    for (const text of ["p", "pa", "pan"]) editor.type(0, "action", text);
    editor.commit();
    check(events.join() === "typed,typed,typed,edit" && editor.one.action === "pan", events.join());
    editor.undo();
    check(editor.one.action === "feeding", "all letters");
    editor.type(0, "object", "dog");
    editor.undo();
    check(editor.one.object === "cat" && editor.content.canRedo, "letters that go on");
}

export function a_size_leaves_the_shares() {
    const editor = editorOf(ONE);
    editor.resize(1024, 768);
    check(toText(editor.content.interactions) === toText([ONE]) && editor.content.width === 1024, "same boxes");
    near(Object.values(editor.chosenBox), [102.4, 153.6, 409.6, 691.2], "in pixels");
    near(editor.content.inFractions(editor.chosenBox), ONE.subject_box, "and back");
}

export function keys_have_one_meaning() {
    const all = COMMANDS.flatMap(({ keys }) => keys);
    check(new Set(all).size === all.length, "no key twice");
}

export function both_languages_have_all_words() {
    bothLanguages(WORDS);
    for (const { id } of COMMANDS) check(WORDS.en[id], id);
    check(wordsFor("zh-TW")("swap") === WORDS.zh.swap && wordsFor("fr")("undo") === "Undo", "fallback");
}

export function a_panel_is_dressed_at_once() {
    dressedAtOnce(LayoutPanel, wordsFor("en"));
}

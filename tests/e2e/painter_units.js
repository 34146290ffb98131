/** Unit tests of the painter's modules; test_painter_units.py runs each exported function in the browser. */

import { bothLanguages, check, dressedAtOnce, key, random, refused, same } from "/units.js";
import { combination, combinations } from "/shared/keys.js";
import { COMMANDS, digitClass } from "/painter/commands.js";
import { CLASSES, MIRRORED, PALETTE } from "/painter/classes.js";
import { decode, encode } from "/painter/codec.js";
import { GROUPS, fitFace, fitPart, loadGallery } from "/painter/gallery.js";
import { liftClasses } from "/painter/gaps.js";
import { LabelMap, MAX_STEPS } from "/painter/model.js";
import { PainterPanel } from "/painter/panel.js";
import { ImageError, partClass, readFiles, toPng } from "/painter/images.js";
import * as raster from "/painter/raster.js";
import { WORDS, wordsFor } from "/painter/words.js";

function randomMap(seed, width = 37, height = 23, classes = 19) {
    const next = random(seed);
    return new LabelMap(width, height, Uint8Array.from({ length: width * height }, () => next() * classes));
}

function forEachPixel({ width, height }, visit) {
    for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) visit(x, y, y * width + x);
    }
}

export function every_step_is_undone_and_redone() {
    const next = random(1);
    const map = new LabelMap(40, 30);
    const states = [map.labels.slice()];
    for (let step = 0; step < 150; step++) {
        if (step % 50 === 49) {
            const [width, height] = [20 + step % 7, 15 + step % 5];
            map.replace(width, height, raster.resample(map, width, height));
        } else {
            map.begin();
            const point = () => ({ x: next() * map.width, y: next() * map.height });
            raster.paintSegment(map, point(), point(), 1 + next() * 8, step % 19);
            if (!map.commit()) continue;
        }
        states.push(map.labels.slice());
    }
    check(states.length > 101, "at least 100 steps");
    for (let k = states.length - 2; k >= 0; k--) {
        check(map.undo(), `step ${k} can be undone`);
        same(map.labels, states[k], `undone to ${k}`);
    }
    check(!map.undo() && !map.canUndo, "nothing before the first step");
    check(map.width === 40 && map.height === 30, "first size");
    for (let k = 1; k < states.length; k++) {
        check(map.redo(), `step ${k} can be redone`);
        same(map.labels, states[k], `redone to ${k}`);
    }
    check(!map.redo(), "nothing after the last step");
}

export function history_has_an_end_and_a_new_step_cuts_it() {
    const map = new LabelMap(4, 4);
    for (let step = 0; step < MAX_STEPS + 20; step++) {
        map.begin();
        map.labels[step % 16] ^= 1;
        check(map.commit(), "changed");
    }
    let undone = 0;
    while (map.undo()) undone++;
    check(undone === MAX_STEPS && MAX_STEPS >= 100, `${undone} steps`);
    map.begin();
    map.labels[0] = 7;
    map.commit();
    check(!map.canRedo, "redo ends with a new step");
}

export function an_edit_without_a_change_is_no_step() {
    const map = randomMap(2);
    const before = map.labels.slice();
    map.begin();
    check(!map.commit() && !map.canUndo, "no step");
    map.begin();
    map.labels.fill(3);
    map.cancel();
    same(map.labels, before, "cancelled");
}

export function a_brush_paints_what_lies_within_its_radius() {
    const next = random(3);
    for (let round = 0; round < 40; round++) {
        const map = new LabelMap(32, 24);
        const [x0, y0, x1, y1] = [next() * 40 - 4, next() * 30 - 4, next() * 40 - 4, next() * 30 - 4];
        const radius = 1 + next() * 7;
        raster.paintSegment(map, { x: x0, y: y0 }, { x: x1, y: y1 }, radius, 5);
        forEachPixel(map, (x, y, i) => {
            let nearest = Infinity;
            for (let t = 0; t <= 1; t += 0.0005) {
                nearest = Math.min(nearest, Math.hypot(x + 0.5 - x0 - t * (x1 - x0), y + 0.5 - y0 - t * (y1 - y0)));
            }
            if (Math.abs(nearest - radius) > 0.02) {
                check((map.labels[i] === 5) === nearest < radius, `pixel ${x}, ${y} at ${nearest} of ${radius}`);
            }
        });
    }
}

export function the_thinnest_brush_paints_one_pixel() {
    const map = new LabelMap(9, 9);
    raster.paintSegment(map, { x: 4.5, y: 4.5 }, { x: 4.5, y: 4.5 }, 0.5, 1);
    check(map.labels.filter(Boolean).length === 1 && map.labels[40] === 1, "one pixel");
}

export function fill_reaches_its_region_and_no_other() {
    for (let seed = 0; seed < 30; seed++) {
        const map = randomMap(seed, 37, 23, 2);
        const expected = map.labels.slice();
        const start = { x: seed % 37, y: seed % 23 };
        const old = map.at(start);
        const open = [[start.x, start.y]];
        while (open.length) {
            const [x, y] = open.pop();
            if (x < 0 || y < 0 || x >= 37 || y >= 23 || expected[y * 37 + x] !== old) continue;
            expected[y * 37 + x] = 9;
            open.push([x + 1, y], [x - 1, y], [x, y + 1], [x, y - 1]);
        }
        raster.fillRegion(map, { x: start.x + 0.3, y: start.y + 0.9 }, 9);
        same(map.labels, expected, `seed ${seed}`);
    }
    const map = randomMap(1);
    const before = map.labels.slice();
    raster.fillRegion(map, { x: -1, y: 2 }, 9);
    raster.fillRegion(map, { x: 3, y: 23 }, 9);
    same(map.labels, before, "outside");
}

export function a_polygon_paints_its_inside() {
    const next = random(5);
    for (let round = 0; round < 40; round++) {
        const map = new LabelMap(30, 20);
        const points = Array.from({ length: 3 + round % 5 }, () => ({ x: next() * 40 - 5, y: next() * 30 - 5 }));
        raster.paintPolygon(map, points, 4);
        const path = new Path2D();
        points.forEach(({ x, y }) => path.lineTo(x, y));
        path.closePath();
        const context = new OffscreenCanvas(1, 1).getContext("2d");
        forEachPixel(map, (x, y, i) => {
            const inside = [0.49, 0.51].map((d) => context.isPointInPath(path, x + d, y + 0.5, "evenodd"));
            if (inside[0] === inside[1]) check((map.labels[i] === 4) === inside[0], `pixel ${x}, ${y}`);
        });
    }
}

/** The connected pixels of some classes around one pixel, and the pixels that touch them. */
function gapAround(map, labels, start, values) {
    const gap = new Set([start]), border = new Set();
    for (const i of gap) {
        forEachPixel(map, (x, y, k) => {
            if (Math.abs(x - i % map.width) > 1 || Math.abs(y - Math.floor(i / map.width)) > 1) return;
            (values.includes(labels[k]) ? gap : border).add(k);
        });
    }
    return border;
}

export function a_lifted_part_leaves_the_nearest_surface_that_touches_it() {
    const surfaces = ["background", "skin", "neck", "cloth", "hair"].map((name) => CLASSES.indexOf(name));
    for (let seed = 0; seed < 20; seed++) {
        const map = new LabelMap(30, 20, raster.resample(randomMap(seed, 7, 5, 5), 30, 20));
        const before = map.labels.slice(), values = seed % 2 ? [2] : [2, 4];
        const parts = liftClasses(map, values);
        forEachPixel(map, (x, y, i) => {
            if (!values.includes(before[i])) {
                return check(map.labels[i] === before[i], `kept ${x}, ${y}, seed ${seed}`);
            }
            const border = [...gapAround(map, before, i, values)];
            const found = border.filter((k) => surfaces.includes(before[k]));
            const sources = found.length ? found : border;
            const distance = (k) => Math.hypot(k % 30 - x, Math.floor(k / 30) - y);
            const least = Math.min(...sources.map(distance));
            const nearest = sources.filter((k) => distance(k) < least + 0.5).map((k) => before[k]);
            check(nearest.includes(map.labels[i]), `pixel ${x}, ${y}, seed ${seed}`);
        });
        parts.forEach((part) => raster.placeClass(map, part, part.box));
        same(map.labels, before, "laid back");
    }
    const only = new LabelMap(4, 4, new Uint8Array(16).fill(3));
    liftClasses(only, [3]);
    check(only.labels.every((value) => value === 0), "nothing else: background");
    check(liftClasses(only, [3]).length === 0, "absent class");
}

export function a_nose_under_glasses_leaves_skin() {
    const [skin, nose, glasses] = ["skin", "nose", "eye_g"].map((name) => CLASSES.indexOf(name));
    const map = new LabelMap(20, 20, new Uint8Array(400).fill(skin));
    raster.paintSegment(map, { x: 10, y: 5 }, { x: 10, y: 15 }, 3, nose);
    raster.paintSegment(map, { x: 0, y: 4 }, { x: 20, y: 4 }, 2, glasses);
    const before = map.labels.slice();
    liftClasses(map, [nose]);
    forEachPixel(map, (x, y, i) => check(map.labels[i] === (before[i] === nose ? skin : before[i]), `${x}, ${y}`));
}

export function strokes_cover_only_what_they_may() {
    const over = CLASSES.map((_, value) => value % 2 === 0);
    const draw = {
        stroke: (map) => raster.paintSegment(map, { x: 2, y: 2 }, { x: 30, y: 20 }, 6, 18, over),
        polygon: (map) => raster.paintPolygon(map, [{ x: 1, y: 1 }, { x: 36, y: 3 }, { x: 9, y: 22 }], 18, over),
        fill: (map) => forEachPixel(map, (x, y) => raster.fillRegion(map, { x, y }, 18, over)),
    };
    for (const [name, act] of Object.entries(draw)) {
        const map = randomMap(3), before = map.labels.slice();
        act(map);
        check(before.some((value, i) => value !== map.labels[i]), `${name} paints`);
        check(before.every((value, i) => over[value] || map.labels[i] === value), `${name} keeps the others`);
    }
}

export function a_placed_class_moves_and_scales() {
    const map = new LabelMap(20, 20);
    map.labels.fill(6, 42, 44);
    const [part] = liftClasses(map, [6]);
    raster.placeClass(map, part, { left: 10, top: 5, right: 14, bottom: 8 });
    const box = raster.boxOf(map, 6);
    check(JSON.stringify(box) === '{"left":10,"top":5,"right":14,"bottom":8}', JSON.stringify(box));
    check(map.labels.filter((value) => value === 6).length === 12, "all pixels");
    raster.placeClass(map, part, { left: -3, top: 18, right: 25, bottom: 40 });
}

export async function text_comes_back() {
    for (const [width, height] of [[1, 1], [37, 23], [512, 512]]) {
        const map = randomMap(width, width, height);
        const back = await decode(await encode(map));
        check(back.width === width && back.height === height, "size");
        same(back.labels, map.labels, "labels");
    }
}

export async function hostile_texts_are_refused() {
    const good = await encode(randomMap(4, 8, 8));
    const bomb = await encode(new LabelMap(4096, 4096));
    for (const text of ["", "x", good.slice(0, -8), good.replace("8x8", "8x9"), good.replace("8x8", "8x7"),
        good.replace("8x8", "0x8"), good.replace("8x8", "99999x8"), good.replace("labelmap1", "labelmap2"),
        bomb.replace("4096x4096", "4x4"), await encode(new LabelMap(2, 1, Uint8Array.of(0, 19)))]) {
        await refused(decode(text));
    }
}

function imageOf(map, colorOf) {
    const image = new ImageData(map.width, map.height);
    map.labels.forEach((value, i) => image.data.set([...colorOf(value), 255], 4 * i));
    return image;
}

async function file(name, map, colorOf) {
    const canvas = new OffscreenCanvas(map.width, map.height);
    canvas.getContext("2d").putImageData(imageOf(map, colorOf), 0, 0);
    return new File([await canvas.convertToBlob()], name, { type: "image/png" });
}

const read = (files, value = 0) => readFiles(files, value, window.services.fetchApi);
const inWhite = (...shown) => (value) => shown.includes(value) ? [255, 255, 255] : [0, 0, 0];

export async function part_files_become_one_map() {
    const map = randomMap(8);
    const parts = await Promise.all([1, 4, 5, 13].map((k) => file(`00012_${CLASSES[k]}.png`, map, inWhite(k, 1))));
    parts[0] = await file("00012_skin.png", map, () => [255, 255, 255]);
    const { width, labels, notes } = await read(parts.toReversed());
    check(width === map.width && notes.length === 0, "size, nothing to say");
    same(labels, map.labels.map((value) => value === 1 ? 13 : [4, 5, 13].includes(value) ? value : 1), "later on top");
    const strange = async (word, ...more) => check(
        (await refused(read([...parts, ...more]), ImageError)).word === word, word);
    await strange("noPart", await file("other.png", map, inWhite()));
    await strange("oddPart", await file("1_hat.png", new LabelMap(3, 3), inWhite()));
    await strange("wholePart", await file("1_hat.png", map, (k) => PALETTE[k]));
}

export async function a_stencil_becomes_the_class_of_its_name_or_the_chosen_one() {
    const map = randomMap(10);
    const isHair = map.labels.map((value) => value === 13);
    for (const [name, value, expected] of [["mask.png", 14, 14], ["00012_hair.png", 14, 13], ["1_neck.png", 0, 17]]) {
        const { labels, notes } = await read([await file(name, map, inWhite(13))], value);
        same(labels, isHair.map((inside) => inside * expected), name);
        check(notes.length === 1 && notes[0].word === "stencil" && notes[0].values.part === CLASSES[expected], name);
    }
    check((await refused(read([await file("mask.png", map, inWhite(13))]), ImageError)).word === "noClass", "background");
}

export async function what_is_no_label_map_is_refused() {
    const photo = await refused(read([await file("photo.png", randomMap(7), (k) => [120, 200 - k, 90])]), ImageError);
    const told = wordsFor("en")(photo.word, photo.values);
    check(told.startsWith("photo.png was not imported: the image fits no known palette"), told);
    for (const [given, word] of [
        [new File(["text"], "a.png"), "refused"], [new File([new Uint8Array(64 * 2 ** 20 + 1)], "a.png"), "tooLarge"],
        [{ name: "folder", size: 0, arrayBuffer: () => Promise.reject(new Error()) }, "noFile"]]) {
        check((await refused(read([given]), ImageError)).word === word, word);
    }
    for (const answer of [() => Promise.reject(new TypeError()), async () => new Response("<html>", { status: 500 })]) {
        const found = await refused(readFiles([new File(["x"], "a.png")], 1, answer), ImageError);
        check(found.word === "noAnswer", String(found.word));
    }
}

export async function an_exported_image_is_imported() {
    const map = randomMap(9);
    for (const name of ["label-map.png", "my_hair.png"]) {
        const back = await read([new File([await toPng(map)], name)]);
        same(back.labels, map.labels, name);
        check(back.notes.length === 0, "nothing to say");
    }
}

export function part_names() {
    const expected = { "00012_l_eye.png": 4, "hair.png": 13, "1_ear_r.png": 15, "1_r_ear.PNG": 9, "1_neck_l.png": 16,
        "1_neck.jpg": 17, "chair.png": -1, "label-map.png": -1, "1_hair": -1 };
    for (const [name, value] of Object.entries(expected)) check(partClass(name) === value, name);
}

export function keys_have_one_meaning() {
    const all = COMMANDS.flatMap(({ keys }) => keys);
    check(new Set(all).size === all.length, "no key twice");
    const read = [[{ key: "z", ctrlKey: true }, "Ctrl+Z"], [{ key: "Z", metaKey: true, shiftKey: true }, "Ctrl+Shift+Z"],
        [{ key: "?", shiftKey: true }, "?"], [{ key: "Delete", shiftKey: true }, "Shift+Delete"],
        [{ key: "[", ctrlKey: true, altKey: true, graph: true }, "["], [{ key: "O", shiftKey: true }, "Shift+O"]];
    for (const [fields, text] of read) check(combination(key(fields)) === text, text);
    check(digitClass(key({ code: "Digit7" })) === 7 && digitClass(key({ code: "Numpad0" })) === 0, "digits");
    check(digitClass(key({ code: "Digit8", shiftKey: true })) === 18, "Shift");
    check(digitClass(key({ code: "Digit9", shiftKey: true })) === null, "no class 19");
    check(digitClass(key({ code: "Digit1", ctrlKey: true })) === null, "a browser's own key");
}

export function keys_count_by_position_where_letters_are_not_latin() {
    const read = [
        [{ key: "\u044f", code: "KeyZ", ctrlKey: true }, "Ctrl+Z"], // Cyrillic
        [{ key: "\u042f", code: "KeyZ", ctrlKey: true, shiftKey: true }, "Ctrl+Shift+Z"],
        [{ key: "\u0443", code: "KeyE" }, "E"], [{ key: "\u0429", code: "KeyO", shiftKey: true }, "Shift+O"],
        [{ key: "\u0445", code: "BracketLeft" }, "["], [{ key: "\u044a", code: "BracketRight" }, "]"],
        [{ key: "\u0431", code: "Comma" }, ","], [{ key: "\u044e", code: "Period" }, "."],
        [{ key: ".", code: "Slash" }, "."], [{ key: "\u03b6", code: "KeyZ", metaKey: true }, "Ctrl+Z"], // Greek
        [{ key: "\u0644\u0627", code: "KeyB" }, "B"], [{ key: "\u061f", code: "Slash", shiftKey: true }, "?"], // Arabic
        [{ key: "\u093f", code: "KeyF" }, "F"], [{ key: "\u3141", code: "KeyA" }, "A"], // Devanagari, Hangul
        [{ key: "\u0e1a", code: "BracketLeft" }, "["], // Thai
        [{ key: "\uff5a", code: "KeyZ", ctrlKey: true }, "Ctrl+Z"], [{ key: "\uff1f", code: "Slash" }, "?"], // wide
        [{ key: "Process", code: "KeyP" }, "P"], [{ key: "\u3010", code: "BracketLeft" }, "["], // input methods
    ];
    for (const [fields, text] of read) check(combination(key(fields)) === text, `${text}, not ${combination(key(fields))}`);
    check(combinations(key({ key: "'", code: "KeyW" })).join(" ") === "' W", "Hebrew");
}

export function latin_letters_count_as_they_are() {
    const read = [[{ key: "z", code: "KeyY", ctrlKey: true }, "Ctrl+Z"], [{ key: "y", code: "KeyZ", ctrlKey: true }, "Ctrl+Y"],
        [{ key: "q", code: "KeyA" }, "Q"], [{ key: "\u00fc", code: "BracketLeft" }, "\u00dc"],
        [{ key: "\u0131", code: "KeyI" }, "I"], [{ key: ",", code: "KeyW" }, ","], [{ key: "Dead", code: "BracketLeft" }, "Dead"]];
    for (const [fields, text] of read) check(combination(key(fields)) === text, `${text}, not ${combination(key(fields))}`);
    check(combinations(key({ key: "\u00ea", code: "KeyE" })).includes("E"), "a letter after a dead key");
    check(combinations(key({ key: "Dead", code: "KeyN", altKey: true })).join() === "Alt+Dead", "a dead key with Alt");
}

export function characters_with_alt_are_typed() {
    for (const [fields, text] of [
        [{ key: "[", code: "Digit5", altKey: true }, "["], [{ key: "]", code: "Digit6", altKey: true }, "]"],
        [{ key: "[", code: "Digit8", graph: true }, "["], [{ key: "[", code: "Digit5", altKey: true, shiftKey: true }, "["],
        [{ key: "]", code: "Digit9", ctrlKey: true, altKey: true }, "]"],
        [{ key: "\u222b", code: "KeyB", altKey: true }, "\u222b"], [{ key: "\u0142", code: "KeyL", graph: true }, "\u0141"],
        [{ key: "b", code: "KeyB", altKey: true }, "Alt+B"], [{ key: "ArrowUp", altKey: true }, "Alt+ArrowUp"],
        [{ key: "z", code: "KeyZ", ctrlKey: true, altKey: true }, "Ctrl+Alt+Z"]]) {
        check(combination(key(fields)) === text, `${text}, not ${combination(key(fields))}`);
        check(combinations(key(fields)).length === 1 && digitClass(key(fields)) === null, `${text} alone`);
    }
    check(digitClass(key({ key: "Home", code: "Numpad7" })) === null, "the keypad without its digits");
    const shifted = (sign) => key({ key: sign, code: "Digit7", shiftKey: true });
    check(digitClass(shifted("?")) === null && combination(shifted("?")) === "?", "Russian: the help");
    for (const sign of ["&", "/", "7", "\u061b", "Dead"]) check(digitClass(shifted(sign)) === 17, `${sign}: a digit's key`);
    check(digitClass(key({ key: "\u00e9", code: "Digit2" })) === 2, "a row that types digits with Shift");
}

export function the_mirror_swaps_sides() {
    const name = (k) => CLASSES[MIRRORED[k]];
    check(name(4) === "r_eye" && name(9) === "l_ear" && name(6) === "r_brow" && name(13) === "hair", "pairs");
    check(name(12) === "l_lip", "the lower lip has no side");
}

export function both_languages_have_all_words() {
    bothLanguages(WORDS);
    for (const id of [...CLASSES, ...COMMANDS.map((command) => command.id)]) check(WORDS.en[id], id);
    check(wordsFor("zh-TW")("hair") === WORDS.zh.hair && wordsFor("fr")("hair") === "hair", "fallback");
    check(wordsFor(undefined)("hair") === "hair", "no locale");
}

export function a_panel_is_dressed_at_once() {
    const runs = Object.assign(new EventTarget(), { follow: () => {} });
    dressedAtOnce(PainterPanel, wordsFor("en"), { runs, settings: new Map() });
}

export async function every_part_of_the_gallery_has_its_classes_and_its_name_in_both_languages() {
    const { parts, head, size } = await loadGallery();
    check(Object.keys(parts).join() === Object.keys(GROUPS).join(), "groups");
    check(Object.values(parts).flatMap(Object.keys).length >= 60, "at least 60 parts");
    for (const [group, found] of Object.entries(parts)) {
        for (const [name, part] of Object.entries(found)) {
            const strange = part.labels.filter((value) => value && !GROUPS[group].classes.includes(value));
            check(strange.length === 0 && part.labels.some(Boolean), `classes of ${group} ${name}`);
            check(part.left + part.width <= size && part.top + part.height <= size, `place of ${group} ${name}`);
            for (const words of Object.values(WORDS)) check(words[`${group}_${name}`], `name of ${group} ${name}`);
        }
    }
    check(head.width === size && head.height === size, "head");
}

export async function parts_follow_the_eyes_else_the_skin_else_the_drawing() {
    const gallery = await loadGallery(), { size, head } = gallery;
    const map = new LabelMap(300, 200);
    const near = (a, b, what) => check(Math.hypot(a.x - b.x, a.y - b.y) < 1, `${what}: ${a.x}, ${a.y}`);
    near(fitFace(map, gallery).place({ x: size / 2, y: size / 2 }), { x: 150, y: 100 }, "whole");
    raster.paintSegment(map, { x: 200, y: 80 }, { x: 200, y: 120 }, 30, 1);
    const skin = raster.boxOf(head, 1), fit = fitFace(map, gallery);
    near(fit.place({ x: skin.right, y: (skin.top + skin.bottom) / 2 }), { x: 230, y: 100 }, "skin");
    raster.paintSegment(map, { x: 100, y: 50 }, { x: 100, y: 50 }, 5, 5);
    raster.paintSegment(map, { x: 130, y: 90 }, { x: 130, y: 90 }, 5, 4);
    const tilted = fitFace(map, gallery);
    const [right, left] = [5, 4].map((value) => raster.boxOf(head, value))
        .map((box) => ({ x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 }));
    near(tilted.place(right), { x: 100, y: 50 }, "right eye");
    near(tilted.place(left), { x: 130, y: 90 }, "left eye");
    near(tilted.find(tilted.place({ x: 7, y: 9 })), { x: 7, y: 9 }, "there and back");
}

export async function a_part_lies_behind_what_is_worn_and_leaves_locked_classes() {
    const gallery = await loadGallery();
    const map = new LabelMap(gallery.size, gallery.size, gallery.head.labels.slice());
    const nose = raster.boxOf(map, 2), glasses = 3;
    map.labels.fill(glasses, nose.top * map.width, (nose.top + 4) * map.width);
    const open = CLASSES.map(() => true);
    const { parts: [part], bare } = fitPart(map, gallery, "noses", "large", open);
    check(part.value === 2 && !bare.includes(2), "the old nose is lifted");
    check(part.open[nose.top * map.width + nose.left] === 0, "glasses stay before it");
    check(part.box.right - part.box.left > nose.right - nose.left, "larger");
    same(fitPart(map, gallery, "noses", "large", open.map((_, value) => value !== 2)).parts, [], "locked");
    const worn = fitPart(map, gallery, "heads", "round", open.map((_, value) => value !== 1)).parts;
    same(worn.map(({ value }) => value), [8, 9], "ears alone, where skin is locked");
}

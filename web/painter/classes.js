/** The classes of a face label map in CelebAMask-HQ order, their colors, and their sides. */

import { CLASSES, PALETTE } from "./tables.js";

export { CLASSES, PALETTE };

/** Colors of faces for the screen, 8-bit RGB; parts that touch differ in lightness, left and right ones in tone. */
export const NATURAL = [
    [206, 214, 220], [232, 184, 152], [214, 150, 116], [46, 46, 56], [84, 132, 190], [60, 150, 150],
    [104, 70, 44], [130, 78, 66], [200, 128, 100], [208, 120, 120], [96, 22, 34], [176, 62, 74],
    [206, 98, 106], [74, 46, 30], [70, 112, 88], [232, 196, 80], [176, 140, 40], [216, 160, 128], [74, 92, 148],
];

const PAIRS = [["l_eye", "r_eye"], ["l_brow", "r_brow"], ["l_ear", "r_ear"]].map(
    (pair) => pair.map((name) => CLASSES.indexOf(name)));

/** MIRRORED[k] is the class that class k is on the other side of the face. */
export const MIRRORED = CLASSES.map((_, k) => {
    const pair = PAIRS.find((classes) => classes.includes(k));
    return pair ? pair[0] + pair[1] - k : k;
});

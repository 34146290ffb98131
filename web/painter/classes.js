/** The classes of a face label map in CelebAMask-HQ order, their colors, and their sides. */

import { CLASSES, PALETTE } from "./tables.js";

export { CLASSES, PALETTE };

const PAIRS = [["l_eye", "r_eye"], ["l_brow", "r_brow"], ["l_ear", "r_ear"]].map(
    (pair) => pair.map((name) => CLASSES.indexOf(name)));

/** MIRRORED[k] is the class that class k is on the other side of the face. */
export const MIRRORED = CLASSES.map((_, k) => {
    const pair = PAIRS.find((classes) => classes.includes(k));
    return pair ? pair[0] + pair[1] - k : k;
});

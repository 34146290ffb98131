/** Template faces; `devtools/templates.py` draws them. */

import { readFiles } from "./images.js";

export const TEMPLATES = ["long-hair", "short-hair", "curly", "round", "bald", "glasses", "hat"];

export const templateUrl = (name) => new URL(`templates/${name}.png`, import.meta.url).href;

export async function loadTemplate(name, fetchApi) {
    const answer = await fetch(templateUrl(name));
    return readFiles([new File([await answer.blob()], `${name}.map`)], 0, fetchApi);
}

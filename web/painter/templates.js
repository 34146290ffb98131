/** Template faces; `devtools/templates.py` draws them. */

import { readAddress } from "./images.js";

export const TEMPLATES = ["long-hair", "short-hair", "curly", "round", "bald", "glasses", "hat"];

export const templateUrl = (name) => new URL(`templates/${name}.png`, import.meta.url).href;

export const loadTemplate = (name, fetchApi) => readAddress(templateUrl(name), `${name}.map`, 0, fetchApi);

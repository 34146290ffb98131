/** What a key means on any keyboard layout. */

/** What the keys type on a Latin layout, without and with Shift. */
const POSITIONS = {
    BracketLeft: "[{", BracketRight: "]}", Comma: ",<", Period: ".>", Slash: "/?", Minus: "-_", Equal: "=+",
};

const isLetter = (key) => /^[a-z]$/i.test(key);
const isCharacter = ({ key }) => !/^[A-Z][A-Za-z0-9]+$/.test(key); // others have names, such as "Delete" or "F2"
const isForeign = (key) => !/[\u0000-\u00ff\p{Script=Latin}]/u.test(key);

/** True for a character that is typed with Alt or AltGr, such as a bracket on many layouts. */
const isTyped = (event) => event.getModifierState("AltGraph")
    || (event.altKey && isCharacter(event) && !/^[a-z0-9 ]$/i.test(event.key));

/** The letter or sign at the position of a key; undefined for other keys. */
function positionOf({ code, shiftKey }) {
    return /^Key([A-Z])$/.exec(code)?.[1] ?? POSITIONS[code]?.[Number(shiftKey)];
}

/** The character or the name of a key. Layouts without Latin letters, and input methods, count by position. */
export function keyOf(event) {
    const key = isCharacter(event) ? event.key.normalize("NFKC") : event.key;
    const byPosition = key === "Process" || (isCharacter(event) && isForeign(key));
    return (byPosition && !isTyped(event) && positionOf(event)) || key;
}

/** "Ctrl+Shift+Z" for a key event; Shift counts only with letters and named keys. */
export function combination(event, key = keyOf(event)) {
    const named = !isCharacter({ key });
    const typed = isTyped(event);
    return [
        (!typed && event.ctrlKey) || event.metaKey ? "Ctrl" : null,
        !typed && event.altKey ? "Alt" : null,
        event.shiftKey && (named || isLetter(key)) ? "Shift" : null,
        named ? key : key.toUpperCase(),
    ].filter(Boolean).join("+");
}

/**
 * The combinations that a key may stand for, the likeliest first. Some layouts, such as the Hebrew one, type signs at the
 * position of a letter.
 */
export function combinations(event) {
    const position = /^Key[A-Z]$/.test(event.code) && !isLetter(keyOf(event)) && isCharacter(event) && !isTyped(event);
    return [combination(event), ...(position ? [combination(event, positionOf(event))] : [])];
}

/**
 * The digit of a key by position: layouts type digits with or without Shift. Null for other keys, and for a question
 * mark: some layouts, such as the Russian one, type it there and nowhere else.
 */
export function digitOf(event) {
    const { code, key = "", ctrlKey, metaKey, altKey } = event;
    const [, digit] = /^(?:Digit|Numpad)(\d)$/.exec(code) ?? [];
    const isOther = ctrlKey || metaKey || altKey || isTyped(event)
        || /^(\?$|Home|End|Page|Arrow|Insert|Delete|Clear)/.test(key);
    return digit && !isOther ? Number(digit) : null;
}

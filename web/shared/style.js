/** Style sheets that are there before what they dress. */

/**
 * The text of the style sheet `name` beside the module at `base`. A panel whose style came later, as that of a link does,
 * would be laid out without it: its canvas stretches the node, and Nodes 2.0 keep that height.
 */
export async function readStyle(name, base) {
    const response = await fetch(new URL(name, base));
    if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
    return await response.text();
}

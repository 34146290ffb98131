/** Style sheets that are loaded before the panel. */

/**
 * The text of the style sheet `name` next to the module at `base`. A linked style sheet would arrive after the first
 * layout: without style the canvas stretches the node, and Nodes 2.0 keep that height.
 */
export async function readStyle(name, base) {
    const response = await fetch(new URL(name, base));
    if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
    return await response.text();
}

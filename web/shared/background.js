/** The image at an input of a node with an editor: that of the last run, until the connected node shows another one. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { chain } from "./chain.js";

const INTERVAL = 200; // milliseconds; the host tells nobody that a node shows another image
const MOST_STEPS = 100; // on the way to the node that shows an image
const SUBGRAPH_INPUT = -10; // the host's id for the inputs of a subgraph, as the origin of a link
const BYPASSED = 4; // mode of a node that hands on its input

/** Keeps the image under the content of a node's editor up to date. */
export function followBackground(node, panel) {
    const { editor, signal } = panel;
    let latest = 0;
    followInput(node, "background", panel, (address) => {
        const number = ++latest;
        if (!address) {
            editor.setImage(null);
            return;
        }
        const image = new Image();
        image.addEventListener("load", () => number === latest && editor.setImage(image), { signal });
        image.src = address;
    });
}

/** Calls show(address) when an input of a node gets another image, and show(null) when it loses its image. */
export function followInput(node, name, { host, signal }, show) {
    let followed = null; // what was connected at the last look
    let shown = null;
    const tell = (address) => {
        shown = address;
        show(address);
    };
    const refresh = () => {
        const source = sourceOf(node, name), addresses = addressesOf(source);
        const isOther = source !== followed?.source;
        const before = isOther ? [] : followed.addresses;
        const fresh = addresses.find((address, k) => address && address !== before[k]);
        if (fresh) {
            tell(fresh);
        } else if (isOther && shown && (followed || !linkInto(node, slotOf(node, name)))) {
            tell(null);
        }
        followed = { source, addresses: addresses.map((address, k) => address ?? before[k]) };
    };
    const timer = setInterval(refresh, INTERVAL);
    signal.addEventListener("abort", () => clearInterval(timer));
    chain(node, "onConnectionsChange", refresh);
    chain(node, "onExecuted", (output) => {
        const [file] = output?.[name] ?? [];
        if (file) {
            tell(urlOf(file));
        }
    });
    host.addEventListener("pointerenter", refresh, { signal });
}

const urlOf = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);
const slotOf = (node, input) => node.inputs.findIndex(({ name }) => name === input);

/** Addresses of a node's image: of its output, and of what it shows, which lags while its graph is not on the screen. */
function addressesOf(node) {
    const { id, graph, imgs } = node ?? {};
    const key = graph === app.rootGraph ? id : `${graph?.id}:${id}`;
    const [file] = app.nodeOutputs?.[key]?.images ?? [];
    return [file && urlOf(file), imgs?.[0]?.src];
}

/** The node whose image reaches an input: past reroutes, bypassed nodes and the borders of subgraphs. */
function sourceOf(node, input) {
    const entered = []; // the nodes of the subgraphs that the way leads into
    let { graph } = node, link = linkInto(node, slotOf(node, input));
    for (let step = 0; link && step < MOST_STEPS; step++) {
        const { origin_id, origin_slot } = link, origin = graph.getNodeById(origin_id);
        if (Number(origin_id) === SUBGRAPH_INPUT) {
            const outer = entered.pop() ?? outerNode(app.rootGraph, graph);
            graph = outer?.graph;
            link = outer && linkInto(outer, origin_slot);
        } else if (origin?.mode === BYPASSED) {
            link = linkInto(origin, origin.inputs.findIndex(({ type }) => type === "IMAGE" || type === "*"));
        } else if (origin?.isSubgraphNode?.()) {
            entered.push(origin);
            graph = origin.subgraph;
            link = linkOf(graph, graph.outputs[origin_slot]?.linkIds[0]);
        } else if (origin?.isVirtualNode) { // such as a reroute
            link = origin.getInputLink(origin_slot);
        } else {
            return origin ?? null;
        }
    }
    return null;
}

const linkOf = (graph, id) => id == null ? null : graph?.getLink(id); // a copied node has no graph yet
const linkInto = ({ graph, inputs }, slot) => linkOf(graph, inputs[slot]?.link);

/** The node that stands for a subgraph, in a graph or in the subgraphs of its nodes. */
function outerNode(graph, subgraph) {
    const nodes = graph.nodes.filter((node) => node.isSubgraphNode?.());
    return nodes.find((node) => node.subgraph === subgraph)
        ?? nodes.map((node) => outerNode(node.subgraph, subgraph)).find(Boolean);
}

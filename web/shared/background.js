/** The image under an editor's content: that of the last run, until the connected node shows another one. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { chain } from "./chain.js";

const BACKGROUND = "background";
const INTERVAL = 200; // milliseconds; the host tells nobody that a node shows another image
const MOST_STEPS = 100; // on the way to the node that shows an image
const BYPASSED = 4; // mode of a node that hands on its input

/** Keeps the image of a node's editor up to date. */
export function followBackground(node, { editor, host, signal }) {
    let followed = null; // what was connected at the last look
    let latest = 0;
    const show = (src) => {
        const number = ++latest;
        const image = new Image();
        image.addEventListener("load", () => number === latest && editor.setImage(image), { signal });
        image.src = src;
    };
    const clear = () => {
        latest++;
        editor.setImage(null);
    };
    const refresh = () => {
        const source = sourceOf(node), src = imageOf(source);
        const isOther = source !== followed?.source;
        if (src && (isOther || src !== followed.src)) {
            show(src);
        } else if (isOther && editor.image && (followed || !isConnected(node))) {
            clear();
        }
        followed = { source, src: src ?? (isOther ? null : followed.src) };
    };
    const timer = setInterval(refresh, INTERVAL);
    signal.addEventListener("abort", () => clearInterval(timer));
    chain(node, "onConnectionsChange", refresh);
    chain(node, "onExecuted", (output) => {
        const [file] = output?.[BACKGROUND] ?? [];
        if (file) {
            show(urlOf(file));
        }
    });
    host.addEventListener("pointerenter", refresh, { signal });
}

const urlOf = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);
const slotOf = (node) => node.inputs.findIndex(({ name }) => name === BACKGROUND);
const isConnected = (node) => node.isInputConnected(slotOf(node));

/** Address of the image that a node shows; undefined when it shows none. */
function imageOf(node) {
    if (!node) {
        return undefined;
    }
    const { id, graph, imgs } = node;
    const key = graph === app.rootGraph ? id : `${graph?.id}:${id}`;
    const [file] = app.nodeOutputs?.[key]?.images ?? [];
    return imgs?.[0]?.src ?? (file && urlOf(file));
}

/** The node whose image reaches the background, past reroutes and bypassed nodes. */
function sourceOf(node) {
    let at = { node, slot: slotOf(node) };
    for (let step = 0; at && step < MOST_STEPS; step++) {
        const origin = originOf(at.node.graph, at.node.inputs[at.slot]?.link);
        if (!origin?.isPassed) {
            return origin?.node ?? null;
        }
        at = { node: origin.node, slot: origin.slot };
    }
    return null;
}

/** Where a link comes from: a node, or with `isPassed` an input `slot` of a node that hands on its input. */
function originOf(graph, linkId) {
    const link = linkId == null ? null : graph?.getLink(linkId);
    if (!link) {
        return null;
    }
    const node = graph.getNodeById(link.origin_id);
    const isPassed = node?.type === "Reroute" || node?.mode === BYPASSED;
    return { node, slot: node?.inputs.findIndex(({ type }) => type === "IMAGE" || type === "*"), isPassed };
}

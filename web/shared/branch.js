/** The nodes that the outputs of a node reach, also through subgraphs. */

import { app } from "../../../scripts/app.js";

const SUBGRAPH_OUTPUT = -20; // the host's id for the outputs of a subgraph, as the target of a link
const MUTED = 2; // mode of a node that does not run

/**
 * How many links each node is away from a node upstream of it. The keys are the ids of nodes in runs: "5:3" is node 3 in
 * the subgraph of node 5.
 */
export function branchOf(node) {
    const depths = new Map();
    const open = pathsTo(node.graph).map((path) => ({ path, node, depth: 0 }));
    for (const { path, node: from, depth } of open) { // grows while it is read
        for (const target of (from.outputs ?? []).flatMap(({ links }) => targetsOf(path, from.graph, links))) {
            const id = [...target.path, target.node].map((found) => found.id).join(":");
            if (!depths.has(id)) {
                depths.set(id, depth + 1);
                open.push({ ...target, depth: depth + 1 });
            }
        }
    }
    return depths;
}

/** The nodes at the ends of links, each with the subgraph nodes around it. */
function targetsOf(path, graph, links) {
    return (links ?? []).map((id) => graph.getLink(id)).filter(Boolean).flatMap(({ target_id, target_slot }) => {
        if (Number(target_id) === SUBGRAPH_OUTPUT) {
            const outer = path.at(-1);
            return targetsOf(path.slice(0, -1), outer.graph, outer.outputs[target_slot]?.links);
        }
        const node = graph.getNodeById(target_id);
        if (!node || node.mode === MUTED) {
            return [];
        }
        const inside = node.isSubgraphNode?.() && node.subgraph;
        return inside ? targetsOf([...path, node], inside, inside.inputs[target_slot]?.linkIds) : [{ path, node }];
    });
}

/** The ways from the root graph into a graph, as lists of the subgraph nodes on them. */
function pathsTo(graph) {
    if (graph === app.rootGraph) {
        return [[]];
    }
    const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
    const outer = graphs.flatMap(({ nodes }) => nodes).filter(({ subgraph }) => subgraph && subgraph === graph);
    return outer.flatMap((node) => pathsTo(node.graph).map((path) => [...path, node]));
}

/** The runs of the graph as an editor on a node sees them: the pictures of its branch, the progress, and failures. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { branchOf } from "./branch.js";
import { chain } from "./chain.js";

const INTERVAL = 500; // milliseconds; the host tells nobody that a graph has brought its pictures back
const MOST_LETTERS = 400; // of a reason

/** Sends "change" after each change of its fields, and "failed" with a reason in `error`. */
export class Runs extends EventTarget {
    isConnected = false; // something reads the node's outputs
    picture = null; // address of the last picture of the branch
    progress = null; // { value, max } of the node of the branch that runs; null while none does
    error = "";
    #branch = new Map();
    #depth = 0; // of the node that shows the picture
    #preview = null; // address of a picture that is not finished
    #own = null; // id of the last run that `repeat` has queued
    #isQueuing = false;
    #isStale = false; // the graph has changed since it was queued

    constructor(node) {
        super();
        this.node = node;
    }

    /** Follows the host until the signal. */
    follow(signal) {
        const handlers = {
            execution_start: () => this.#start(),
            executed: (detail) => this.#show(detail),
            progress_state: ({ nodes }) => this.#measure(Object.values(nodes)),
            b_preview_with_metadata: ({ blob, displayNodeId }) => this.#showPreview(blob, displayNodeId),
            execution_success: () => this.#end(),
            execution_interrupted: () => this.#end(),
            execution_error: ({ node_id, node_type, exception_message, prompt_id }) => {
                this.#end();
                if (prompt_id === this.#own || this.#branch.has(`${node_id}`)) {
                    this.#fail(`${node_type}: ${exception_message.trim()}`);
                }
            },
        };
        for (const [type, handle] of Object.entries(handlers)) {
            api.addEventListener(type, ({ detail }) => handle(detail), { signal });
        }
        const timer = setInterval(() => this.#look(), INTERVAL);
        signal.addEventListener("abort", () => clearInterval(timer));
        chain(this.node, "onConnectionsChange", () => this.#look());
    }

    /** What the host's Run does. */
    async run() {
        await app.queuePrompt(0);
        const [refused] = Object.values(app.lastNodeErrors ?? {});
        if (refused) {
            this.#fail(reasonOf(refused));
        }
    }

    /**
     * Queues the graph with its seeds as they are. The run that the last call has queued is dropped if it waits; if it
     * runs, it ends: quick strokes would otherwise never show a picture.
     */
    async repeat() {
        this.#isStale = true;
        if (this.#isQueuing) {
            return;
        }
        this.#isQueuing = true;
        try {
            while (this.#isStale) {
                this.#isStale = false;
                await this.#replace();
            }
        } catch (error) {
            const { node_errors: nodes, error: whole } = error.response ?? {};
            const [refused] = Object.values(nodes ?? {});
            this.#fail(refused ? reasonOf(refused) : whole?.message ?? error.message);
        } finally {
            this.#isQueuing = false;
        }
    }

    async #replace() {
        if (this.#own) {
            await api.deleteItem("queue", this.#own);
        }
        const previewMethod = app.extensionManager.setting.get("Comfy.Execution.PreviewMethod");
        const { prompt_id } = await api.queuePrompt(0, await app.graphToPrompt(), { previewMethod });
        this.#own = prompt_id;
    }

    #change(fields) {
        Object.assign(this, fields);
        this.dispatchEvent(new Event("change"));
    }

    #fail(error) {
        this.error = error.slice(0, MOST_LETTERS);
        this.dispatchEvent(new Event("failed"));
    }

    #start() {
        this.#branch = branchOf(this.node);
        this.#depth = 0;
    }

    #end() {
        this.#dropPreview();
        this.#change({ progress: null });
    }

    /** The picture that lies farthest down the branch stays. */
    #show({ node, display_node, output }) {
        const depth = this.#branch.get(`${display_node ?? node}`), file = output?.images?.at(-1);
        if (file && depth >= this.#depth) {
            this.#dropPreview();
            this.#depth = depth;
            this.#change({ picture: urlOf(file) });
        }
    }

    #showPreview(blob, id) {
        if (this.#branch.has(`${id}`)) {
            this.#dropPreview();
            this.#preview = URL.createObjectURL(blob);
            this.#change({});
        }
    }

    #dropPreview() {
        URL.revokeObjectURL(this.#preview);
        this.#preview = null;
    }

    /** The address to show now. */
    get shown() {
        return this.#preview ?? this.picture;
    }

    #measure(nodes) {
        const running = nodes.find(({ state, display_node_id: id }) => state === "running" && this.#branch.has(`${id}`));
        if (running) {
            this.#change({ progress: { value: running.value, max: running.max } });
        }
    }

    /** Notices links, and pictures that the host shows again, such as after its undo. */
    #look() {
        const isConnected = (this.node.outputs ?? []).some(({ links }) => links?.length);
        const picture = this.picture ?? (isConnected && this.node.graph ? this.#find() : null);
        if (isConnected !== this.isConnected || picture !== this.picture) {
            this.#change({ isConnected, picture });
        }
    }

    #find() {
        const shown = Object.entries(app.nodeOutputs ?? {}).filter(([, output]) => output?.images?.length);
        if (!shown.length) {
            return null;
        }
        const branch = branchOf(this.node);
        const [last] = shown.filter(([id]) => branch.has(id)).sort(([a], [b]) => branch.get(b) - branch.get(a));
        return last ? urlOf(last[1].images.at(-1)) : null;
    }
}

const reasonOf = ({ class_type, errors: [{ message, details }] }) => `${class_type}: ${message}. ${details}`;
const urlOf = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);

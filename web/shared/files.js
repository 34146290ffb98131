/** Files that are dropped on or pasted into an editor. The host would open a graph that such a file holds. */

const LINKS = ["text/uri-list", "text/x-moz-url"]; // an image that is dragged out of a page

/** True for a drag of files, or of an image of a page; the host drags nodes, too. */
export const carriesFiles = ({ types }) => ["Files", ...LINKS].some((type) => types.includes(type));

/** Takes the files of drops on the node, around its editor. */
export function takeNodeDrops(node, panel) {
    node.onDragOver = ({ dataTransfer }) => carriesFiles(dataTransfer);
    node.onDragDrop = ({ dataTransfer }) => {
        const takes = carriesFiles(dataTransfer);
        if (takes) {
            panel.takeFiles(filesOf(dataTransfer));
        }
        return takes;
    };
}

/** Takes the files of drops on a panel, and of pastes that no field has kept. */
export function takeFiles(panel) {
    const { host, signal } = panel;
    const stop = (event) => {
        event.preventDefault();
        event.stopPropagation();
    };
    for (const type of ["dragenter", "dragover", "drop"]) {
        host.addEventListener(type, (event) => {
            if (carriesFiles(event.dataTransfer)) {
                stop(event);
                event.dataTransfer.dropEffect = "copy";
            }
        }, { signal });
    }
    host.addEventListener("drop", (event) => {
        if (carriesFiles(event.dataTransfer)) {
            panel.takeFiles(filesOf(event.dataTransfer));
        }
    }, { signal });
    host.addEventListener("paste", (event) => {
        const files = [...event.clipboardData.files];
        if (files.length) {
            stop(event);
            panel.takeFiles(files);
        }
    }, { signal });
}

/** The files, or the file behind the link of an image; a promise. */
async function filesOf(transfer) {
    const [link] = LINKS.map((type) => transfer.getData(type)).filter(Boolean);
    const files = [...transfer.files];
    return files.length || !link ? files : [await fetchFile(link.split("\n")[0].trim())];
}

/** An empty file, which no reader takes, for an address that cannot be read. */
async function fetchFile(address) {
    const content = await fetch(address).then((answer) => answer.blob()).catch(() => new Blob());
    const { pathname, searchParams } = new URL(address, location.href);
    return new File([content], searchParams.get("filename") ?? pathname.split("/").at(-1), { type: content.type });
}

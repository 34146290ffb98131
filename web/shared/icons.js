/** Icons as paths on a 24 x 24 grid, stroked. */

const PATHS = {
    brush: "M14 6l4 4M4 20c0-3 1-5 3.5-5S11 17 11 18s-1 2-3 2zM9.5 14.5L19 5",
    eraser: "M8 20h12M4.5 14.5l9-9 6 6L13 18H8zM9 10l6 6",
    healer: "M8 16l8-8M6.5 17.5a3.5 3.5 0 010-5l6-6a3.5 3.5 0 015 5l-6 6a3.5 3.5 0 01-5 0zM11 11v.01M13 13v.01M11 13v.01M13 "
        + "11v.01",
    lasso: "M12 5c5 0 8 2 8 5s-3 5-8 5-8-2-8-5 3-5 8-5zM7 14c-1.5 1-1.5 3 0 3.5s1.5 2.5 0 3.5",
    more: "M5 12v.01M12 12v.01M19 12v.01",
    smooth: "M3 17c4 0 4-10 9-10s5 10 9 10",
    copyRight: "M12 3v18M9 7v10H3zM15 9l5 3-5 3",
    copyLeft: "M12 3v18M15 7v10h6zM9 9l-5 3 5 3",
    natural: "M12 3a9 9 0 100 18c2 0 1.5-2 1-3s.5-2 2-2h2c2.5 0 4-2 4-4 0-5-4-9-9-9zM8 11v.01M12 8v.01M16 11v.01",
    lock: "M6 11h12v9H6zM9 11V8a3 3 0 016 0v3",
    fill: "M5 12l7-7 7 7-7 7zM5 12h14M20.5 16c1 1.7 1.3 3 0 3s-1-1.3 0-3M9.5 2.5L13 6",
    polygon: "M5 8l8-4 7 7-4 8-10-2zM5 8v.01M13 4v.01M20 11v.01M16 19v.01M6 17v.01",
    move: "M12 3v18M3 12h18M12 3l-2.5 2.5M12 3l2.5 2.5M12 21l-2.5-2.5M12 21l2.5-2.5M3 12l2.5-2.5M3 12l2.5 2.5"
        + "M21 12l-2.5-2.5M21 12l-2.5 2.5",
    hand: "M8 12V6.5a1.5 1.5 0 013 0V11M11 11V5a1.5 1.5 0 013 0v6M14 11V6.5a1.5 1.5 0 013 0V14c0 4-2 7-5.5 7-3 "
        + "0-4.5-2-7-6.5-.6-1.3 1-2.3 2-1.2L8 15",
    draw: "M4 4h11v8M4 4v11h8M18 14v7M14.5 17.5h7",
    swap: "M4 8h15M15 4l4 4-4 4M20 16H5M9 12l-4 4 4 4",
    duplicate: "M4 4h11v11H4zM9 19h11V9",
    earlier: "M12 19V5M6 11l6-6 6 6",
    later: "M12 5v14M6 13l6 6 6-6",
    remove: "M6 6l12 12M18 6L6 18",
    mirror: "M12 3v18M9 7v10H3zM15 7v10h6z",
    undo: "M8 5L4 9l4 4M4 9h9a6 6 0 010 12h-3",
    redo: "M16 5l4 4-4 4M20 9h-9a6 6 0 000 12h3",
    faces: "M12 3c5 0 7 3.5 7 8s-2.5 10-7 10-7-5.5-7-10 2-8 7-8zM9 10v.5M15 10v.5M9.5 16c1.5 1 3.5 1 5 0",
    parts: "M3 9h18M4 9c-1 5 0 7 3 7s4-3 4-6M20 9c1 5 0 7-3 7s-4-3-4-6M11 11h2",
    start: "M3 12h10M9 8l4 4-4 4M10 4h10v16H10",
    import: "M12 3v11M8 10l4 4 4-4M4 16v4h16v-4",
    export: "M12 14V3M8 7l4-4 4 4M4 16v4h16v-4",
    clear: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
    fullscreen: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
    run: "M7 4l12 8-12 8z",
    live: "M13 3L5 14h6l-1 7 8-11h-6z",
    help: "M9 9a3 3 0 116 0c0 2-3 2.5-3 5M12 18v.01",
    zoomIn: "M5 12h14M12 5v14",
    zoomOut: "M5 12h14",
    fit: "M4 4h16v16H4zM9 9h6v6H9z",
};

export function icon(name) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", PATHS[name]);
    svg.append(path);
    return svg;
}

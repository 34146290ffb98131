"""A real host with the pack, and a real browser on it."""
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from devtools.browser import FLAGS, LOADED, NO_WELCOME, chromium, write_settings
from devtools.server import NodeError, Server

# The host's skeletons and blurred dialogs cost a core while they are shown: without a card, each frame is drawn anew.
STILL = """addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = `*, ::before, ::after {
        animation: none !important; transition: none !important; backdrop-filter: none !important; }`;
    document.head.append(style);
})"""
ONE_WORKFLOW = """async () => {
    const { command, workflow } = app.extensionManager;
    await command.execute("Comfy.NewBlankWorkflow");
    const others = workflow.openWorkflows.filter(one => one !== workflow.activeWorkflow);
    for (const one of others) await workflow.closeWorkflow(one);
    Object.assign(app.canvas.ds, { scale: 1, offset: [400, 100] });
}"""


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One host for the whole session, with the pack and `probe_nodes`. Each test leaves it idle."""
    base = tmp_path_factory.mktemp("host")
    write_settings(base, NO_WELCOME)
    with Server(base, "--preview-method", "auto", packs=[Path(__file__).parent / "probe_nodes"]) as running:
        yield running


@pytest.fixture(scope="session")
def model_file(server):
    """Puts a tiny random model into the server's models; the name under which the loader lists it."""
    from mditface.tests.mditface import tiny
    folder = server.base / "models" / "mdit"
    folder.mkdir(exist_ok=True)

    def write(name, config=tiny.CONFIG, edit=lambda weights: weights, damage=lambda path: None) -> str:
        path = folder / f"{name}.safetensors"
        tiny.write(path, config, edit=edit)
        damage(path)
        return path.name
    return write


@pytest.fixture(scope="session")
def weights_file(server):
    """Puts tensors into one of the server's models folders; the name under which a loader lists the file."""
    return server.save_weights


@pytest.fixture(scope="session")
def tiny_models(server, own_golden):
    """What stands in for the models that templates and blueprints name; see stand_ins.py."""
    from mditface.tests.e2e import stand_ins
    stand_ins.write_files(server, own_golden)


@pytest.fixture(scope="session")
def label_map_file(server, tmp_path_factory):
    """Uploads a label map of random squares; the name under which LoadImage finds it."""
    from mditface.mdit.labelmap import resize_nearest, to_image
    from mditface.tests.mditface import tiny
    folder = tmp_path_factory.mktemp("label_maps")

    def upload(name, width, height, seed=0) -> str:
        image = to_image(resize_nearest(tiny.labels(seed=seed), height, width))[0] * 255
        Image.fromarray(image.round().byte().numpy()).save(folder / f"{name}.png")
        return server.upload(folder / f"{name}.png")
    return upload


@pytest.fixture
def refused(server, healthy):
    """Runs a graph that must fail on a node with a message; afterwards the graph `healthy` must succeed."""
    def check(graph, node_id, *parts):
        with pytest.raises(NodeError) as caught:
            server.run(graph)
        assert caught.value.node_id == node_id, caught.value
        for part in parts:
            assert part in caught.value.message
        assert server.image(server.run(healthy)).size == (64, 64)
    return check


@pytest.fixture(scope="session")
def artefacts(root) -> Path:
    """The folder for images that a person may want to look at."""
    folder = root / "artefacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(server):
    """Chromium, and the default settings of the front end. It closes after each module: while playwright is open, no
    other event loop can run in this thread."""
    write_settings(server.base, NO_WELCOME)
    if not chromium():
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield running
        running.close()


@contextmanager
def open_front_end(browser, server):
    """The loaded front end. Each console error that our files cause is added to `page.our_errors`."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(300_000)  # the first load is slow on a busy machine
    context.add_init_script(STILL)
    page = context.new_page()
    page.our_errors = []
    page.on("console", lambda message: page.our_errors.append(message.text)
            if message.type == "error" and "mditface" in message.text + message.location["url"] else None)
    page.on("pageerror", lambda error: page.our_errors.append(str(error)))
    page.goto(server.url)
    page.wait_for_function(LOADED)
    yield page
    context.close()


@pytest.fixture(scope="module")
def shared_page(browser, server):
    """One page for all tests of a module: to load it costs about 7 s of processor time."""
    with open_front_end(browser, server) as loaded:
        yield loaded


@pytest.fixture
def page(shared_page):
    """The module's page with an empty workflow and no other: each that a test opens keeps its tab."""
    shared_page.keyboard.press("Escape")  # a test may have left a dialog open
    shared_page.our_errors.clear()
    shared_page.evaluate(ONE_WORKFLOW)
    return shared_page


@pytest.fixture(params=["canvas", "nodes 2.0"])
def renderer(request, shared_page):
    """Both of the front end's ways of drawing nodes, in turn."""
    switch = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    before = shared_page.evaluate("() => app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    shared_page.evaluate(switch, request.param == "nodes 2.0")
    yield request.param
    shared_page.evaluate(switch, before)

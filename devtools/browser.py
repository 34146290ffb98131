"""The host's front end in a headless browser."""
from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run")
LOADED = """() => window.app?.extensionManager?.workflow?.activeWorkflow
    && LiteGraph.registered_node_types.KSampler"""

NO_WELCOME = {"Comfy.TutorialCompleted": True}  # without the dialog for new users, which covers the canvas


def write_settings(base: Path, settings: dict) -> None:
    """Write settings of the front end into a base folder of the host; all others keep their defaults."""
    file = base / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))


def chromium() -> str | None:
    """Path of the browser on this machine, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def open_front_end(url: str) -> Iterator:
    """A page of playwright with the front end loaded. While it is open, no other event loop can run in this thread."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(url, timeout=180_000)
        page.wait_for_function(LOADED, timeout=300_000)
        yield page
        browser.close()

"""Sends mixed graphs of all systems to one server: bursts, cancels at random times, models replaced on disk, `/free`.

A graph is lost that ends otherwise than it was asked to: with an error, without a trace, cancelled by nobody, or with
other pixels than the same graph before. So is the server if its memory, handles or threads have grown at the end.
"""
from __future__ import annotations

import hashlib
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.server import Server
from devtools.thumbnails import PROBES
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.graphs import inspect
from mditface.tests.e2e.test_every_system import TEMPLATES_OF_SYSTEMS, changed, longer, other_prompt, twin, wider

REPLACED = {  # by the template whose pixels show it: a file of the models folder
    "8 Own weights, SD35": "mdit_adapters/your_sd35_adapter.safetensors",
    "5 Text to image (PT-DiT)": "diffusion_models/stand-in-pt-dit.safetensors",
    "4 Painted face to photo (MMFace-DiT)": "diffusion_models/stand-in-mmface.safetensors",
    "8 Own weights, face after an exemplar (DynaST)": "dynast/stand-in-face.safetensors",
}
VARIANTS = (lambda kind, inputs: None, wider, other_prompt)
GROWTH = 0.02  # of the memory, that is no leak
PATIENCE = 600.0  # seconds of a burst on a busy machine
LONGEST_BURST = 4  # graphs
POOL = "asyncio_"  # begins the names of the threads in the event loop's pool


class Job(NamedTuple):
    """A graph in the queue. pixels: what decides them: template, variant, version of its model; None for any."""
    prompt_id: str
    pixels: tuple[str, int, int] | None


class Figures(NamedTuple):
    """What a server holds when it has let go of all models and results.

    threads: without those of the event loop's pool, whose number has a limit.
    """
    bytes: int
    handles: int
    threads: int
    caches: int


class Attack:
    """One server under attack.

    versions: of the replaced files, by template. seen: digests of pixels. lost: what went wrong, in words.
    """

    def __init__(self, server: Server, seed: int, names: tuple[str, ...] = TEMPLATES_OF_SYSTEMS):
        self.server = server
        self.rng = random.Random(seed)
        self.graphs = {name: stand_ins.runnable(twin(name)) for name in names}
        self.waiting: list[str] = []  # the templates that a round has not sent yet
        self.versions: Counter = Counter()
        self.seen: dict[tuple, str] = {}
        self.counts: Counter = Counter()
        self.lost: list[str] = []

    def draw_name(self) -> str:
        """A template; each comes once in a round."""
        self.waiting = self.waiting or self.rng.sample(list(self.graphs), len(self.graphs))
        return self.waiting.pop()

    def queue(self, name: str, variant: int) -> Job:
        self.counts["graphs"] += 1
        graph = changed(self.graphs[name], VARIANTS[variant])
        return Job(self.server.queue(graph), (name, variant, self.versions[name] % 2))

    def queue_long(self) -> Job:
        self.counts["graphs"] += 1
        return Job(self.server.queue(changed(self.graphs[self.draw_name()], longer)), None)

    def send_burst(self) -> None:
        """Graphs that must all end, some with `/free` in between."""
        jobs = [self.queue(self.draw_name(), self.rng.randrange(len(VARIANTS)))
                for _ in range(self.rng.randint(1, LONGEST_BURST))]
        if self.rng.random() < 0.3:
            time.sleep(self.rng.uniform(0, 1))
            self.server.post("/free", {"unload_models": True, "free_memory": True})
            self.counts["freed in a burst"] += 1
        self.finish(jobs)

    def send_cancelled(self) -> None:
        """Long graphs, each cancelled at a random time."""
        jobs = [self.queue_long() for _ in range(self.rng.randint(1, 2))]
        while self.is_busy():
            time.sleep(self.rng.uniform(0, 2))
            self.server.interrupt()
            self.counts["cancels"] += 1
        self.finish(jobs, cancelled={job.prompt_id for job in jobs})

    def send_dropped(self) -> None:
        """Graphs of which some are taken out of the queue."""
        jobs = [self.queue(self.draw_name(), 0) for _ in range(LONGEST_BURST)]
        time.sleep(self.rng.uniform(0, 1))
        dropped = {job.prompt_id for job in self.rng.sample(jobs, 2)}
        self.server.post("/queue", {"delete": sorted(dropped)})
        self.counts["dropped"] += len(dropped)
        self.finish(jobs, dropped=dropped)

    def replace_model(self) -> None:
        """Another file takes the place of a model, as a download does; the graphs after `/free` read it."""
        name = self.rng.choice([name for name in REPLACED if name in self.graphs])
        path = self.server.base / "models" / REPLACED[name]
        with safe_open(path, "pt") as file:
            header = file.metadata()
        factor = 0.5 if self.versions[name] % 2 == 0 else 2.0  # exact, and back
        weights = {key: weight * factor for key, weight in load_file(path).items()}
        new = path.with_suffix(".part")
        save_file(weights, new, header)
        os.replace(new, path)
        self.versions[name] += 1
        self.counts["models replaced"] += 1
        self.server.free()
        self.finish([self.queue(name, 0)])

    def is_busy(self) -> bool:
        queue = self.server.get("/queue")
        return bool(queue["queue_running"] or queue["queue_pending"])

    def finish(self, jobs: list[Job], cancelled: frozenset | set = frozenset(), dropped: frozenset | set = frozenset()
               ) -> None:
        """Waits for all, judges each, and has the server forget them."""
        deadline = time.monotonic() + PATIENCE
        while self.is_busy():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not finish {len(jobs)} graphs in {PATIENCE:.0f} s")
            time.sleep(0.05)
        for job in jobs:
            entry = self.server.get(f"/history/{job.prompt_id}").get(job.prompt_id)
            wrong = self.judge(job, entry, job.prompt_id in cancelled, job.prompt_id in dropped)
            if wrong:
                self.lose(f"{job.pixels or 'a long graph'}: {wrong}")
        self.server.post("/history", {"clear": True})

    def judge(self, job: Job, entry: dict | None, cancelled: bool, dropped: bool) -> str | None:
        """What is wrong with how a graph ended."""
        if entry is None:
            return None if dropped else "no trace is left of it"
        messages = dict(entry["status"]["messages"])
        if "execution_interrupted" in messages:
            return None if cancelled else "cancelled, and nobody asked for it"
        if "execution_success" not in messages:
            return f"ended with {messages.get('execution_error', {}).get('exception_message', 'nothing')[:300]}"
        return self.compare(job, entry) if job.pixels else None

    def compare(self, job: Job, entry: dict) -> str | None:
        """Looks at the pixels that a graph saved."""
        digest = self.digest_pixels(entry)
        if self.seen.setdefault(job.pixels, digest) != digest:
            return "other pixels than before"
        name, variant, version = job.pixels
        if self.seen.get((name, variant, 1 - version)) == digest:
            return "the pixels of the model that was replaced"
        return None

    def digest_pixels(self, entry: dict) -> str:
        saved = [image for output in entry["outputs"].values() for image in output.get("images", ())
                 if image["type"] == "output"]
        return hashlib.sha256(b"".join(self.server.picture(image).tobytes() for image in saved)).hexdigest()

    def lose(self, words: str) -> None:
        print(words, flush=True)
        self.lost.append(words)

    def measure(self) -> Figures:
        """What is left after `/free`."""
        self.server.free()
        self.server.post("/history", {"clear": True})
        found: dict[str, Any] = inspect(self.server)
        pool = sum(name.startswith(POOL) for name in found["threads"])
        process = psutil.Process(self.server.process.pid)
        return Figures(process.memory_full_info().uss, process.num_fds(), process.num_threads() - pool, found["caches"])

    def send(self, graphs: int) -> None:
        """Sends bursts until that many graphs were sent."""
        kinds = (self.send_burst, self.send_burst, self.send_cancelled, self.send_dropped, self.replace_model)
        while self.counts["graphs"] < graphs:
            self.rng.choice(kinds)()

    def repeat_first(self) -> None:
        """Sends the first graph again, with the model that it had."""
        name, variant, version = next(iter(self.seen))
        if self.versions[name] % 2 == version:
            self.finish([self.queue(name, variant)])


def find_growth(before: Figures, after: Figures) -> list[str]:
    """What has grown, in words."""
    grown = [f"{name}: {first} before, {last} after" for name, first, last in zip(Figures._fields, before, after)
             if name != "bytes" and last > first]
    if after.bytes > before.bytes * (1 + GROWTH):
        grown.append(f"memory: {before.bytes >> 20} MiB before, {after.bytes >> 20} MiB after")
    return grown


def attack_server(graphs: int, seed: int, golden: Path) -> dict:
    """Boots a server with tiny models and sends that many graphs; prints what is lost.

    Returns how many were tried, what was lost, and counts.
    """
    with tempfile.TemporaryDirectory() as base, Server(Path(base), packs=[PROBES]) as server:
        stand_ins.write_files(server, golden)
        attack = Attack(server, seed)
        attack.send(max(len(attack.graphs), graphs // 5))
        before = attack.measure()
        attack.send(graphs)
        attack.repeat_first()
        after = attack.measure()
        for words in find_growth(before, after):
            attack.lose(words)
    print(f"MiB after a fifth: {before.bytes >> 20}, at the end: {after.bytes >> 20}")
    return {"tried": attack.counts.pop("graphs"), "lost": attack.lost, "counts": dict(attack.counts)}

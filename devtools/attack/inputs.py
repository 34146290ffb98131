"""Feeds every node input other values over HTTP, in a real server: typed in, over links, and as objects of other kinds.

A value escapes that ends in anything but a result, a validation error of the host, or a ValueError or FileNotFoundError
of the node that names the input in a few words; that Cancel does not stop; or after which the server is gone.
"""
from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

from devtools.server import Server
from devtools.thumbnails import GRAPHS, PROBES
from mditface.nodes import NODES
from mditface.tests.e2e import stand_ins

from .trial import REFUSALS
from .values import NUMBERS, OTHERS, TEXTS

TARGET, ODD, SEEN = "target", "odd value", "seen"
LONG_TEXT = 10_000_000  # letters
LONGEST_MESSAGE = 2000  # letters
PATIENCE = 20.0  # seconds of a run until it is cancelled
STOPPING = 10.0  # seconds that Cancel may take on a busy machine
MARKUP = ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "{{7*7}}${7*7}")
VALUES = (*NUMBERS, *TEXTS, *OTHERS, *MARKUP, 2 ** 31, 2 ** 64, "x" * LONG_TEXT)
SIZES = {"width": 64, "height": 64, "steps": 2, "size": 64, "batch_size": 1}


class Case(NamedTuple):
    """One value at an input of a node: typed in, from another node, or the name of an odd object of the probes."""
    node: str
    name: str
    way: str  # "widget", "link" or "object"
    value: Any

    def describe(self) -> str:
        return f"{self.node} {self.name} {self.way} {str(self.value)[:60]!r}"


def attack_inputs(count: int | None, seed: int, base: Path, golden: Path) -> dict:
    """Tries `count` cases, drawn by a seed, or all; prints each escape. base: an empty folder for the server.

    Returns how many were tried, how they ended, and the escapes.
    """
    ends: Counter = Counter()
    escapes = []
    with Server(base, packs=[PROBES]) as server:
        stand_ins.write_files(server, golden)
        graphs = find_graphs()
        cases = draw_cases(list_cases(server.object_info(), graphs), count, seed)
        for case in cases:
            end, message = try_case(server, case, graphs[case.node])
            ends[end] += 1
            if end not in ENDS:
                print(f"{case.describe()}: {end}: {message[:300]}", flush=True)
                escapes.append({"case": case.describe(), "wrong": end, "message": message[:300]})
    return {"tried": len(cases), "ends": dict(ends), "escapes": escapes}


ENDS = ("accepted", "validation", "refused", "cancelled")


def find_graphs() -> dict[str, dict]:
    """For each node of the pack a small graph that ends in it, under the key TARGET."""
    found = {}
    for file in sorted((GRAPHS / "api").glob("*.json")):  # those that draw with the bundled model come first
        graph = stand_ins.runnable(json.loads(file.read_text("utf-8")))
        for key, one in graph.items():
            if one["class_type"].startswith("MDiT") and one["class_type"] not in found:
                found[one["class_type"]] = cut_graph(graph, key)
    for kind in NODES:  # those that need files of full size
        schema = kind.GET_SCHEMA()
        found.setdefault(schema.node_id, {TARGET: {"class_type": schema.node_id, "inputs": {}}})
    return found


def cut_graph(graph: dict, key: str) -> dict:
    """A node and all that feeds it, in small sizes."""
    kept = {}
    waiting = [key]
    while waiting:
        name = waiting.pop()
        one = graph[name]
        inputs = {}
        sizes = {} if one["class_type"].startswith("Probe") else SIZES
        for own, value in one["inputs"].items():
            inputs[own] = min(value, sizes[own]) if own in sizes and isinstance(value, int) and value else value
            if is_link(value) and value[0] not in kept:
                waiting.append(value[0])
        kept[name] = {"class_type": one["class_type"], "inputs": inputs}
    kept[TARGET] = kept.pop(key)
    return kept


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def list_cases(known: dict[str, dict], graphs: dict[str, dict]) -> list[Case]:
    cases = []
    odd = known["Probe_Odd"]["input"]["required"]["kind"][0]
    for node, graph in graphs.items():
        described = known[node]["input"]
        names = dict.fromkeys([*described.get("required", {}), *described.get("optional", {}),
                               *graph[TARGET]["inputs"]])
        for name in names:
            cases += [Case(node, name, way, value) for way in ("widget", "link") for value in VALUES]
            cases += [Case(node, name, "object", kind) for kind in odd]
    return cases


def draw_cases(cases: list[Case], count: int | None, seed: int) -> list[Case]:
    """`count` cases, or all: of each input as many as of any other, and those of a node together.

    The host keeps what feeds a node from one run to the next.
    """
    order = random.Random(seed).sample(range(len(cases)), len(cases))
    drawn: Counter = Counter()
    ranked = []
    for k in order:
        drawn[cases[k][:2]] += 1
        ranked.append((drawn[cases[k][:2]], k))
    return [cases[k] for k in sorted(k for _, k in sorted(ranked)[:count])]


def build_prompt(case: Case, graph: dict) -> dict:
    inputs = dict(graph[TARGET]["inputs"])
    added: dict[str, dict] = {}
    if case.way == "widget":
        inputs[case.name] = case.value
    else:
        inputs[case.name] = [ODD, 0]
        added[ODD] = ({"class_type": "Probe_Odd", "inputs": {"kind": case.value}} if case.way == "object" else
                      {"class_type": "Probe_Anything", "inputs": {"value": json.dumps(case.value)}})
    added[SEEN] = {"class_type": "Probe_Seen", "inputs": {"value": [TARGET, 0]}}
    return graph | added | {TARGET: {"class_type": case.node, "inputs": inputs}}


def try_case(server: Server, case: Case, graph: dict) -> tuple[str, str]:
    """How a case ended, one of ENDS or what is wrong, and the words of the error."""
    try:
        body = json.dumps({"prompt": build_prompt(case, graph)})
        answer = server.session.post(server.url + "/prompt", data=body, timeout=60,
                                     headers={"Content-Type": "application/json"})
        if answer.status_code == 400:
            return "validation", ""
        if answer.status_code != 200:
            return f"answered {answer.status_code}", answer.text
        return judge(case, *wait(server, answer.json()["prompt_id"]))
    except (requests.RequestException, RuntimeError) as error:
        return "the server is gone", str(error)


def wait(server: Server, prompt_id: str) -> tuple[dict, bool]:
    """The last message of a run, and whether it was cancelled."""
    began = time.monotonic()
    cancelled = 0.0
    while not (entry := server.get(f"/history/{prompt_id}").get(prompt_id)):
        now = time.monotonic()
        if not cancelled and now - began > PATIENCE:
            server.post("/interrupt", {})
            cancelled = now
        if cancelled and now - cancelled > STOPPING:
            server.stop()
            server.start()
            return {"exception_type": "hang", "exception_message": "", "node_id": TARGET}, True
        time.sleep(0.01)
    return next((data for kind, data in entry["status"]["messages"] if kind == "execution_error"), {}), bool(cancelled)


def judge(case: Case, failure: dict, cancelled: bool) -> tuple[str, str]:
    if not failure:
        return "cancelled" if cancelled else "accepted", ""
    kind = failure["exception_type"].rpartition(".")[2]
    message = failure["exception_message"]
    if failure["node_id"] != TARGET:
        return f"node {failure['node_id']} raised {kind}", message
    if kind not in list_kinds(*REFUSALS):
        return f"raised {kind}", message
    if not any(name in message for name in list_names(case.name)):
        return "does not name the input", message
    return ("refused" if len(message) <= LONGEST_MESSAGE else "says too much"), message


def list_names(name: str) -> Iterator[str]:
    """An input's name, and those of the parts of a growing or changing input."""
    yield name
    yield from name.split(".")


def list_kinds(*kinds: type) -> set[str]:
    """The names of kinds of errors and of all that are such, too."""
    found = {kind.__name__ for kind in kinds}
    return found.union(*(list_kinds(*kind.__subclasses__()) for kind in kinds if kind.__subclasses__()))

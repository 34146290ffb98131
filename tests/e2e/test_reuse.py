"""The static pass of a mask runs once over queue runs."""
import pytest

from mditface.tests.e2e.graphs import face, inspect, text_of


@pytest.fixture(scope="module")
def report(server, model_file, label_map_file):
    """Runs the graph with changes; the sampler's report."""
    name = model_file("reuse")

    def run(**changes):
        return text_of(server.run(face(name, label_map_file("reuse", 64, 64), **changes)), "report")
    return run


def test_another_seed_and_prompt_reuse_the_pass(report):
    assert report(seed=1).partition("\n")[2].startswith("static passes 1,")
    assert report(seed=2).partition("\n")[2].startswith("static passes 0, cache hits 3,")
    assert report(seed=2, text="man, red shirt").partition("\n")[2].startswith("static passes 0, cache hits 3,")
    assert report(seed=2, width=96).partition("\n")[2].startswith("static passes 1,")
    assert report(seed=3).partition("\n")[2].startswith("static passes 0,")


def test_freeing_the_hosts_memory_empties_the_cache(server, report):
    report(seed=4)
    assert inspect(server)["bytes"] > 0
    server.free()
    found = inspect(server)
    assert (found["loaded"], found["caches"]) == ([], 0)
    assert report(seed=5).partition("\n")[2].startswith("static passes 1,")

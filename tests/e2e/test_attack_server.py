"""The attack on a server in a small size: nothing is lost, and what would be lost is found."""
import pytest

from devtools.attack.server import Attack, Figures, find_growth

PLAIN, ADAPTER = NAMES = ("2 Paint a face, all nodes", "8 Own weights, SD35")
FAILING = {"image": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
           "wait": {"class_type": "Probe_Wait", "inputs": {"image": ["image", 0], "seconds": 0.0, "fails": True}},
           "save": {"class_type": "PreviewImage", "inputs": {"images": ["wait", 0]}}}


@pytest.fixture
def attack(server, tiny_models) -> Attack:
    return Attack(server, 0, NAMES)


def test_no_graph_is_lost(attack):
    for send in (attack.send_burst, attack.send_cancelled, attack.replace_model, attack.send_dropped,
                 attack.replace_model, attack.repeat_first):
        send()
    assert attack.lost == [] and attack.counts["graphs"] > 8
    assert attack.measure().caches == 0


def test_a_lost_graph_is_found(attack):
    attack.finish([attack.queue(PLAIN, 0)])
    attack.seen[(PLAIN, 0, 0)] = "others"
    attack.finish([attack.queue(PLAIN, 0)])
    job = attack.queue(PLAIN, 0)
    attack.finish([job._replace(prompt_id="absent")])
    attack.finish([job._replace(prompt_id=attack.server.queue(FAILING))])
    long = attack.queue_long()
    while attack.is_busy():
        attack.server.interrupt()
    attack.finish([long])
    ends = ("other pixels", "no trace", "ended with simulated: the node fails", "cancelled, and nobody")
    assert len(attack.lost) == len(ends) and all(end in words for end, words in zip(ends, attack.lost))


def test_a_stale_model_is_found(attack):
    attack.finish([attack.queue(PLAIN, 0)])
    attack.versions[PLAIN] += 1  # nothing was replaced
    attack.finish([attack.queue(PLAIN, 0)])
    assert "of the model that was replaced" in attack.lost[0]


def test_growth_is_found():
    before = Figures(100 << 20, 20, 8, 0)
    assert find_growth(before, before._replace(bytes=101 << 20, handles=19)) == []
    for name, value in (("bytes", 103 << 20), ("handles", 21), ("threads", 9), ("caches", 1)):
        assert len(find_growth(before, before._replace(**{name: value}))) == 1

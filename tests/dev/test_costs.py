"""What a run of the tests costs is booked whole, each second on one part."""
import subprocess
import sys
import time

import pytest

from devtools.costs import Costs, measure_processor

BURN = "import time\nwhile time.process_time() < 0.3: pass"


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_children_count_while_they_live_and_after():
    before = measure_processor()
    with subprocess.Popen([sys.executable, "-c", BURN + "\ninput()"], stdin=subprocess.PIPE) as child:
        while measure_processor() < before + 0.3 and child.poll() is None:
            time.sleep(0.05)
        assert child.poll() is None
        child.communicate(b"\n")
    assert measure_processor() >= before + 0.3


def test_each_part_gets_what_came_since_the_last():
    costs = Costs()
    costs.book("start")
    burn(0.4)
    costs.book("one")
    burn(0.2)
    costs.book("two")
    costs.book("one")
    assert (costs["one"], costs["two"]) == (pytest.approx(0.4, abs=0.09), pytest.approx(0.2, abs=0.09))
    assert str(costs).startswith(f"processor seconds: {costs.total():.0f} (") and "one 0, two 0" in str(costs)

"""A model in a process of its own: what it answers, and what becomes of one that crashes, hangs or says too much."""

import numpy as np
import pytest

from fewbits.deployment.served import Served
from fewbits.errors import ModelError

WORKER = """
import sys, time
from fewbits.deployment.frames import answer_feeds, take_stdout
out = take_stdout()
print("a library says hello on stdout")
what = sys.argv[1]
if what == "crash":
    sys.stderr.write("first\\nno such model\\n")
    sys.exit(3)
def predict(feeds):
    if what == "die" and feeds["x"][0] > 1:
        sys.stderr.write("out of memory\\n")
        sys.exit(4)
    if what == "hang":
        time.sleep(60)
    return {"y": feeds["x"] * 2, "named": feeds["x"][:0]}
answer_feeds(predict, out)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "some_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(what, limit=30.0):
        return Served(
            "some_worker", [what], time_limit_s=limit, what="The worker",
            failed=lambda code, said: ModelError(f"{code}: {said.strip().splitlines()[-1]}"),
        )  # fmt: skip

    return make


def test_feeds_are_answered_one_after_the_other(worker):
    with worker("work") as served:
        for value in (1.0, 2.5):
            found = served({"x": np.array([value, 3], np.float32)})
            np.testing.assert_array_equal(found["y"], np.array([2 * value, 6], np.float32))
            assert found["named"].shape == (0,)
    assert served._process.returncode == 0


def test_a_process_that_cannot_start_says_why(worker):
    with pytest.raises(ModelError, match="3: no such model"), worker("crash"):
        pass


def test_a_process_that_dies_at_a_feed_says_why(worker):
    with worker("die") as served:
        served({"x": np.array([1.0])})
        with pytest.raises(ModelError, match="4: out of memory"):
            served({"x": np.array([2.0])})


def test_a_process_that_hangs_is_ended(worker):
    with worker("hang", 0.5) as served, pytest.raises(ModelError, match=r"The worker took longer than 0\.5 s: allow"):
        served({"x": np.array([1.0])})
    assert served._process.returncode is not None

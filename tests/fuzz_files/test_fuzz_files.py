"""Damaged files of every kind: a verb reads them, or refuses them in one line; nothing else happens.

What each kind is, and what is done with it: `file_kinds.py`. `benchmarks/fuzz_files.py` runs the same and counts.
"""

import os
from pathlib import Path

import pytest
from file_kinds import KINDS
from file_seeds import make_seeds
from fuzzing import Tally, make_plan, run

CASES, MANY = 300, 10_500
NEEDS_TORCH = ("checkpoint of training", "weights of a module")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds(folder, with_torch=False)
    return folder


def tallies(plan, seeds: Path, scratch: Path) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for outcome in run(plan, seeds, scratch):
        found.setdefault(outcome.kind, Tally()).add(outcome)
    return found


def test_damaged_files_are_read_or_refused_in_one_line(seeds, tmp_path):
    shares = {name: kind.share for name, kind in KINDS.items() if name not in NEEDS_TORCH}
    found = tallies(make_plan(shares, CASES), seeds, tmp_path)
    assert set(found) == set(shares)
    assert sum(one.tried for one in found.values()) >= CASES
    assert not [said for one in found.values() for said in (*one.unexpected, *one.crashed)]
    # the damage is neither so small that nothing notices it nor so large that nothing is read
    assert sum(one.refused for one in found.values()) > CASES / 2
    assert sum(one.read for one in found.values()) > CASES / 20
    assert max(one.peak_mb for one in found.values()) < 512


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_damaged_files(tmp_path):
    pytest.importorskip("torch")
    make_seeds(tmp_path / "seeds", with_torch=True)
    plan = make_plan({name: kind.share for name, kind in KINDS.items()}, MANY)
    found = tallies(plan, tmp_path / "seeds", tmp_path / "scratch")
    assert sum(one.tried for one in found.values()) >= 10_000
    assert not [said for one in found.values() for said in (*one.unexpected, *one.crashed)]


def test_a_child_that_dies_is_a_crash_of_its_case_and_the_others_go_on(seeds, tmp_path, monkeypatch):
    """The harness itself: `FUZZ_DIE_AT` lets the child kill itself in the case of that number."""
    monkeypatch.setitem(os.environ, "FUZZ_DIE_AT", "1")
    ends = [outcome.end for outcome in run([("settings", number) for number in range(3)], seeds, tmp_path)]
    assert ends[1] == "crashed"
    assert "crashed" not in (ends[0], ends[2])

"""`auto --memory`: what does not fit is refused, or done otherwise, before it begins."""

import importlib
import json

import pytest
from auto_cases import auto_of, quickly, steps_of

from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.improvement.methods import Effort
from fewbits.reporting.preflight_record import Preflight
from fewbits.workflow.ceiling import Room

USUAL = Effort()


def told(step1_mb=500.0, *, litemp=800.0, improve=3000.0, waiting=2000.0) -> Preflight:
    return Preflight(
        1.0, 3000.0, {}, 8, None, (), (), 8, None, (), step1_mb, {"litemp": litemp, "improve": improve}, waiting
    )


def test_without_a_ceiling_all_is_as_usual():
    assert Room.within(None, told()) == Room() == Room("auto", USUAL, ())


def test_what_fits_is_as_usual():
    room = Room.within(4_000_000_000, told())
    assert (room.ranking, room.effort) == ("auto", USUAL)
    assert room.notes == ("Memory for training is not told beforehand, and --memory does not hold there.",)


def test_activations_wait_in_files_where_they_do_not_fit():
    room = Room.within(1_500_000_000, told())
    assert (room.ranking, room.effort) == ("auto", Effort(ceiling=500_000_000))


def test_what_does_not_fit_is_done_otherwise_or_left_out():
    room = Room.within(700_000_000, told())
    assert (room.ranking, room.effort) == ("brute-force", None)
    assert "one pass may take 800 MB" in room.notes[1]
    assert "Better weights are left out, since they may take 1000 MB" in room.notes[2]


def test_a_step_1_that_does_not_fit_is_refused_with_the_figure():
    with pytest.raises(SpecError, match=r"Step 1 is expected to take 500 MB, and --memory allows 400 MB: allow more"):
        Room.within(400_000_000, told())


def test_a_system_that_does_not_tell_memory_is_said():
    with pytest.raises(SpecError, match="this system does not tell what a process takes"):
        Room.within(400_000_000, told(None))


def test_a_run_within_too_little_is_refused_before_step_1(tiny, tmp_path):
    with quickly(is_checked=True), pytest.raises(SpecError, match="and --memory allows 1 MB"):
        auto_of(tiny, tmp_path / "run", memory="1MB")
    assert not (tmp_path / "run" / names.RECORD).exists()


def test_a_run_ranks_by_brute_force_where_one_pass_does_not_fit(tiny, tmp_path):
    pytest.importorskip("torch")
    with quickly(has_torch=True) as patch:
        known = told(100.0, litemp=800.0, improve=900.0, waiting=0.0)
        patch.setattr(importlib.import_module("fewbits.workflow.auto"), "preflight", lambda *of, **how: known)
        record = auto_of(tiny, tmp_path / "run", memory="700MB").record
    assert steps_of(record) == ["baseline", "litemp", "stop"]
    assert json.loads((tmp_path / "run" / "litemp" / names.RECORD).read_text())["ranking"] == "brute-force"
    assert "Groups are ranked by brute force, since one pass may take 800 MB." in record.notes
    assert "--memory 700MB" in record.command

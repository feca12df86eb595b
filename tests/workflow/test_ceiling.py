"""`--memory`: what does not fit is refused, or done otherwise, before it begins."""

import importlib
import json
import re
from unittest import mock

import numpy as np
import onnx.parser
import pytest
from auto_cases import auto_of, quickly, steps_of

from fewbits.artifact import names
from fewbits.errors import SpecError
from fewbits.improvement.methods import Effort, parse_methods
from fewbits.reporting.preflight_record import Preflight
from fewbits.runtime.memory import Ceiling
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import RunOptions
from fewbits.training.schedule import Training
from fewbits.workflow import ceiling
from fewbits.workflow.calibrate import batch_size_for, calibrate_subject
from fewbits.workflow.ceiling import (
    BALANCING,
    BLOCKS,
    LEARNING,
    ONE_PASS,
    ROUNDING,
    TRAINING,
    Load,
    Room,
    hold,
    later_steps,
)
from fewbits.workflow.stages import Stages
from fewbits.workflow.subject import open_subject


def told(step1_mb=500.0, *, litemp=800.0, improve=3000.0, waiting=2000.0) -> Preflight:
    return Preflight(
        1.0, 3000.0, {}, 8, None, (), (), 8, None, (), step1_mb, {"litemp": litemp, "improve": improve}, waiting
    )


def test_without_a_ceiling_all_is_as_usual():
    assert Room.within(None, told()) == Room() == Room("auto", may_improve=True, notes=())


def test_what_fits_is_as_usual():
    room = Room.within(Ceiling(1_500_000_000), told())
    assert (room.ranking, room.may_improve) == ("auto", True)
    assert room.notes == ("Memory for training is not told beforehand, and --memory does not hold there.",)


def test_what_does_not_fit_is_done_otherwise_or_left_out():
    room = Room.within(Ceiling(700_000_000), told())
    assert (room.ranking, room.may_improve) == ("brute-force", False)
    assert "one pass may take 800 MB" in room.notes[1]
    assert "Better weights are left out, since they may take 1000 MB" in room.notes[2]


def test_a_step_1_that_does_not_fit_is_refused_with_the_figure():
    with pytest.raises(SpecError, match=r"Step 1 is expected to take 500 MB, and --memory allows 400 MB: allow more"):
        Room.within(Ceiling(400_000_000), told())


def test_a_system_that_does_not_tell_memory_is_said(monkeypatch):
    monkeypatch.setattr("fewbits.runtime.memory.resident_mb", lambda: None)
    with pytest.raises(SpecError, match="this system does not tell what a process takes"):
        Ceiling.of("400MB")


def test_a_run_within_too_little_is_refused_before_step_1(tiny, tmp_path):
    with quickly(is_checked=True), pytest.raises(SpecError, match="and --memory allows 1 MB"):
        auto_of(tiny, tmp_path / "run", memory="1MB")
    assert not (tmp_path / "run" / names.RECORD).exists()


def test_a_run_ranks_by_brute_force_where_one_pass_does_not_fit(tiny, tmp_path):
    pytest.importorskip("torch")
    with quickly(has_torch=True) as patch:
        known = told(100.0, litemp=8000.0, improve=9000.0, waiting=0.0)
        patch.setattr(importlib.import_module("fewbits.workflow.auto"), "preflight", lambda *of, **how: known)
        record = auto_of(tiny, tmp_path / "run", memory="7000MB").record
    assert steps_of(record) == ["baseline", "litemp", "stop"]
    assert json.loads((tmp_path / "run" / "litemp" / names.RECORD).read_text())["ranking"] == "brute-force"
    assert "Groups are ranked by brute force, since one pass may take 8000 MB." in record.notes
    assert "--memory 7000MB" in record.command


@pytest.fixture
def subject(tiny):
    return open_subject(tiny.model, data=tiny.calib, run_options=RunOptions(threads=1))


def test_without_a_ceiling_the_subject_stays_as_it_is(subject, caplog):
    assert hold(subject, None, Load(24)) is subject
    assert not caplog.records


def test_more_than_the_system_has_left_is_said_once(subject, monkeypatch, caplog):
    monkeypatch.setattr(ceiling, "available_mb", lambda: 1.0)
    assert hold(subject, None, Load(24)) is subject
    (note,) = caplog.messages
    assert note.startswith("The run is expected to take ")
    assert "and 1 MB are left: a smaller --batch-size" in note


def test_a_large_ceiling_changes_nothing_but_what_is_kept(subject):
    found = hold(subject, Ceiling(10**11), Load(24))
    assert found.options.at_once == found.runner.at_once == batch_size_for(subject)
    assert found.ceiling is not None
    assert found.ceiling.kept_bytes > 10**9


def test_samples_run_one_at_a_time_just_above_what_is_told(subject):
    with pytest.raises(SpecError, match=r"expected to take \d+ MB at least") as refused:
        hold(subject, Ceiling(1), Load(24))
    least = int(re.search(r"take (\d+) MB", str(refused.value))[1])
    assert hold(subject, Ceiling((least + 3) * 10**6), Load(24)).options.at_once >= 1


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (Load(24, (ONE_PASS,)), "The one-pass step .* rank by brute force"),
        (Load(24, (ROUNDING,)), "The rounding step .* --batch-size"),
        (Load(24, (BALANCING,)), r"The balance step .*--method gptq"),
        (Load(24, (ROUNDING, LEARNING)), r"The adaround step .*--method gptq"),
        (Load(24, (TRAINING,), training=Training()), "The training step .* --train-batch"),
        (Load(24, workers=Workers(4)), "The run .* or take fewer --workers"),
    ],
)
def test_a_refusal_names_the_way_out_of_the_step_that_takes_most(subject, load, message):
    with pytest.raises(SpecError, match=message):
        hold(subject, Ceiling(1), load)


def told_mb(subject, load) -> int:
    """Return what is told that a verb takes at least, in a process that itself does not move."""
    still = mock.patch.object(ceiling, "resident_mb", return_value=300.0)
    with still, pytest.raises(SpecError) as refused:
        hold(subject, Ceiling(1), load)
    return int(re.search(r"take (\d+) MB", str(refused.value))[1])


@pytest.fixture
def images(tmp_path):
    """Return how to open a network whose inputs are open, with images of given heights and widths."""

    def opened(*sizes):
        rng = np.random.default_rng(0)
        feeds = [{"image": rng.standard_normal((1, 3, *size)).astype(np.float32)} for size in sizes]
        (tmp_path / "open.onnx").write_bytes(onnx.parser.parse_model(OPEN).SerializeToString())
        return open_subject(tmp_path / "open.onnx", data=lambda: iter(feeds), run_options=RunOptions(threads=1))

    return opened


OPEN = """
<ir_version: 10, opset_import: ["" : 21]>
images (float[N, 3, H, W] image) => (float[N, 3, H, W] y) { r = Relu (image) y = Sigmoid (r) }
"""


def test_training_is_told_for_no_more_samples_than_there_are(images):
    many = told_mb(images(*[(600, 800)] * 8), Load(400, (TRAINING,), training=Training(batch_size=8)))
    few = told_mb(images((600, 800), (600, 800)), Load(400, (TRAINING,), training=Training(batch_size=8)))
    each = 3 * 600 * 800 * 4 / 1e6  # of a tensor of one sample
    # of six samples more: three tensors with gradients, and input and output, also for the ranges that are tried
    assert many - few == pytest.approx(6 * (3 * 3 + 2 + 2) * each, abs=1)


def test_training_on_windows_is_told_for_what_a_step_reads(images):
    def told(window):
        training = Training(batch_size=32, window=window)
        return told_mb(images((600, 800), (500, 800), *[(300, 300)] * 6), Load(400, (TRAINING,), training=training))

    each = 3 * 3 * 3 * 600 * 800 * 4 / 1e6
    assert told(None) == pytest.approx(told(0), abs=1)  # the windows of a step are no more than the largest sample
    assert told(512) == pytest.approx(told(0), abs=1)
    assert told_mb(images(*[(600, 800)] * 8), Load(400, (TRAINING,), training=Training())) - told(0) > 6 * each


def test_methods_say_what_they_do_that_takes_memory():
    methods = parse_methods("cle,balance,bias-correction,gptq,adaround,qat")
    assert later_steps(methods, Effort()) == (BALANCING, ROUNDING, LEARNING, TRAINING)
    assert later_steps(methods, Effort(granularity="block")) == (BALANCING, ROUNDING, BLOCKS, TRAINING)


def test_workers_are_counted_with_the_process(subject):
    alone, four = hold(subject, Ceiling(10**11), Load(24)), hold(subject, Ceiling(10**11), Load(24, workers=Workers(4)))
    assert alone.ceiling.size_bytes - four.ceiling.size_bytes > 4 * 150 * 10**6


def test_calibration_in_pieces_sees_the_same(tiny):
    def seen(at_once):
        options = RunOptions(threads=1, at_once=at_once)
        subject = open_subject(tiny.model, data=tiny.calib, run_options=options, batch_size=24)
        return calibrate_subject(subject, samples=24, stages=Stages()).statistics

    whole, pieces = seen(0), seen(5)
    for name, histogram in whole.histograms.items():
        other = pieces.histograms[name]
        assert (histogram.low, histogram.high) == (other.low, other.high)
        np.testing.assert_array_equal(histogram.counts, other.counts)
    for node, moment in whole.moments.items():
        assert moment.rows == pieces.moments[node].rows
        np.testing.assert_array_equal(moment.mean(), pieces.moments[node].mean())
        np.testing.assert_array_equal(moment.matrix(), pieces.moments[node].matrix())

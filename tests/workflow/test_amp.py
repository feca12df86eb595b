"""Automatic mixed precision on the tiny network: what is found, what lies on disk, and what is not found out twice."""

import shutil
from collections import Counter
from itertools import combinations

import numpy as np
import onnx
import pytest
from amp_cases import BRUTE, THREADS, TWO, files_of, scored
from onnx import numpy_helper
from pasted import assert_parses

import fewbits
from fewbits.artifact import names
from fewbits.errors import OutputError, SpecError
from fewbits.quantization.groups import find_groups, profile_of
from fewbits.reporting.amp_record import AmpRecord
from fewbits.reporting.read import read_any
from fewbits.reporting.record import read_record
from fewbits.runtime.session import RunOptions
from fewbits.spec.precision import Precision
from fewbits.workflow import ready
from fewbits.workflow.amp import amp
from fewbits.workflow.export import export
from fewbits.workflow.quantized import quantize_calibrated
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.verify import verify


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("amp") / "run"
    return amp(tiny.model, data=tiny.calib, min_sqnr=51.5, output=folder, **BRUTE)


def groups_of(result):
    return find_groups(result.calibration.model.graph, result.calibration.target)


# what is found


def test_the_cheapest_scored_profile_within_the_goal_is_chosen(run):
    record = run.record
    passed = [point for point in scored(record) if point.score >= 51.5]
    assert record.is_accepted
    assert record.is_finished
    assert run.chosen == min(passed, key=lambda point: point.cost)
    assert {point.status for point in passed} == {"ok"}
    assert {p.status for p in scored(record) if p not in passed} == {"poor"}
    assert len(set(run.chosen.shares)) > 1
    assert record.points == tuple(sorted(record.points, key=lambda point: (point.cost, point.number)))
    assert record.evaluations == len(scored(record)) <= 12
    assert run.evaluations == record.evaluations + 1  # and the float model


def test_no_two_of_the_cheap_groups_in_16_bits_would_have_been_enough(run):
    """All of these cost less than the chosen point, which lifts the four of them."""
    assert run.chosen.shares["w8a16"] == 4 / 6
    cheap = [group for group in groups_of(run) if group.name in ("add", "mul", "pool", "head")]
    for pair in combinations(cheap, 2):
        lifted = profile_of(dict.fromkeys(pair, Precision.parse("w8a16")), Precision.parse("w8a8"))
        made = quantize_calibrated(run.calibration, lifted, ranges="minmax")
        assert run.scoring.score(open_graph(made.model, RunOptions(threads=1))).value < 51.5


def test_points_tell_what_their_profiles_come_to(run):
    record = run.record
    for point in record.points:
        counts = Counter(point.profile.values())
        assert point.shares == {p: n / 6 for p, n in counts.items()}
        assert set(point.profile) == {group.name for group in record.groups}
        assert point.predicted > 0
    for point in scored(record):
        assert point.folder == f"point{point.number:02}"
        assert point.measured == pytest.approx(point.predicted, rel=2)
        # without conversions, the cost is what the model's bit operations are
        assert point.cost - point.conversion_cost == pytest.approx(point.bit_operations)
    curve = [point for point in record.points if point.origin == "curve"]
    assert len(curve) > 5
    assert [p.predicted for p in curve] == sorted((p.predicted for p in curve), reverse=True)
    assert sum(group.nodes for group in record.groups) == 8  # all but Erf, which this target leaves in float
    assert sum(group.share_macs for group in record.groups) == pytest.approx(1)
    assert record.rank_correlation > 0.8
    assert record.float_row.score == run.float_score.value


def written_types(path):
    """Return node -> type of activations, as the edge in front of its first input says."""
    model = onnx.load(path)
    makers = {output: node for node in model.graph.node for output in node.output}
    points = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.input else None
        if maker is None or node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            continue
        if maker.op_type == "DequantizeLinear":
            kind = points[maker.input[2]]
            found[node.name] = {onnx.TensorProto.UINT8: "w8a8", onnx.TensorProto.UINT16: "w8a16"}[kind]
        elif maker.op_type == "Cast":
            found[node.name] = "fp16"
    return found


def test_artifacts_hold_the_profiles_of_the_record(run):
    seen = set()
    for point in scored(run.record):
        folder = run.output / point.folder
        record = read_record(folder / names.RECORD)
        expected = {node: point.profile[group.name] for group in groups_of(run) for node in group.nodes}
        others = {node: record.profile.get(node, record.options["precision"]) for node in expected}
        assert others == expected
        types = written_types(folder / names.ARTIFACT)
        for name in ("conv1", "conv2", "head", "add"):
            assert types.get(name, "fp16") == expected[name], (point.number, name)
        seen |= set(expected.values())
    assert seen == {"w8a8", "w8a16", "fp16"}
    assert read_record(run.output / names.RECORD).profile == read_record(
        run.output / run.chosen.folder / names.RECORD
    ).profile  # fmt: skip


def test_a_point_is_what_quantize_makes_of_its_record(run, tiny, tmp_path):
    record = read_record(run.output / run.chosen.folder / names.RECORD)
    again = fewbits.quantize(
        tiny.model, precision=record.options["precision"], profile=record.options["profile"], data=tiny.calib,
        metric="sqnr", ranges="minmax", output=tmp_path / "q", **THREADS,
    )  # fmt: skip
    assert again.score.value == run.chosen.score
    assert files_of(tmp_path / "q") == files_of(run.output)


# what lies on disk


def test_the_folder_is_that_of_the_chosen_point(run):
    chosen = run.output / run.chosen.folder
    assert files_of(run.output) == files_of(chosen)
    assert (run.output / names.COMMANDS).read_bytes() == (chosen / names.COMMANDS).read_bytes()
    folders = {path.name for path in run.output.iterdir() if path.is_dir()}
    assert folders == {point.folder for point in scored(run.record)}
    assert not [path for path in run.output.iterdir() if path.name.startswith(".")]
    assert verify(run.output).passed
    assert (run.output / "report.html").stat().st_size > 10000


def test_the_record_comes_back(run):
    record = read_any(run.output / names.RECORD)
    assert isinstance(record, AmpRecord)
    assert (record.points, record.chosen, record.groups) == (run.record.points, run.record.chosen, run.record.groups)
    assert (record.sensitivity, record.candidates) == ("brute-force", ("w8a8", "w8a16", "fp16"))
    assert record.cost == {"name": "bitops", "unit": "bit operations", "is_estimate": False}
    for why, command in record.next_steps:
        assert why
        assert_parses(command)


def test_every_point_with_files_can_be_exported(run, tmp_path):
    for point in (None, *(point.number for point in scored(run.record))):
        handed = export(run.output, output=tmp_path / f"{point}", point=point)
        number = run.record.chosen if point is None else point
        assert files_of(handed.output) == files_of(run.output / f"point{number:02}")
    assert verify(tmp_path / f"{run.record.points[0].number}").passed


def test_points_without_files_are_not_exported(run, tmp_path):
    predicted = next(point for point in run.record.points if point.folder is None)
    known = ", ".join(str(point.number) for point in scored(run.record))
    with pytest.raises(SpecError, match=f"^Point {predicted.number} was predicted and not scored, .* are {known}.$"):
        export(run.output, output=tmp_path / "out", point=predicted.number)
    with pytest.raises(SpecError, match=f"has no point 99: those with files are {known}"):
        export(run.output, output=tmp_path / "out", point=99)
    with pytest.raises(SpecError, match="A point has its precisions already"):
        export(run.output, output=tmp_path / "out", point=1, precision="w8a8")
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_what_was_scored_are_not_exported(run, tmp_path):
    shutil.copytree(run.output, tmp_path / "run")
    point = scored(run.record)[1]
    artifact = tmp_path / "run" / point.folder / names.ARTIFACT
    data = bytearray(artifact.read_bytes())
    data[-20] ^= 1
    artifact.write_bytes(data)
    with pytest.raises(OutputError, match="is missing or is not the file that was scored"):
        export(tmp_path / "run", output=tmp_path / "out", point=point.number)
    assert not (tmp_path / "out").exists()
    export(tmp_path / "run", output=tmp_path / "out")


def test_other_runs_have_no_points(quantized_folder, tmp_path):
    with pytest.raises(SpecError, match="is a run of quantize, which has no points: leave --point out"):
        export(quantized_folder, output=tmp_path / "out", point=1)


# what else can be asked for


def test_the_cheapest_profile_of_all_is_enough(tiny, tmp_path):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=40, output=tmp_path / "run", **BRUTE)
    (point,) = result.record.points
    assert point.shares == {"w8a8": 1.0}
    assert (result.record.is_accepted, result.evaluations) == (True, 2)
    assert result.record.reason == "the cheapest profile of all is within the goal (point 1: 100 % w8a8; 47.71 dB)."
    with pytest.raises(SpecError, match="has no point 2: those with files are 1"):
        export(tmp_path / "run", output=tmp_path / "out", point=2)


def test_where_nothing_is_within_the_goal_the_closest_is_kept(tiny):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=150, candidates=TWO, **BRUTE)
    assert not result.record.is_accepted
    assert result.record.is_finished
    assert result.chosen.score == max(point.score for point in scored(result.record))
    assert result.record.reason.startswith("no profile that was scored is within the goal; point ")
    assert result.output is None
    assert {point.folder for point in result.record.points} == {None}
    assert [why for why, _ in result.record.next_steps] == [
        "offer a wider precision", "see what the model is sensitive to",
    ]  # fmt: skip
    for _, command in result.record.next_steps:
        assert_parses(command)


def test_what_is_kept_has_its_precision_in_every_point(tiny):
    result = amp(
        tiny.model, data=tiny.calib, min_sqnr=58, candidates=TWO, keep=["fp16:head", "fp32:mul"],
        at_least=["w8a16:conv2"], **BRUTE,
    )  # fmt: skip
    for point in result.record.points:
        assert (point.profile["head"], point.profile["mul"]) == ("fp16", "fp32")
        assert point.profile["conv2"] == "w8a16"
    assert {point.profile["conv1"] for point in result.record.points} == {"w8a8", "w8a16"}


@pytest.mark.parametrize("text", ["w8a16=34%", "w8a16=34%macs"])
def test_shares_are_not_exceeded(tiny, text):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=60, candidates=TWO, max_share=[text], **BRUTE)
    macs = {group.name: group.share_macs for group in result.record.groups}
    shares = [
        sum(macs[g] if "macs" in text else 1 / 6 for g, p in point.profile.items() if p == "w8a16")
        for point in result.record.points
    ]
    assert max(shares) <= 0.34 + 1e-9
    assert max(shares) > 0.2
    assert not result.record.is_accepted


def test_a_budget_alone_asks_for_the_least_drop(tiny):
    result = amp(tiny.model, data=tiny.calib, budget="60%", **BRUTE)
    record = result.record
    assert record.budget == pytest.approx(0.6 * 12982272, rel=1e-3)  # bit operations of all in fp16
    assert result.chosen.score == max(point.score for point in scored(record)) > 60
    assert all(point.cost <= record.budget for point in record.points)
    assert record.is_accepted
    assert record.ended == "the most accurate profile within the budget is known"


def test_a_budget_alone_has_a_reason_of_its_own(tiny):
    """The cheaper point is within the default goal of 20 dB: it must not be said that it is not."""
    result = amp(tiny.model, data=tiny.calib, budget="60%", **BRUTE)
    assert all(point.status == "ok" for point in scored(result.record))
    assert "is not (point" not in result.record.reason


def test_a_budget_in_the_unit_of_the_cost_and_a_goal(tiny):
    result = amp(tiny.model, data=tiny.calib, budget=3.4e6, min_sqnr=60, **BRUTE)
    assert result.record.budget == 3.4e6
    assert max(point.cost for point in result.record.points) <= 3.4e6
    assert not result.record.is_accepted
    why, command = result.record.next_steps[0]
    assert why == "look for a profile without a budget"
    assert "--budget" not in command
    with pytest.raises(
        SpecError, match=r"No assignment costs 1000 bit operations or less: the cheapest possible costs"
    ):
        amp(tiny.model, data=tiny.calib, budget=1000, **BRUTE)


def test_a_time_that_is_too_short_still_leaves_an_artifact(tiny, tmp_path):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=58, time_limit=0.01, output=tmp_path / "run", **BRUTE)
    assert result.record.ended == "the 0.01 s that were allowed have no room for another round"
    assert result.record.is_finished
    assert len(scored(result.record)) == 1
    assert not result.record.is_accepted
    assert verify(tmp_path / "run").passed
    assert read_any(tmp_path / "run" / names.RECORD).points == result.record.points


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_profiles_are_scored_than_allowed(tiny, most):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=58, candidates=TWO, max_evaluations=most, **BRUTE)
    assert len(scored(result.record)) == result.record.evaluations == most
    assert "used up" in result.record.ended


def test_bytes_and_tables_are_costs(tiny, tmp_path):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=51.5, candidates=TWO, cost="bytes", **BRUTE)
    assert result.record.cost["name"] == "bytes"
    costs = {"conv1": 1, "conv2": 1, "add": 9, "mul": 9, "pool": 9, "head": 9}
    rows = [f"{group},{p},{cost if p == 'w8a16' else 0.1}" for group, cost in costs.items() for p in TWO]
    (tmp_path / "mine.csv").write_text("\n".join(["group,precision,cost", *rows]) + "\n")
    mine = amp(tiny.model, data=tiny.calib, min_sqnr=51.5, candidates=TWO, cost=str(tmp_path / "mine.csv"), **BRUTE)
    for point in mine.record.points:
        assert point.cost == pytest.approx(sum(costs[g] if p == "w8a16" else 0.1 for g, p in point.profile.items()))
    # convolutions are cheap to lift now, and the rest is not
    assert mine.chosen.profile["conv1"] == "w8a16"
    assert min(p.cost for p in scored(mine.record) if p.score >= 51.5) == mine.chosen.cost < 30


def test_four_bit_weights_are_candidates(tiny):
    result = amp(tiny.model, data=tiny.calib, min_sqnr=40, candidates=("w4a8", "w8a8", "w8a16"), **BRUTE)
    assert result.record.is_accepted
    assert result.record.points[0].shares == {"w4a8": 1.0}
    assert "w4a8" in result.chosen.shares
    assert result.chosen.score >= 40 > result.record.points[0].score


def overflowing(tiny, path):
    """Write the network with activations of a million between conv1 and the head, which float16 does not hold."""
    model = onnx.load(tiny.model)
    for tensor in model.graph.initializer:
        factor = {"w1": 1e6, "b1": 1e6, "w2": 1e-6, "w3": 1e-6}.get(tensor.name, 1)
        tensor.CopyFrom(numpy_helper.from_array(np.float32(numpy_helper.to_array(tensor) * factor), tensor.name))
    onnx.save(model, path)
    return path


def test_groups_that_overflow_in_float16_take_something_else(tiny, tmp_path):
    model = overflowing(tiny, tmp_path / "big.onnx")
    result = amp(model, data=tiny.calib, min_sqnr=55, **BRUTE)
    assert result.record.is_accepted
    assert {p for point in result.record.points for p in point.profile.values()} <= set(TWO)
    assert result.record.notes[0] == "fp16 was left out: no group of this network can run in it on qnn-htp-v73."


def test_a_target_without_float16_is_noted(tiny, tmp_path):
    target = tmp_path / "own.toml"
    target.write_text('extends = "qnn-htp-v73"\ndescription = "no float16"\nfp16 = false\n')
    result = amp(tiny.model, data=tiny.calib, min_sqnr=51.5, target=target, **BRUTE)
    assert result.record.is_accepted
    assert {p for point in result.record.points for p in point.profile.values()} == set(TWO)
    assert any(note.startswith("fp16 was left out: no group of this network can run") for note in result.record.notes)


def test_predictions_with_gradients(tiny, tmp_path):
    pytest.importorskip("torch")
    options = {**BRUTE, "ranking": "one-pass", "candidates": TWO, "data": tiny.calib, "min_sqnr": 51.5}
    result = amp(tiny.model, **options, output=tmp_path / "run")
    assert result.record.sensitivity == "one-pass"
    assert (result.record.is_accepted, result.chosen.shares["w8a16"] < 1) == (True, True)
    again = amp(tiny.model, **options, output=tmp_path / "run")
    assert (again.evaluations, again.record.points) == (0, result.record.points)


# what is refused before anything runs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": ["w8a8", "w9a9"]}, "Unknown precision 'w9a9'"),
        ({"candidates": ["w8a8"]}, "There is nothing to choose from"),
        ({"budget": "cheap"}, "The budget 'cheap' is no cost"),
        ({"max_share": ["w8a16"]}, "is no share"),
        ({"time_limit": "soon"}, "The time 'soon' is none"),
        ({"cost": "bitop"}, "Unknown cost 'bitop'.*Did you mean 'bitops'"),
        ({"cost": "qnn-estimate"}, "needs a chip"),
        ({"ranking": "by-name"}, "Unknown ranking 'by-name'"),
        ({"rank_samples": 0}, "cannot be predicted from 0 samples"),
        ({"max_evaluations": 0}, "needs at least 1 evaluation, 1 at a time: not 0 and 2"),
        ({"at_once": 0}, "needs at least 1 evaluation, 1 at a time: not 12 and 0"),
        ({"max_drop": "a lot"}, "is no figure"),
        ({"min_sqnr": float("nan")}, "must be a number of decibels"),
        ({"ranges": "best"}, "best"),
        ({"metric": "best"}, "There is no metric 'best'"),
    ],
)
def test_options_are_refused_before_anything_runs(tiny, monkeypatch, tmp_path, options, message):
    monkeypatch.setattr(ready, "open_subject", None)
    with pytest.raises(SpecError, match=message):
        amp(tiny.model, data=tiny.calib, output=tmp_path / "o", **{**BRUTE, **options})
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ["fp16:haed"]}, "--keep: no node of the prepared graph matches 'haed'"),
        ({"at_least": ["fp16:haed"]}, "--at-least: no node of the prepared graph matches 'haed'"),
        ({"target": "qnn-htp-v69", "candidates": ["w8a8", "w16a16"]}, "w16a16"),
        ({"cost": "none.csv"}, "The table of costs 'none.csv' does not exist"),
        ({"max_share": ["w8a8=0%", "w8a16=0%", "fp16=0%"]}, "cannot hold together"),
    ],
)
def test_options_that_do_not_suit_the_network_are_refused(tiny, tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        amp(tiny.model, data=tiny.calib, output=tmp_path / "o", **{**BRUTE, "min_sqnr": 40, **options})
    assert not (tmp_path / "o" / names.RECORD).exists()

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pasted import assert_parses
from typer.testing import CliRunner

import fewbits
from fewbits.analysis.sensitivity import Figure, Sensitivity
from fewbits.artifact import names
from fewbits.cli.app import app
from fewbits.errors import FewbitsError, MissingExtraError, SpecError
from fewbits.quantization.groups import find_groups
from fewbits.reporting.litemp_record import LitempRecord
from fewbits.reporting.read import read_any
from fewbits.reporting.record import read_record
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE
from fewbits.workflow import brute_force, candidates, ready
from fewbits.workflow.export import export
from fewbits.workflow.litemp import litemp
from fewbits.workflow.verdict import Status
from fewbits.workflow.verify import verify

BRUTE = {"metric": "sqnr", "ranking": "brute-force", "run_options": RunOptions(threads=1)}
PERCENTS = (10, 20, 50, 80, 100)
# SQNR in dB: all in w8a8 47.7; 1, 2, 3, 5, 6 of the 6 groups in w8a16: 50.6, 51.1, 52.0, 55.0, 61.2


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litemp") / "run"
    return litemp(tiny.model, data=tiny.calib, percents=PERCENTS, min_sqnr=51.5, score_all=True, output=folder, **BRUTE)


def groups_of(result):
    calibration = result.calibration
    return {group.name: set(group.nodes) for group in find_groups(calibration.model.graph, calibration.target)}


def test_lifted_sets_grow_by_whole_groups(run):
    groups = groups_of(run)
    assert [len(step.groups) for step in run.steps] == [1, 2, 3, 5, 6]
    before: tuple[str, ...] = ()
    for step in run.steps:
        assert step.groups[: len(before)] == before
        before = step.groups
        nodes = set.union(*(groups[name] for name in step.groups))
        assert dict.fromkeys(nodes, "w8a16") == step.candidate.record.profile
        assert step.candidate.record.precision["w8a16"] == len(nodes)


def test_groups_are_lifted_in_the_order_of_what_lifting_wins(run):
    order = run.steps[-1].groups
    gains = [run.sensitivity.error(name, "w8a8") - run.sensitivity.error(name, "w8a16") for name in order]
    assert gains == sorted(gains, reverse=True)
    assert run.sensitivity.precisions == ("w8a8", "w8a16")


def test_every_percentage_is_what_quantize_makes_of_its_profile(run, tiny, tmp_path):
    step = run.steps[1].candidate
    options = step.record.options
    again = fewbits.quantize(
        tiny.model, precision=options["precision"], profile=options["profile"], data=tiny.calib, metric="sqnr",
        run_options=RunOptions(threads=1), output=tmp_path / "q",
    )  # fmt: skip
    assert again.score.value == step.score.value
    assert (tmp_path / "q" / names.ARTIFACT).read_bytes() == (run.output / "p20" / names.ARTIFACT).read_bytes()


def test_the_first_percentage_within_the_goal_is_accepted(run):
    assert [step.candidate.status is Status.OK for step in run.steps] == [False, False, True, True, True]
    assert run.accepted == 2
    assert run.best is run.steps[2].candidate
    assert run.record.reason.startswith("50 % of the groups in w8a16 are enough (w8a8 47.7 dB; w8a8 + 50 % w8a16 52.0")
    assert run.base.score.value < run.steps[0].candidate.score.value < run.steps[-1].candidate.score.value
    assert run.steps[-1].candidate.score.value == run.high.score.value


def test_the_output_folder_is_that_of_the_best_model(run, tmp_path):
    folders = {"p10", "p20", "p50", "p80", "p100", "w8a8", "w8a16"}
    assert {path.name for path in run.output.iterdir() if path.is_dir()} == folders
    for name in (names.ARTIFACT, names.FLOAT, names.ENCODINGS, names.SAMPLES, names.COMMANDS):
        assert (run.output / name).read_bytes() == (run.output / "p50" / name).read_bytes()
    for folder in (run.output, run.output / "p10", run.output / "w8a16"):
        assert verify(folder).passed
    assert read_record(run.output / names.RECORD).profile == run.best.record.profile
    handed = export(run.output, output=tmp_path / "out")
    assert (handed.precision, handed.record.verb) == ("w8a8", "litemp")
    assert verify(tmp_path / "out").passed
    assert fewbits.quantize(run.output, data={"image": np.ones((4, 3, 8, 8), np.float32)}, metric="sqnr").record


def test_record_comes_back(run):
    record = read_any(run.output / names.RECORD)
    assert isinstance(record, LitempRecord)
    assert (record.base, record.high, record.ranking, record.accepted) == ("w8a8", "w8a16", "brute-force", 2)
    assert [step.folder for step in record.steps] == ["p10", "p20", "p50", "p80", "p100"]
    assert [step.lifted for step in record.steps] == [step.groups for step in run.steps]
    assert record.base_row.status == "poor"
    assert record.high_row.score == run.high.score.value
    assert record.steps[-1].share_macs == pytest.approx(1.0)
    # conv1 216 weights, conv2 576 on 8 x 8 pixels; head 32: the head alone
    assert record.steps[0].share_macs == pytest.approx(32 / ((216 + 576) * 64 + 32))
    costs = [step.bit_operations for step in record.steps]
    assert costs == sorted(costs)
    assert record.base_row.bit_operations < costs[0]
    assert costs[-1] == record.high_row.bit_operations
    assert record.options["percents"] == [10, 20, 50, 80, 100]
    assert sum(stage == "calibrate" for stage in record.timings) == 1


def test_scoring_stops_at_the_first_percentage_within_the_goal(tiny):
    result = litemp(tiny.model, data=tiny.calib, percents=PERCENTS, min_sqnr=50.8, **BRUTE)
    assert [step.percent for step in result.steps] == [10, 20]
    assert result.accepted == 1
    assert result.output is None
    assert result.record.steps[0].folder is None


def test_nothing_is_lifted_where_the_base_is_within_the_goal(tiny, tmp_path):
    result = litemp(tiny.model, data=tiny.calib, min_sqnr=40, output=tmp_path / "o", **BRUTE)
    assert result.steps == ()
    assert (result.accepted, result.sensitivity, result.best) == (None, None, result.base)
    assert "w8a8 itself is within the goal, nothing needs lifting (w8a8 47.7 dB)" in result.record.reason
    artifacts = [tmp_path / "o" / part / names.ARTIFACT for part in ("", "w8a8")]
    assert artifacts[0].read_bytes() == artifacts[1].read_bytes()
    assert [why for why, _ in result.record.next_steps] == ["check what is handed over"]


def test_nothing_is_lifted_where_the_higher_precision_cannot_help(tiny):
    result = litemp(tiny.model, data=tiny.calib, min_sqnr=70, **BRUTE)
    assert (result.steps, result.sensitivity) == ((), None)
    assert "even all of the network in w8a16 is not within the goal" in result.record.reason
    assert "w8a16 61.2 dB" in result.record.reason
    assert result.best is result.high
    ((why, command),) = result.record.next_steps
    assert why == "lift to w16a16"
    assert "--high w16a16" in command


def test_the_higher_precision_is_the_best_where_no_percentage_suffices(tiny):
    result = litemp(tiny.model, data=tiny.calib, percents=(10, 40), min_sqnr=60, **BRUTE)
    assert (len(result.steps), result.accepted, result.best) == (2, None, result.high)
    assert result.record.reason.startswith("40 % of the groups in w8a16 are not enough, all of them are (w8a8 + 40 %")
    assert result.record.next_steps[0][0] == "lift more than 40 % of the groups"
    assert "--percent 60,80" in result.record.next_steps[0][1]


def test_float16_is_a_higher_precision(tiny):
    result = litemp(tiny.model, data=tiny.calib, high="fp16", percents=(50,), min_sqnr=51.5, **BRUTE)
    assert result.accepted == 0
    assert result.best.record.precision == {"w8a8": 5, "fp16": 3, "fp32": 1}
    assert set(result.best.record.profile.values()) == {"fp16"}


def test_percentages_that_lift_no_more_are_not_scored_again(tiny):
    result = litemp(tiny.model, data=tiny.calib, percents=(5, 10, 15, 20), min_sqnr=60, **BRUTE)
    assert [step.percent for step in result.steps] == [5, 20]
    assert "10 % lifts no more than 1 groups: it was not scored again." in result.record.notes


def test_lifting_stops_at_a_share_of_the_macs(tiny):
    result = litemp(tiny.model, data=tiny.calib, percents=(50, 80, 100), most_macs=20, min_sqnr=60, **BRUTE)
    # conv1 has 27 % of them: it stays out, and so does what comes after it
    (first, second) = result.steps
    assert len(first.groups) == 3
    assert "conv1" not in second.groups
    assert len(second.groups) == 4
    assert any("within 20 % of the multiply-accumulates" in note for note in result.record.notes)


def test_a_limit_of_macs_needs_known_shapes():
    from fewbits.workflow.lifting import lifted

    with pytest.raises(SpecError, match="shapes of the network are not known"):
        lifted((), 10, shares=None, most_macs=5)


def test_a_given_sensitivity_decides_the_order(tiny, run):
    order = ("conv2", "pool", "conv1", "add", "mul", "head")
    figures = {(name, "w8a8", "all"): Figure(1 / (i + 1)) for i, name in enumerate(order)}
    figures |= {(name, "w8a16", "all"): Figure(0.0) for name in order}
    given = replace(run.sensitivity, figures=figures, method="one-pass")
    result = litemp(tiny.model, data=tiny.calib, percents=(40,), min_sqnr=60, sensitivity=given, **BRUTE)
    assert result.steps[0].groups == order[:3]
    assert result.record.ranking == "one-pass"
    assert result.record.options["sensitivity"] == "one-pass"


def test_a_foreign_or_incomplete_sensitivity_is_refused(tiny, run):
    other = replace(run.sensitivity, groups=tuple(replace(g, nodes=("elsewhere",)) for g in run.sensitivity.groups))
    with pytest.raises(SpecError, match="of another network: this one has no node 'elsewhere'"):
        litemp(tiny.model, data=tiny.calib, min_sqnr=60, sensitivity=other, **BRUTE)
    with pytest.raises(SpecError, match="in 'fp16': it was found for w8a8, w8a16"):
        litemp(tiny.model, data=tiny.calib, high="fp16", min_sqnr=60, sensitivity=run.sensitivity, **BRUTE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, FewbitsError("no")])
def test_finished_percentages_stay_where_the_run_is_stopped(tiny, tmp_path, monkeypatch, error):
    original = candidates.quantize_calibrated
    made, runs = [], []

    def stopping(calibration, profile, **options):
        made.append(profile)
        if len(made) == 5:  # w8a16, w8a8, 10 %, 20 %
            raise error
        return original(calibration, profile, **options)

    def counting(*arguments):
        runs.append(arguments)
        return open_graph(*arguments)

    open_graph = brute_force.open_graph
    monkeypatch.setattr(brute_force, "open_graph", counting)
    monkeypatch.setattr(candidates, "quantize_calibrated", stopping)
    options = {**BRUTE, "data": tiny.calib, "percents": PERCENTS, "min_sqnr": 60, "output": tmp_path / "run"}
    with pytest.raises((KeyboardInterrupt, FewbitsError)):
        litemp(tiny.model, **options)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["p10", "p20", STORE, "w8a16", "w8a8"]
    assert verify(tmp_path / "run" / "p20").passed
    assert len(runs) == 12
    monkeypatch.setattr(candidates, "quantize_calibrated", original)
    again = litemp(tiny.model, **options)
    assert len(runs) == 12  # what was measured is remembered
    assert again.accepted == 4


def test_without_torch_the_other_ranking_is_named(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(ready, "open_subject", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewbits\[torch\]', or measure by brute force"):
        litemp(tiny.model, data=tiny.calib, ranking="one-pass")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "w9a9"}, "Unknown precision 'w9a9'"),
        ({"high": "best"}, "Unknown precision 'best'"),
        ({"base": "w8a16"}, "The base and the higher precision are both w8a16"),
        ({"base": "w16a16"}, "w8a16 is narrower than the base w16a16"),
        ({"high": "fp32"}, "fp32 is the float model itself"),
        ({"percents": []}, "No percentage was named"),
        ({"percents": [5, 0]}, "0 % is no share to lift"),
        ({"percents": [101]}, "101 % is no share to lift"),
        ({"percents": [float("nan")]}, "nan % is no share to lift"),
        ({"most_macs": 0}, "0 % is no share to lift"),
        ({"ranking": "by-name"}, "Unknown ranking 'by-name'"),
        ({"rank_samples": 0}, "ranked on 0 samples"),
        ({"max_drop": "a lot"}, "is no figure"),
        ({"ranges": "best"}, "best"),
        ({"metric": "best"}, "There is no metric 'best'"),
    ],
)
def test_options_are_refused_before_anything_runs(tiny, monkeypatch, tmp_path, options, message):
    monkeypatch.setattr(ready, "open_subject", None)
    with pytest.raises(SpecError, match=message):
        litemp(tiny.model, data=tiny.calib, output=tmp_path / "o", **{**BRUTE, **options})
    assert not (tmp_path / "o").exists()


def test_a_precision_that_the_target_lacks_is_refused_before_anything_is_scored(tiny, tmp_path):
    with pytest.raises(SpecError, match="w16a16"):
        litemp(tiny.model, data=tiny.calib, high="w16a16", target="qnn-htp-v69", output=tmp_path / "o", **BRUTE)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("min_sqnr", [40, 51.5, 60, 70])
@pytest.mark.parametrize("high", ["w8a16", "fp16"])
def test_next_steps_are_commands_that_the_program_takes(tiny, run, min_sqnr, high):
    result = litemp(
        tiny.model, data=tiny.calib, high=high, percents=(34, 80), min_sqnr=min_sqnr, most_macs=90, **BRUTE
    )  # fmt: skip
    commands = [command for _, command in (*result.record.next_steps, *run.record.next_steps)]
    assert commands
    for command in commands:
        assert_parses(command)


def test_command_prints_table_reason_and_next_steps(tiny, tmp_path):
    words = ["litemp", str(tiny.model), "--data", str(tiny.calib), "--metric", "sqnr", "--ranking", "brute-force"]
    words += ["--min-sqnr", "50.8", "--percent", "10%,20,50", "-o", str(tmp_path / "r")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "w8a8 lifted to w8a16" in lines[0]
    assert [line.split()[0] for line in lines[3:8]] == ["float", "w8a8", "10", "20", "w8a16"]
    assert "accepted: w8a8 + 20 % w8a16" in lines
    assert any(line.startswith("lifted 2 groups, the most sensitive first (brute-force): head, mul") for line in lines)
    assert f"  fewbits verify {tmp_path / 'r'}" in lines
    assert json.loads((tmp_path / "r" / names.RECORD).read_text())["verb"] == "litemp"


def test_command_prints_one_json_object(tiny, tmp_path):
    words = ["litemp", str(tiny.model), "--data", str(tiny.calib), "--metric", "sqnr", "--ranking", "brute-force"]
    words += ["--min-sqnr", "70", "--percent", "10", "--all", "--json", "-o", str(tmp_path / "r")]
    document = json.loads(CliRunner().invoke(app, words).output)
    assert [step["percent"] for step in document["steps"]] == [10.0]
    assert document["accepted"] is None


def test_command_refuses_percentages_that_are_none(tiny):
    words = ["litemp", str(tiny.model), "--data", str(tiny.calib), "--percent", "five", "-o", "o"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "error: --percent 'five' is not a list of numbers: write --percent 5,10,20." in result.output
    assert not Path("o").exists()


def test_groups_that_do_not_run_in_the_base_precision_are_not_lifted(run):
    from fewbits.workflow.lifting import lifting_order
    from fewbits.workflow.quantized import quantize_calibrated

    plan = quantize_calibrated(run.calibration, "w8a8").plan
    nodes = dict(plan.nodes)
    nodes["head"] = replace(nodes["head"], precision=fewbits.Precision.parse("fp32"))
    order = lifting_order(replace(plan, nodes=nodes), run.sensitivity, "w8a8", "w8a16")
    assert [group.name for group in order] == list(run.steps[-1].groups[1:])


def test_infinite_errors_come_first(run):
    from fewbits.workflow.lifting import lifting_order
    from fewbits.workflow.quantized import quantize_calibrated

    plan = quantize_calibrated(run.calibration, "w8a8").plan
    figures = {**run.sensitivity.figures, ("pool", "w8a8", "all"): Figure(float("inf"))}
    figures |= {("pool", "w8a16", "all"): Figure(float("inf"))}
    given: Sensitivity = replace(run.sensitivity, figures=figures)
    assert lifting_order(plan, given, "w8a8", "w8a16")[0].name == "pool"

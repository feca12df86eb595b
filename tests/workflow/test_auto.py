"""The whole workflow on a small network: what it writes, and what other verbs make of that."""

import json

import numpy as np
import pytest
from amp_cases import files_of
from auto_cases import (
    MET_BY_NONE,
    MET_BY_W8A8,
    MET_BY_W16A16,
    assert_whole,
    auto_of,
    evaluations_of,
    plain,
    quickly,
    steps_of,
)
from pasted import assert_parses

import fewbits
from fewbits.artifact import names
from fewbits.errors import FewbitsError
from fewbits.reporting.auto_record import AutoRecord
from fewbits.reporting.read import read_any
from fewbits.reporting.record import read_record
from fewbits.runtime.session import RunOptions
from fewbits.spec.soc import find_soc
from fewbits.workflow import auto_run
from fewbits.workflow.auto_checks import has_failed
from fewbits.workflow.export import export
from fewbits.workflow.lint import lint
from fewbits.workflow.runs import runs
from fewbits.workflow.verify import verify


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run in which 40 % of the groups in w8a16 are enough; read its folder, do not write to it."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    with quickly(is_checked=True):
        return auto_of(tiny, folder, settings="# settings\n")


def test_the_decisions_are_recorded_with_what_came_of_them(run):
    record = run.record
    assert steps_of(record) == ["baseline", "litemp", "stop"]
    assert [fork.evaluations for fork in record.forks] == [4, 3, 0]
    assert [fork.folder for fork in record.forks] == ["baseline", "litemp", None]
    assert "a few groups in w8a16 may be enough, since 8-bit activations cost accuracy" in record.forks[1].why
    assert record.forks[1].found.startswith("40 % of the groups in w8a16 are enough")
    assert "litemp-p40 (52.0 dB) meets the goals" in record.forks[2].why
    names_made = [made.name for made in record.contenders]
    assert names_made == ["w8a8", "w8a16", "w16a16", "fp16", "litemp-p05", "litemp-p20", "litemp-p40"]
    assert (record.chosen, record.is_met, run.chosen.status) == ("litemp-p40", True, "ok")
    assert run.chosen.precision == "w8a8 + 40 % w8a16"
    assert record.verdict["finding"] == "activation-sensitive"
    assert record.float_row.bit_operations > run.chosen.bit_operations
    assert "Ship litemp-p40, that is w8a8 + 40 % w8a16 (52.0 dB, 25% of the bit operations" in record.summary[1]
    assert "which are the calibration data" in record.summary[2]


def test_the_run_checks_what_it_hands_over(run):
    checks = run.record.checks
    assert list(checks) == ["lint", "verify", "compile for sm8550"]  # failures first
    assert checks["lint"].startswith("failed: 1 of 9 operators do not follow qnn-htp-v73: HTP has no integer Erf")
    assert has_failed(checks["lint"])
    assert not has_failed(checks["verify"])
    assert "of the checks, lint failed" in run.record.summary[2]


def test_the_folder_holds_the_chosen_model_and_all_others(run):
    assert_whole(run.output)
    assert files_of(run.output) == files_of(run.output / "litemp" / "p40")
    for made in run.record.contenders:
        assert (run.output / made.folder / names.ARTIFACT).is_file()
    assert {path.name for path in run.output.iterdir() if path.is_dir()} == {"baseline", "litemp"}
    assert (run.output / "fewbits.toml").read_text() == "# settings\n"
    assert "litemp-p40" in (run.output / names.REPORT).read_text()


def test_the_record_comes_back_as_that_of_the_run_and_of_the_model(run):
    assert plain(run.output)["chosen"] == "litemp-p40"
    record = read_any(run.output / names.RECORD)
    assert isinstance(record, AutoRecord)
    assert {**json.loads(record.to_json()), "options": None} == {**json.loads(run.record.to_json()), "options": None}
    assert record.options == {**json.loads(run.record.to_json())["options"], "precision": "w8a8"}  # of the model
    made, best = read_record(run.output / names.RECORD), read_record(run.output / "litemp" / "p40" / names.RECORD)
    assert (made.profile, made.files, made.pinned, made.scores) == (best.profile, best.files, best.pinned, best.scores)
    assert made.model == best.model
    ((line),) = runs(run.output)
    assert (line.verb, line.state) == ("auto", "finished")
    assert line.result == "met: litemp-p40, 52.02 dB (7 scored)"


def test_other_verbs_take_the_folder(run, tiny, tmp_path):
    assert verify(run.output).passed
    handed = export(run.output, output=tmp_path / "handed")
    assert handed.record.profile == read_record(run.output / names.RECORD).profile
    assert verify(tmp_path / "handed").passed
    assert lint(run.output).operators == 9
    again = fewbits.quantize(run.output, data=tiny.calib, metric="sqnr", run_options=RunOptions(threads=1))
    assert again.score.value == pytest.approx(run.record.contenders[0].score)


def test_what_to_do_next_can_be_pasted(run):
    assert [why for why, _ in run.record.next_steps] == ["compile it for your chip", "run it on Qualcomm's emulator"]
    for _, command in run.record.next_steps:
        assert_parses(command)
    assert_parses(run.record.command)
    assert run.record.command.endswith(f"--metric sqnr --min-sqnr 51.5 -o {run.output} --threads 1")


def test_where_nothing_meets_the_goals_the_nearest_is_kept(tiny, tmp_path):
    with quickly():
        result = auto_of(tiny, tmp_path / "run", min_sqnr=MET_BY_NONE, qat=True, goal="most-accurate")
    record = result.record
    assert steps_of(record) == ["baseline", "stop"]
    assert (record.chosen, record.is_met) == ("w16a16", False)
    assert record.summary[1].startswith("Nothing meets the goal, SQNR of at least 120 dB; what comes nearest is w16a16")
    assert_whole(tmp_path / "run")
    commands = [command.split()[1] for _, command in record.next_steps]
    assert commands == ["compile", "verify", "qat", "analyze"]
    for _, command in record.next_steps:
        assert_parses(command)
    assert_parses(record.command)
    assert " --goal most-accurate" in record.command
    assert record.command.endswith(" --qat")
    assert " --qat False" not in record.command


def test_the_chip_that_is_named_is_one_of_the_target(tiny, tmp_path):
    with quickly():
        record = auto_of(tiny, tmp_path / "run", target="qnn-htp-v75", min_sqnr=MET_BY_W8A8).record
        named = auto_of(tiny, tmp_path / "run", soc="sm8550", min_sqnr=MET_BY_W8A8).record
    commands = [dict(one.next_steps)["compile it for your chip"] for one in (record, named)]
    chips = [find_soc(command.split()[command.split().index("--soc") + 1]) for command in commands]
    assert [chip.target for chip in chips] == ["qnn-htp-v75", "qnn-htp-v73"]
    assert chips[1].name == "sm8550"


def test_the_first_sample_is_read_as_often_however_many_models_there_are(tiny, tmp_path):
    """A loader of the user's may take long to begin."""
    images, ones = np.load(tiny.calib)["image"], []

    def loader():
        for image in images:
            ones.append(1)
            yield {"image": image[None]}

    with quickly():
        read = []
        for name, goal in (("few", MET_BY_W8A8), ("many", MET_BY_NONE)):
            ones.clear()
            auto_of(tiny, tmp_path / name, data=loader, min_sqnr=goal, latency_by="ort", time=0.01)
            read.append(len(ones))
    assert read[0] == read[1]


def test_a_second_run_scores_nothing_and_comes_to_the_same(run, tiny):
    before, hashes = plain(run.output), files_of(run.output)
    with quickly(is_checked=True):
        again = auto_of(tiny, run.output, settings="# settings\n")
    assert evaluations_of(again.record) == 0
    assert steps_of(again.record) == steps_of(run.record)
    assert plain(run.output) == before
    assert files_of(run.output) == hashes


def test_another_goal_forgets_the_steps_that_it_does_not_need(tiny, tmp_path):
    folder = tmp_path / "run"
    with quickly():
        auto_of(tiny, folder)
        (folder / "amp").mkdir()
        (folder / "amp" / "mine.txt").write_text("mine")
        (folder / "compiled").mkdir()
        # fewer groups are enough: those of before are no models of this run
        auto_of(tiny, folder, min_sqnr=50.0)
        assert {path.name for path in (folder / "litemp").iterdir() if path.is_dir()} == {"p05", "w8a8", "w8a16"}
        again = auto_of(tiny, folder, min_sqnr=MET_BY_W8A8)
    assert steps_of(again.record) == ["baseline", "stop"]
    assert evaluations_of(again.record) == 0
    assert again.record.chosen == "w8a8"
    # what no step of a run made stays
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"baseline", "amp", "compiled"}
    assert_whole(folder)


def test_without_torch_the_workflow_finds_precisions_and_says_what_it_lacks(tiny, tmp_path):
    with quickly():
        result = auto_of(tiny, tmp_path / "run", min_sqnr=MET_BY_W16A16, qat=True)
    assert steps_of(result.record) == ["baseline", "litemp", "amp", "stop"]
    assert result.record.is_met
    assert any("need torch, which is not installed" in note for note in result.record.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"goal": "best"}, "--goal is one of"),
        ({"soc": "sm1"}, "sm1"),
        ({"soc": "sm8650"}, "sm8650 follows qnn-htp-v75, not qnn-htp-v73"),
        ({"max_latency": "soon"}, "The latency 'soon' is none: write 2ms"),
        ({"max_latency": 0}, "The latency '0' is none"),
        ({"latency_by": "guess"}, "--latency-by is ort, qnn-estimate:CHIP or device, not 'guess'"),
        ({"latency_by": ""}, "--latency-by names nobody"),
        ({"time": "soon"}, "soon"),
        ({"max_drop": -1}, "no figure"),
        ({"max_drop": 0.5}, "The metric sqnr has no drop"),
        ({"output": "/proc/auto"}, "/proc/auto"),
        ({"output": "/dev/null"}, "/dev/null"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(tiny, tmp_path, changes, words):
    with pytest.raises(FewbitsError) as refused:
        auto_of(tiny, **({"output": tmp_path / "run"} | changes))
    assert words in str(refused.value)
    assert not (tmp_path / "run" / names.RECORD).exists()


def test_a_run_does_not_write_over_its_model(run):
    with pytest.raises(FewbitsError, match="is the model itself: name another folder"):
        fewbits.auto(run.output, data="calib.npz", output=run.output)


def test_time_that_is_up_ends_the_run_with_the_best_so_far(tiny, tmp_path):
    with quickly():
        result = auto_of(tiny, tmp_path / "run", time=0.01)
    assert steps_of(result.record) == ["baseline", "stop"]
    assert "the time is up; the best so far is w8a16" in result.record.forks[-1].why
    assert result.record.chosen == "w8a16"
    assert_whole(tmp_path / "run")


def test_the_best_so_far_is_published_after_every_step(tiny, tmp_path):
    """Ctrl-C before the second step, and between the files of the last one."""
    folder, chosen = tmp_path / "run", []
    with quickly() as patch:
        original = auto_run.publish

        def stopping(source, made, record, stage):
            original(source, made, record, stage)
            chosen.append(record.chosen)
            if len(chosen) == 2:
                raise KeyboardInterrupt

        patch.setattr(auto_run, "publish", stopping)
        with pytest.raises(KeyboardInterrupt):
            auto_of(tiny, folder)
        assert chosen == ["w8a16", "litemp-p40"]
        assert read_any(folder / names.RECORD).chosen == "w8a16"
        assert [run.state for run in runs(folder)] == ["stopped"]
        assert_whole(folder)
        again = auto_of(tiny, folder)
    assert evaluations_of(again.record) == 0
    assert again.record.chosen == "litemp-p40"
    assert [run.state for run in runs(folder)] == ["finished"]


def test_a_run_that_is_stopped_while_it_is_checked_is_not_finished(tiny, tmp_path):
    folder = tmp_path / "run"

    def stopping(*of, **how):
        raise KeyboardInterrupt

    with quickly() as patch:
        patch.setattr(auto_run, "check_made", stopping)
        with pytest.raises(KeyboardInterrupt):
            auto_of(tiny, folder, min_sqnr=MET_BY_W8A8)
    assert [run.state for run in runs(folder)] == ["stopped"]
    assert read_any(folder / names.RECORD).chosen == "w8a8"
    assert_whole(folder)

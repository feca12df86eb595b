"""Time limits inside steps: what was begun is finished and kept, nothing more is begun, and it is said."""

import itertools

import pytest
from amp_cases import THREADS
from auto_cases import MET_BY_LITEMP, MET_BY_NONE, auto_of, quickly, steps_of

from fewbits.errors import SpecError
from fewbits.improvement.result import OUT_OF_TIME
from fewbits.workflow import auto_run, auto_steps
from fewbits.workflow.deadline import Deadline
from fewbits.workflow.improve import improve
from fewbits.workflow.improve_run import NothingToImproveError
from fewbits.workflow.litemp import litemp

AT_ONCE = "0.000001s"


def late_after(patch, looks):
    """Let so many looks at the clock find time left."""
    count = itertools.count(1)
    patch.setattr(Deadline, "is_over", lambda self: self.at_s is not None and next(count) > looks)


def lite(tiny, **options):
    with quickly():
        return litemp(tiny.model, data=tiny.calib, metric="sqnr", min_sqnr=MET_BY_LITEMP, **THREADS, **options)


def test_no_limit_is_never_over():
    assert not Deadline.after(None).is_over()
    assert not Deadline.after("1h").is_over()
    assert Deadline.after(AT_ONCE).is_over()
    with pytest.raises(SpecError, match="'soon'"):
        Deadline.after("soon")


def test_litemp_without_time_scores_no_percentage_and_says_so(tiny, tmp_path):
    found = lite(tiny, output=tmp_path / "out", time_limit=AT_ONCE)
    assert (found.steps, found.sensitivity) == ((), None)
    assert found.best is found.high
    assert found.record.reason.startswith("the time was up before every percentage was scored")
    assert found.record.notes[0] == "5 % and what follows were not scored: the time was up."


def test_litemp_keeps_the_percentages_that_it_scored_in_time(tiny, monkeypatch):
    whole = lite(tiny, percents=(5, 10, 40))
    assert [step.percent for step in whole.steps] == [5, 40]  # 10 % are no more groups
    late_after(monkeypatch, 2)  # before ranking, before 5 %
    cut = lite(tiny, percents=(5, 10, 40), time_limit="1h")
    assert [step.percent for step in cut.steps] == [5]
    assert cut.steps[0].candidate.score.value == whole.steps[0].candidate.score.value
    assert "10 % and what follows were not scored: the time was up." in cut.record.notes


def better(tiny, folder, **options):
    with quickly(has_torch=True):
        return improve(
            tiny.model, data=tiny.calib, metric="sqnr", min_sqnr=MET_BY_NONE, precision="w4a8",
            methods=("seq-mse", "gptq"), output=folder, **THREADS, **options,
        )  # fmt: skip


def test_improve_keeps_the_layers_that_it_finished_and_goes_on_there(tiny, tmp_path):
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        late_after(patch, 3)  # before seq-mse, before the first two nodes
        cut = better(tiny, tmp_path / "out", time_limit="1h")
    first, second = cut.methods
    assert 1 <= first.changed < 3
    assert sum(map(len, first.declined.values())) == 3 - first.changed
    assert set(first.declined) == {OUT_OF_TIME}
    assert first.kept
    assert (second.changed, second.kept, second.reason) == (0, False, OUT_OF_TIME)
    assert cut.score.value > cut.before.value
    again = better(tiny, tmp_path / "out", time_limit="1h")
    assert [row.changed for row in again.methods] == [3, 3]
    assert set(cut.methods[0].layers) <= set(again.methods[0].layers)
    assert again.score.value > cut.score.value


def test_improve_without_time_says_so(tiny, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(NothingToImproveError, match=r"^The time was up before a layer of '.*tiny\.onnx' was improved"):
        better(tiny, tmp_path / "out", time_limit=AT_ONCE)
    assert not list((tmp_path / "out").glob("*.db*"))


def test_auto_gives_every_step_the_time_that_is_left(tiny, tmp_path):
    pytest.importorskip("torch")
    script, limits = ["baseline", "litemp", "improve", "adaround", "stop"], {}
    with quickly(has_torch=True) as patch:
        patch.setattr(auto_run, "decide", lambda facts: (script[min(len(facts.done), 4)], "it is written"))
        patch.setattr(auto_steps, "QUICK_METHODS", ("gptq",))
        for name in ("litemp", "improve"):
            verb = getattr(auto_steps, name)

            def noted(*given, _verb=verb, _name=name, **options):
                limits.setdefault(_name, []).append(options["time_limit"])
                return _verb(*given, **options | {"time_limit": AT_ONCE})

            patch.setattr(auto_steps, name, noted)
        record = auto_of(tiny, tmp_path / "run", min_sqnr=MET_BY_LITEMP, time="90s").record
    assert steps_of(record) == script
    assert all(0 < limit < 90 for limit in (*limits["litemp"], *limits["improve"]))
    assert len(limits["improve"]) == 2
    found = {fork.step: fork.found for fork in record.forks}
    assert found["litemp"].startswith("the time was up before every percentage")
    assert found["improve"].startswith("The time was up before a layer")
    assert record.is_met


def test_auto_says_which_methods_were_not_begun(tiny, tmp_path):
    pytest.importorskip("torch")
    script = ["baseline", "improve", "stop"]
    with quickly(has_torch=True) as patch:
        patch.setattr(auto_run, "decide", lambda facts: (script[min(len(facts.done), 2)], "it is written"))
        patch.setattr(auto_steps, "QUICK_METHODS", ("gptq", "seq-mse"))
        late_after(patch, 3)
        record = auto_of(tiny, tmp_path / "run", min_sqnr=MET_BY_LITEMP, time="90s").record
    assert record.forks[1].found == "of seq-mse: seq-mse kept; the time was up before gptq"

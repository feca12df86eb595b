"""Verb auto: the whole workflow, from a float model to a verified artifact, each step only where it can help."""

import time as clock
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.analysis.evaluate import Evaluation
from fewbits.artifact.folder import write_file
from fewbits.errors import SpecError
from fewbits.reporting.auto_record import AutoRecord, Contender
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.spec.soc import find_soc
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.amp_wishes import parse_seconds
from fewbits.workflow.auto_latency import ORT, Clock, check_latency_by, parse_latency
from fewbits.workflow.auto_rules import Aim
from fewbits.workflow.auto_run import AutoRun
from fewbits.workflow.auto_steps import Steps
from fewbits.workflow.auto_words import chosen_of
from fewbits.workflow.calibrate import SAMPLES
from fewbits.workflow.ceiling import Room
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.goal import check_goal
from fewbits.workflow.preflight import LATER, preflight
from fewbits.workflow.ready import Opened
from fewbits.workflow.scoring import MetricLike, check_metric
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.writing import Options

SETTINGS = "fewbits.toml"
_NO_OPTIONS = ("settings", "progress", "begin")


@dataclass(frozen=True, slots=True, eq=False)
class AutoResult:
    """What `auto` found.

    Attributes:
        float_score: of the prepared float model.
        record: what was written to record.json: decisions, all models, the chosen one, checks, next steps.
        output: the folder.
    """

    float_score: Evaluation
    record: AutoRecord
    output: Path

    @property
    def chosen(self) -> Contender:
        """The model whose files the output folder holds."""
        return chosen_of(self.record)


def auto(
    model: ModelLike,
    *,
    data: DataLike,
    output: str | Path,
    goal: str = Aim.ENOUGH.value,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    max_latency: float | str | None = None,
    latency_by: str | None = None,
    time: float | str | None = None,
    qat: bool = False,
    soc: str | None = None,
    memory: int | str | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    eval_data: DataLike | None = None,
    samples: int = SAMPLES,
    eval_samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    settings: str | None = None,
    progress: Watcher | None = None,
) -> AutoResult:
    """Find the cheapest model that meets the goals, step by step, check it, and write all of it down.

    Uniform precisions are scored first. What is tried then follows from a table of rules (`workflow/auto_rules.py`): a
    few groups in a wider precision where activations are the trouble, better weights where weights are, a search over
    all groups, training. The run ends at the first model that meets the goals, unless a cheaper one is asked for. From
    the first step on the output folder holds the best so far, and every model that was scored has a folder of its own.
    Scores are remembered: stopped at any moment and started again with the same options, a run scores nothing twice.
    Folders of steps that an earlier run made there and this one did not are removed at its end.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose pinned encodings stay.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        output: folder.
        goal: enough, fastest, smallest or most-accurate.
        max_drop: acceptable drop: 0.5 in the metric's unit, "0.5%" of the float score; None allows 1 % of it.
        min_sqnr: least acceptable SQNR in dB where the metric is sqnr; None takes 20.
        max_latency: acceptable latency of one sample: 2 (milliseconds), "2ms", "800us"; None sets no limit.
        latency_by: who tells latencies: ort (measured here), qnn-estimate:CHIP, or device (`fewbits latency`); None is
            ort where a limit is set, and nobody elsewhere.
        time: seconds, "30m", "1h": no step is begun after that, but step 1; one that was begun tries nothing more, and
            keeps what it finished. A run that goes on has all of it again.
        qat: train, too, whatever the other steps find.
        soc: chip to compile for, where Qualcomm's compiler is installed; None takes one of the target.
        memory: that the process may take: bytes, "4GB"; step 1 is refused where more is expected, and later steps do
            less at once; of those that would still not fit ranking goes by brute force, and better weights are left
            out. None sets no limit; training keeps none.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        metric: a name, file.py:function, or a function of `predict`; None chooses one by labels and outputs.
        higher_is_better: direction of the user's own metric.
        eval_data: what to score on; None scores on `data`.
        samples: calibration samples at most.
        eval_samples: evaluation samples at most; None takes all.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        settings: text of a settings file that repeats the run; it is kept in the folder as fewbits.toml.
        progress: told of each stage.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    begin = clock.monotonic()
    options: Options = {name: value for name, value in locals().items() if name not in _NO_OPTIONS}
    aim = Aim.parse(goal)
    limit = None if max_latency is None else parse_latency(max_latency)
    by = _teller(latency_by, has_limit=limit is not None)
    deadline = None if time is None else begin + parse_seconds(time)
    _check_folder(model, Path(output))
    check_goal(max_drop, min_sqnr)
    named, stages = check_metric(metric, higher_is_better), Stages(progress)
    opened = Opened.of(options, named, stages)
    _check_chip(soc, opened.subject.target)
    options |= {"latency_by": by}
    with Store(Path(output) / STORE) as store:
        scored = opened.score(options, stages, store)
        if settings is not None:  # those of an earlier run stay until these are known to be possible
            write_file(Path(output) / SETTINGS, settings.encode())
        known = preflight(
            scored.subject, scored.scoring, scored.before, samples=samples, stages=stages, goal=scored.goal, steps=LATER
        )
        room = Room.within(opened.subject.ceiling, known)
        ready = scored.calibrate(options, stages)
        steps = Steps(options, Path(output), ready, model, progress, deadline, room=room)
        teller = Clock(by, Path(output), CostContext(ready.calibration, store, stages))
        run = AutoRun(steps, teller, aim, limit, stages, known, begin, progress)
        record = run.run()
    return AutoResult(ready.before, record, Path(output))


def _check_folder(model: ModelLike, output: Path) -> None:
    if isinstance(model, str | Path) and Path(model).is_dir() and Path(model).resolve() == output.resolve():
        raise SpecError(f"{str(output)!r} is the model itself: name another folder with -o.")


def _check_chip(soc: str | None, target: Target) -> None:
    """Refuse a chip that follows other rules than the target's, before anything runs.

    Raises:
        SpecError: it does, or is unknown.
    """
    if soc is not None and (chip := find_soc(soc)).target != target.name:
        raise SpecError(f"{chip.name} follows {chip.target}, not {target.name}: name that target, or leave --soc out.")


def _teller(latency_by: str | None, *, has_limit: bool) -> str | None:
    """Return who tells latencies, or None.

    Raises:
        SpecError: there is no such.
    """
    if latency_by is None:
        return ORT if has_limit else None
    if not latency_by:
        raise SpecError("--latency-by names nobody: write ort, qnn-estimate:CHIP or device.")
    return check_latency_by(latency_by)

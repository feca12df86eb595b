"""Verbs adaround and improve: step 4 of the workflow. Better weights for the same precision, by named methods."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fewbits.analysis.evaluate import Drop, Evaluation, drop
from fewbits.artifact.folder import staged
from fewbits.errors import MissingExtraError, SpecError
from fewbits.improvement.methods import METHODS, Effort, Kind, Method, parse_methods
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.reporting.record import RunRecord
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.training.schedule import Training
from fewbits.workflow.calibrate import SAMPLES, Calibration
from fewbits.workflow.ceiling import later_steps
from fewbits.workflow.deadline import Deadline
from fewbits.workflow.finish import Finished, Written, complete, write_made
from fewbits.workflow.goal import Goal, check_goal
from fewbits.workflow.improve_models import State, check_clips, floating_model
from fewbits.workflow.improve_run import Figures, ImproveRun, NothingToImproveError, Wanted
from fewbits.workflow.improve_steps import MethodRow, check_order, steps_after, usual_effort
from fewbits.workflow.next_step import Steps
from fewbits.workflow.profiles import open_profile
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.ready import Opened, Ready
from fewbits.workflow.report import report
from fewbits.workflow.scoring import MetricLike, Scoring, check_metric
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.verdict import Status
from fewbits.workflow.writing import Options, write_record

PRECISION = "w4a8"
ADAROUND = ("gptq", "adaround")
"""Methods of `adaround` where none are named: learned rounding starts from what gptq finds."""


@dataclass(frozen=True, slots=True, eq=False)
class ImproveResult:
    """What `adaround` or `improve` made.

    Attributes:
        float_score: of the float model.
        before: score of the quantized model without any improvement of this run.
        score: of the artifact.
        drop: what is lost against float, in the metric's direction.
        goal: what was acceptable.
        status: whether the score is.
        methods: what each method did, in the order in which they ran.
        evaluations: how many different quantized models were scored.
        next_steps: (why, command).
        quantized: the model, its plan, encodings, notes and pins.
        record: what was written to record.json.
        output: the folder, or None.
        calibration: of the improved model; can serve further precisions.
        scoring: can score further models.
    """

    float_score: Evaluation
    before: Evaluation
    score: Evaluation
    drop: Drop
    goal: Goal
    status: Status
    methods: tuple[MethodRow, ...]
    evaluations: int
    next_steps: Steps
    quantized: Quantized
    record: RunRecord
    output: Path | None
    calibration: Calibration
    scoring: Scoring


def improve(
    model: ModelLike,
    *,
    data: DataLike,
    precision: str = PRECISION,
    methods: Sequence[str] | str | None = None,
    auto: bool | None = None,
    effort: Effort | None = None,
    training: Training | None = None,
    clips: str = "exact",
    score_each: bool = False,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    eval_data: DataLike | None = None,
    profile: Mapping[str, str] | str | Path | None = None,
    time_limit: float | str | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    samples: int = SAMPLES,
    eval_samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    memory: int | str | None = None,
    ready: Ready | None = None,
    progress: Watcher | None = None,
) -> ImproveResult:
    """Give a quantized model better weights, without labels and without training, and write it.

    The output folder is one like any other: its float companion has the improved weights, their grids are pinned for
    every later verb, and scores stay compared with the float model as it was. What was rounded is kept in the run's
    store: stopped at any moment and started again with the same options, a run goes on at the layer where it stopped.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose pinned encodings stay.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        precision: of every node that `profile` does not name.
        methods: cle, smooth, balance, bias-correction, seq-mse, gptq, adaround, qat, in the order in which they are
            applied; None tries all but qat.
        auto: try the cheap ones first, each on the best so far, and keep what helps: the output error falls or the
            score rises, and the score does not fall; None is yes where no method is named.
        effort: of the methods that round: granularity, iterations, memory, seed, device.
        training: of qat: steps, rate, time, hints, seed, device.
        clips: what becomes of a Clip between two layers that are equalized: exact, decline or replace.
        score_each: score after every method.
        output: folder; None writes nothing.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        metric: a name, file.py:function, or a function of `predict`; None chooses one by labels and outputs.
        higher_is_better: direction of the user's own metric.
        max_drop: acceptable drop: 0.5 in the metric's unit, "0.5%" of the float score; None allows 1 % of it.
        min_sqnr: least acceptable SQNR in dB where the metric is sqnr; None takes 20.
        eval_data: what to score on; None scores on `data`.
        profile: node name -> precision, or a JSON or TOML file of such pairs.
        time_limit: seconds, "10m", "1.5h": no method and no layer is begun after that; what is finished is kept.
        ranges: auto, minmax, mse, entropy or percentile:99.99.
        weight_ranges: auto, absmax or mse.
        bias_correction: let biases take up the mean error of rounded weights.
        samples: calibration samples at most.
        eval_samples: evaluation samples at most; None takes all.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        preprocess: how images become inputs.
        batch_size: samples per call; None chooses one by the size of the tensors.
        run_options: provider and threads.
        memory: that the process may take, "4GB" or bytes: refused where less does not suffice, held by doing less at
            once elsewhere, with the same results. None sets no limit.
        ready: what an earlier verb made ready from the same model and data; None does it.
        progress: told of each stage.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name != "progress"}
    return run_verb("improve", options, progress)


def adaround(
    model: ModelLike,
    *,
    data: DataLike,
    precision: str = PRECISION,
    methods: Sequence[str] | str = ADAROUND,
    effort: Effort | None = None,
    clips: str = "exact",
    score_each: bool = False,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    eval_data: DataLike | None = None,
    profile: Mapping[str, str] | str | Path | None = None,
    time_limit: float | str | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    samples: int = SAMPLES,
    eval_samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    run_options: RunOptions | None = None,
    memory: int | str | None = None,
    ready: Ready | None = None,
    progress: Watcher | None = None,
) -> ImproveResult:
    """Learn the rounding of every weight, starting from what gptq finds; all named methods are applied in their order.

    The arguments are those of `improve`; needs torch unless `methods` are cle and smooth alone.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name != "progress"}
    return run_verb("adaround", {**options, "auto": False}, progress)


def run_verb(verb: str, options: Options, progress: Watcher | None) -> ImproveResult:
    """Run one of the verbs that improve a model, with the options that the caller gave it, `ready` among them or not.

    Raises:
        FewbitsError: something that the caller gave cannot be used.
    """
    ready: Ready | None = options.pop("ready", None)
    deadline = Deadline.after(options["time_limit"])
    wanted = _wanted(options)
    options |= {
        "methods": tuple(method.name for method in wanted.methods), "auto": wanted.auto, "effort": wanted.effort,
        "training": wanted.training,
    }  # fmt: skip
    check_ranges(options["ranges"], options["weight_ranges"])
    check_goal(options["max_drop"], options["min_sqnr"])
    named = check_metric(options["metric"], options["higher_is_better"])
    output = None if options["output"] is None else Path(options["output"])
    stages = Stages(progress)
    with staged(output) as folder:
        later = later_steps(wanted.methods, wanted.effort)
        opened = ready or Opened.of(options, named, stages, later=later, training=wanted.training)
        resolve(opened.subject.model, wanted.profile, opened.subject.target)
        with _store(output) as store:
            if isinstance(opened, Opened):
                opened = opened.score(options, stages, store).calibrate(options, stages)
            given = (opened.scoring, opened.before, opened.goal, stages, options, store, opened.memory, deadline)
            return _run(verb, ImproveRun(wanted, *given), opened.calibration, folder, output)


@contextmanager
def _store(output: Path | None) -> Iterator[Store]:
    """Lend the store of a run; one that it made is removed again where no layer can be improved."""
    path = None if output is None else output / STORE
    was_there = path is not None and path.exists()
    try:
        with Store(path) as store:
            yield store
    except NothingToImproveError:
        if path is not None and not was_there:
            for end in ("", "-wal", "-shm"):
                path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
        raise


def _run(verb: str, run: ImproveRun, calibration: Calibration, folder: Path, output: Path | None) -> ImproveResult:
    """Make the state before, improve it, and write what came of it."""
    floating, which, notes = floating_model(calibration.subject)
    run.notes += notes
    begin = State(calibration, run.quantize(calibration, "as it is"), floating)
    start = run.figures(begin, "as it is", with_score=True)
    state, reached = run.improve(begin, start)
    runner = write_made(folder, state.calibration, state.made, stages=run.stages, label="improved")
    score = run.score(folder, runner, "improved")
    done = complete(
        verb, Written(folder, state.made, runner), state.calibration, run.scoring, scores=(run.before, score),
        stages=run.stages, options=run.options,
    )  # fmt: skip
    result = _result(verb, run, state, done, figures=(start, reached), which=which, output=output)
    write_record(folder, result.record)
    if output is not None:
        report(folder)
    run.forget()
    return result


def _result(
    verb: str,
    run: ImproveRun,
    state: State,
    done: Finished,
    *,
    figures: tuple[Figures, Figures],
    which: str,
    output: Path | None,
) -> ImproveResult:
    start, reached = figures
    assert start.score is not None
    status = run.goal.judge(done.drop, done.score)
    steps = steps_after(verb, run.rows, status, run.options, output)
    lost = drop(run.before, start.score)
    improvement: dict[str, Any] = {
        "precision": str(run.wanted.profile.default),
        "methods": [asdict(row) for row in run.rows],
        "auto": run.wanted.auto,
        "float": run.before.value,
        "before": start.score.value,
        "before_drop": lost.value,
        "before_interval": lost.interval,
        "after": done.score.value,
        "output_before": asdict(start.output),
        "output_after": asdict(reached.output),
        "evaluations": run.evaluations,
        "floating": which,
        "goal": asdict(run.goal),
        "status": status.value,
        "next_steps": [list(step) for step in steps],
    }
    notes = (*done.record.notes, *run.notes)
    return ImproveResult(
        float_score=run.before, before=start.score, score=done.score, drop=done.drop, goal=run.goal, status=status,
        methods=tuple(run.rows), evaluations=run.evaluations, next_steps=steps, quantized=state.made,
        record=replace(done.record, improvement=improvement, notes=notes), output=output,
        calibration=state.calibration, scoring=run.scoring,
    )  # fmt: skip


def _wanted(options: Options) -> Wanted:
    """Return what was asked for, checked before anything runs.

    Raises:
        SpecError: a name is unknown, there is nothing to round, or no such device.
        MissingExtraError: torch is missing.
    """
    given = options["methods"]
    auto = given is None if options["auto"] is None else bool(options["auto"])
    if given is None and not auto:
        raise SpecError("No method was named: write --method gptq, or --auto to try all.")
    untrained = tuple(method for method in METHODS if method.kind is not Kind.TRAIN)
    methods = untrained if given is None else parse_methods(given)
    if auto:
        methods = tuple(sorted(methods, key=METHODS.index))
    check_order(methods)
    clips = check_clips(options["clips"])
    profile = open_profile(options["precision"], options["profile"])
    _check_widths(profile, methods)
    effort = options["effort"] or Effort()
    if all(method.kind is not Kind.TRAIN for method in methods):  # training ends better from the others' start
        effort = usual_effort(effort, (profile.default, *profile.nodes.values()))
    training = options.get("training") or Training()
    _check_torch(methods, effort, training)
    return Wanted(methods, auto, bool(options["score_each"]), profile, effort, training, clips)


def _check_widths(profile: Profile, methods: Sequence[Method]) -> None:
    integers = [p for p in (profile.default, *profile.nodes.values()) if not p.is_float]
    if not integers:
        raise SpecError(f"There is nothing to round in {profile}: name a precision such as w4a8.")
    blocked = next((precision for precision in integers if precision.block_size), None)
    if blocked is not None and any(method.kind is Kind.TRAIN for method in methods):
        raise SpecError(
            f"qat trains no weights with scales per block ({blocked}): write {replace(blocked, block_size=None)}, or "
            f"methods that round, such as gptq."
        )
    rounding = [method.name for method in methods if method.kind is Kind.ROUND]
    if rounding and all(precision.weight_bits > 8 for precision in integers):
        raise SpecError(
            f"{rounding[0]} has nothing to gain in {profile}: rounding to 16 bits loses nothing that matters. Name a "
            f"precision with narrower weights, such as w4a16, or only cle, smooth and balance."
        )


def _check_torch(methods: Sequence[Method], effort: Effort, training: Training) -> None:
    needing = [method.name for method in methods if method.needs_torch]
    if not needing:
        return
    need_torch(needing[0])
    from fewbits.improvement.torch_improve import check_device

    for device in (effort.device, training.device):
        check_device(device)


def need_torch(method: str) -> None:
    """Refuse a method where torch is missing.

    Raises:
        MissingExtraError: it is.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(
            f"{method} needs torch: pip install 'fewbits[torch]', or choose of cle and smooth, which do not."
        )

"""Verb amp: automatic mixed precision, step 3 of the workflow. The cheapest profile within an accuracy threshold."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.analysis.evaluate import Evaluation
from fewbits.errors import SpecError
from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.parallel import Workers
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.amp_run import AmpRun
from fewbits.workflow.amp_wishes import Wishes
from fewbits.workflow.calibrate import SAMPLES, Calibration
from fewbits.workflow.candidates import Contest
from fewbits.workflow.ceiling import ONE_PASS
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_models import parse_cost
from fewbits.workflow.goal import Goal, check_goal
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.ready import Opened, Ready
from fewbits.workflow.scoring import MetricLike, Scoring, check_metric
from fewbits.workflow.sensitivity import SAMPLES as RANK_SAMPLES
from fewbits.workflow.sensitivity import choose_method, settle_method
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.workers_scoring import file_scorers
from fewbits.workflow.writing import Options

CANDIDATES = ("w8a8", "w8a16", "fp16")
EVALUATIONS = 12
AT_ONCE = 2


@dataclass(frozen=True, slots=True, eq=False)
class AmpResult:
    """What `amp` found.

    Attributes:
        float_score: of the prepared float model.
        goal: what was acceptable.
        record: what was written to record.json: all points, the chosen one, reason, next steps and notes.
        evaluations: scores that were found out in this run; what an earlier one had stored is not counted.
        output: the folder, or None.
        calibration: can serve further precisions.
        scoring: can score further models.
    """

    float_score: Evaluation
    goal: Goal
    record: AmpRecord
    evaluations: int
    output: Path | None
    calibration: Calibration
    scoring: Scoring

    @property
    def chosen(self) -> Point:
        """The point whose files the output folder holds."""
        point = None if self.record.chosen is None else self.record.point(self.record.chosen)
        assert point is not None
        return point


def amp(
    model: ModelLike,
    *,
    data: DataLike,
    candidates: Sequence[str] = CANDIDATES,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    budget: float | str | None = None,
    max_share: Sequence[str] = (),
    time_limit: float | str | None = None,
    keep: Sequence[str] = (),
    at_least: Sequence[str] = (),
    cost: str = "bitops",
    max_evaluations: int = EVALUATIONS,
    at_once: int = AT_ONCE,
    ranking: str = "auto",
    rank_samples: int = RANK_SAMPLES,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    eval_data: DataLike | None = None,
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
    workers: Workers | None = None,
    ready: Ready | None = None,
    progress: Watcher | None = None,
) -> AmpResult:
    """Find the cheapest assignment of precisions to groups of operators whose drop is acceptable.

    Which assignments are worth a look is predicted, as the solution of an integer program; a few of them are scored
    for real. The first is scored within seconds; from then on the output folder holds the best so far, with all its
    files, and every scored point has a folder of its own. What was found is kept in the run's store: stopped at
    any moment and started again with the same options, a run repeats no evaluation.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose pinned encodings stay.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        candidates: precisions to choose from.
        max_drop: acceptable drop: 0.5 in the metric's unit, "0.5%" of the float score; None allows 1 % of it, or with
            a budget looks for the least drop within that.
        min_sqnr: least acceptable SQNR in dB where the metric is sqnr; None takes 20, or likewise.
        budget: of the cost, in its unit, or "60%" of what the costliest candidate costs.
        max_share: "w8a16=20%" of the groups at most, or "w8a16=20%macs" of the multiply-accumulates.
        time_limit: seconds, "10m", "1.5h"; a round that would not fit is not begun.
        keep: "fp16:head/*": what the pattern names has that precision, a candidate or not.
        at_least: "w8a16:/model.22/*": what the pattern names has no lower precision.
        cost: bitops, bytes, ort-latency, qnn-estimate:CHIP or FILE.csv.
        max_evaluations: profiles to score, at most.
        at_once: profiles per round; the result depends on it, and not on how many run at the same time.
        ranking: how noise is predicted: "one-pass", with gradients, needs torch; "brute-force" runs the network once
            per group and candidate; "auto" is the former where torch is installed.
        rank_samples: calibration samples to predict from and to measure errors on, at most.
        output: folder; None keeps nothing.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        metric: a name, file.py:function, or a function of `predict`; None chooses one by labels and outputs.
        higher_is_better: direction of the user's own metric.
        eval_data: what to score on; None scores on `data`.
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
        workers: who calibrates, scores and measures; None is this process. The result is the same whoever does.
        ready: what an earlier verb made ready from the same model and data; None does it.
        progress: told of each stage.

    Raises:
        FewbitsError: something that the caller gave cannot be used, or nothing is within what was asked for; the
            message says what to do.
    """
    begin = time.monotonic()
    hidden = ("progress", "begin", "ready")
    options: Options = {name: value for name, value in locals().items() if name not in hidden}
    wishes = Wishes.parse(
        candidates, keep=keep, at_least=at_least, max_share=max_share, budget=budget, time_limit=time_limit
    )
    options |= {"candidates": wishes.candidates, "ranking": _ranking(ranking, rank_samples)}
    _check_counts(max_evaluations, at_once)
    cost_model = parse_cost(cost)
    check_ranges(ranges, weight_ranges)
    check_goal(max_drop, min_sqnr)
    named = check_metric(metric, higher_is_better)
    stages = Stages(progress)
    folder = None if output is None else Path(output)
    later = (ONE_PASS,) if options["ranking"] == "one-pass" else ()
    opened = ready or Opened.of(options, named, stages, later=later).check(wishes.precisions)
    with Store(None if folder is None else folder / STORE) as store:
        if isinstance(opened, Opened):
            opened = opened.score(options, stages, store).calibrate(options, stages, workers)
        scoring, subject = opened.scoring, opened.calibration.subject
        options["ranking"] = settle_method(ranking, options["ranking"], opened.calibration.model)
        context = CostContext(opened.calibration, store, stages)
        with stages.stage("find costs"):
            costs = cost_model(context, wishes.precisions)
        wants_least_drop = budget is not None and max_drop is None and min_sqnr is None
        with file_scorers(scoring, subject, workers) as score:
            together = None if workers is None or workers.is_alone else score
            contest = Contest.of(opened, stages, options, together)
            record = AmpRun(contest, wishes, context, costs, wants_least_drop, begin).run()
    return AmpResult(opened.before, opened.goal, record, opened.memory.runs, folder, opened.calibration, scoring)


def _ranking(name: str, samples: int) -> str:
    if samples < 1:
        raise SpecError(f"Noise cannot be predicted from {samples} samples: write at least 1.")
    return choose_method(name, "ranking")


def _check_counts(evaluations: int, at_once: int) -> None:
    if evaluations < 1 or at_once < 1:
        raise SpecError(f"A search needs at least 1 evaluation, 1 at a time: not {evaluations} and {at_once}.")

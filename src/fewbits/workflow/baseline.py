"""Verb baseline: step 1 of the workflow. Every precision scored from one calibration, and what follows from it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fewbits.analysis.evaluate import Evaluation
from fewbits.artifact import names
from fewbits.artifact.folder import staged, write_file
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.reporting.baseline_record import BaselineRecord
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.spec.precision import Precision
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.calibrate import SAMPLES, Calibration
from fewbits.workflow.candidates import Candidate, Contest, figures
from fewbits.workflow.goal import Goal, check_goal
from fewbits.workflow.next_step import next_steps
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.ready import Opened, Ready
from fewbits.workflow.report import report
from fewbits.workflow.scoring import MetricLike, Scoring, check_metric
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.subject import Subject
from fewbits.workflow.verdict import Outcome, Status, Verdict, conclude
from fewbits.workflow.writing import Options

PRECISIONS = ("w8a8", "w8a16", "w16a16", "fp16")


@dataclass(frozen=True, slots=True, eq=False)
class BaselineResult:
    """What `baseline` found.

    Attributes:
        float_score: of the prepared float model.
        candidates: in the order asked for.
        goal: what was acceptable.
        verdict: what the scores say.
        record: what was written to record.json: costs, refused precisions, next steps and notes, too.
        output: the folder, or None.
        calibration: can serve further precisions.
        scoring: can score further models.
    """

    float_score: Evaluation
    candidates: tuple[Candidate, ...]
    goal: Goal
    verdict: Verdict
    record: BaselineRecord
    output: Path | None
    calibration: Calibration
    scoring: Scoring


def baseline(
    model: ModelLike,
    *,
    data: DataLike,
    precisions: Sequence[str] = PRECISIONS,
    output: str | Path | None = None,
    target: str | Path | Target = DEFAULT_TARGET,
    metric: MetricLike | None = None,
    higher_is_better: bool | None = None,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
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
    ready: Ready | None = None,
    progress: Watcher | None = None,
) -> BaselineResult:
    """Score a model in several precisions and conclude what it is sensitive to.

    The float model runs once over the calibration data, whatever the number of precisions. Each precision is written to
    a folder of its own as it is done: what is finished stays when the run is stopped.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose pinned encodings stay.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        precisions: what to score: w8a8, w8a16, w16a16, fp16, also w4a8, w4a16 ...
        output: folder; each precision gets a folder inside it. None writes nothing.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        metric: a name, file.py:function, or a function of `predict`; None chooses one by labels and outputs.
        higher_is_better: direction of the user's own metric.
        max_drop: acceptable drop: 0.5 in the metric's unit, "0.5%" of the float score; None allows 1 % of it.
        min_sqnr: least acceptable SQNR in dB where the metric is sqnr; None takes 20.
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
        ready: what an earlier verb made ready from the same model and data; None does it.
        progress: told of each stage.

    Raises:
        FewbitsError: something that the caller gave cannot be used; the message says what to do.
    """
    options: Options = {name: value for name, value in locals().items() if name not in ("progress", "ready")}
    wanted = _parse(precisions)
    check_ranges(ranges, weight_ranges)
    check_goal(max_drop, min_sqnr)
    named = check_metric(metric, higher_is_better)
    stages = Stages(progress)
    with staged(output) as folder:
        if ready is None:
            opened = Opened.of(options, named, stages)
            possible, refused = _possible(opened.subject, wanted)
            ready = opened.score(options, stages).calibrate(options, stages)
        else:
            possible, refused = _possible(ready.calibration.subject, wanted)
        contest = Contest.of(ready, stages, options)
        candidates = tuple(_candidate(contest, precision) for precision in possible)
        result = _result(contest, candidates, refused)
        if output is not None:
            write_file(folder / names.RECORD, result.record.to_json().encode())
            report(folder)
    return result


def _candidate(contest: Contest, precision: str) -> Candidate:
    """Make, write and score one precision."""
    options = {**contest.options, "precision": precision}
    del options["precisions"]
    return contest.score(precision, contest.make(precision, precision), precision, options)


def _result(contest: Contest, candidates: tuple[Candidate, ...], refused: Mapping[str, str]) -> BaselineResult:
    """Conclude, and put all of it together."""
    before, goal = contest.before, contest.goal
    outcomes = [Outcome(c.precision, c.status, goal.drop(c.drop, c.score), figures(c, before)) for c in candidates]
    verdict = conclude(outcomes, goal.max_drop)
    common = (*contest.calibration.target.notes, *contest.calibration.source.notes)
    record = BaselineRecord(
        verb="baseline",
        rows=tuple(candidate.row for candidate in candidates),
        refused=refused,
        verdict={**asdict(verdict), "finding": verdict.finding.value},
        next_steps=next_steps(verdict, contest.options, contest.output),
        notes=tuple(_notes(candidates, before.samples, common)),
        **contest.facts(),
    )
    return BaselineResult(
        before, candidates, goal, verdict, record, contest.output, contest.calibration, contest.scoring
    )


def _parse(precisions: Sequence[str]) -> list[str]:
    if not precisions:
        raise SpecError(f"No precision was named: write --precisions {','.join(PRECISIONS)}.")
    found = list(dict.fromkeys(str(Precision.parse(text)) for text in precisions))
    if "fp32" in found:
        raise SpecError("fp32 is the float model itself, which is always scored: leave it out of --precisions.")
    return found


def _possible(subject: Subject, precisions: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the precisions that the target takes, and for the others why not.

    Raises:
        SpecError: it takes none of them.
    """
    refused: dict[str, str] = {}
    for precision in precisions:
        try:
            resolve(subject.model, Profile.parse(precision), subject.target)
        except SpecError as error:
            refused[precision] = str(error)
    possible = [precision for precision in precisions if precision not in refused]
    if not possible:
        raise SpecError(next(iter(refused.values())))
    return possible, refused


def _notes(candidates: Iterable[Candidate], samples: int, common: tuple[str, ...]) -> Iterator[str]:
    """Yield what holds for all of them once, then what is each candidate's own."""
    yield from common
    for candidate in candidates:
        yield from (f"{candidate.precision}: {note}" for note in candidate.record.notes if note not in common)
        interval, value = candidate.drop.interval, candidate.drop.value
        if candidate.status is Status.NOISE and interval is not None:
            needed = math.ceil(samples * ((interval[1] - interval[0]) / 2 / value) ** 2)
            yield (
                f"{candidate.precision}: the drop of {value:.2f} lies inside its interval ({interval[0]:.2f} to "
                f"{interval[1]:.2f}), so it is noise: about {needed} samples, instead of {samples}, would tell."
            )

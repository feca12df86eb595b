"""Verb litemp: lite mixed precision, step 2 of the workflow. The most sensitive groups in a higher precision."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from fewbits.analysis.evaluate import Evaluation
from fewbits.analysis.sensitivity import Sensitivity
from fewbits.artifact.folder import staged
from fewbits.errors import SpecError
from fewbits.quantization.groups import Group, profile_of
from fewbits.reporting.litemp_record import LitempRecord, Step
from fewbits.runtime.data import Preprocess
from fewbits.runtime.data.open import DataLike
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import STORE, Store
from fewbits.spec.precision import Precision
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.brute_force import SAMPLES as RANK_SAMPLES
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import SAMPLES, Calibration
from fewbits.workflow.candidates import Candidate, Contest, publish
from fewbits.workflow.ceiling import ONE_PASS
from fewbits.workflow.deadline import Deadline
from fewbits.workflow.goal import Goal, check_goal
from fewbits.workflow.lifting import lifted, lifted_together, lifting_order, mac_shares
from fewbits.workflow.litemp_steps import Contestants, Lifted, reason_of, steps_after
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.ranges import check_ranges
from fewbits.workflow.ready import Opened, Ready
from fewbits.workflow.report import report
from fewbits.workflow.scoring import MetricLike, Scoring, check_metric
from fewbits.workflow.sensitivity import choose_method, one_pass, settle_method
from fewbits.workflow.source import ModelLike
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.verdict import Status
from fewbits.workflow.writing import Options

PERCENTS = (5.0, 10.0, 20.0, 40.0)
_OWN_OPTIONS = (
    "base", "high", "percents", "score_all", "most_macs", "time_limit", "ranking", "rank_samples", "sensitivity",
)  # fmt: skip
"""Options that `quantize` does not have."""
_PROJECTIONS, _MOST_PROBES = 256, 16
"""Samples x probes of the ranking: what is left when the worst groups are lifted is told apart by small figures."""


@dataclass(frozen=True, slots=True, eq=False)
class LitempResult:
    """What `litemp` found.

    Attributes:
        float_score: of the prepared float model.
        base: everything in the base precision.
        high: everything in the higher precision.
        steps: the percentages that were scored, rising.
        accepted: index in `steps` of the first that is within the goal, or None.
        best: what the output folder holds: the cheapest within the goal, or the one with the least drop.
        goal: what was acceptable.
        sensitivity: by which the groups were ranked; None where no percentage was scored.
        record: what was written to record.json: reason, next steps and notes, too.
        output: the folder, or None.
        calibration: can serve further precisions.
        scoring: can score further models.
    """

    float_score: Evaluation
    base: Candidate
    high: Candidate
    steps: tuple[Lifted, ...]
    accepted: int | None
    best: Candidate
    goal: Goal
    sensitivity: Sensitivity | None
    record: LitempRecord
    output: Path | None
    calibration: Calibration
    scoring: Scoring


def litemp(
    model: ModelLike,
    *,
    data: DataLike,
    base: str = "w8a8",
    high: str = "w8a16",
    percents: Sequence[float] = PERCENTS,
    score_all: bool = False,
    most_macs: float | None = None,
    time_limit: float | str | None = None,
    ranking: str = "auto",
    rank_samples: int = RANK_SAMPLES,
    sensitivity: Sensitivity | None = None,
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
) -> LitempResult:
    """Lift the most sensitive groups to a higher precision, percentage by percentage, until the drop is acceptable.

    Both precisions are scored first. Nothing is lifted where the base is acceptable, or where not even the whole
    network in the higher precision is. Each percentage is written to a folder of its own as it is done (p05, p10 ...),
    and what was measured of the groups is kept beside them: what is finished stays when the run is stopped, and
    measuring goes on where it was. The output folder itself holds the best model, with all its files.

    Args:
        model: a path, bytes, a model in memory, or the output folder of an earlier run, whose pinned encodings stay.
        data: calibration data: an image folder, .npz, .npy, a folder of them, an input list, file.py:function, arrays.
        base: precision of the groups that are not lifted.
        high: precision of those that are.
        percents: of the groups to lift, above 0 and up to 100; whole groups, rounded up.
        score_all: score every percentage, acceptable or not.
        most_macs: lift no more than this percent of the multiply-accumulates.
        time_limit: seconds, "10m", "1.5h": groups are not ranked and no percentage is scored after that.
        ranking: "one-pass", with gradients, needs torch; "brute-force" runs the network once per group and precision;
            "auto" is the former where torch is installed.
        rank_samples: calibration samples to rank on, at most.
        sensitivity: of this network in both precisions; None finds it out.
        output: folder; None writes nothing.
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
    options |= {"sensitivity": sensitivity.method if sensitivity else None}
    deadline = Deadline.after(time_limit)
    wanted = _Wanted.parse(base, high, percents, most_macs)
    options |= {"base": wanted.base, "high": wanted.high, "percents": wanted.percents}
    options |= {"ranking": _ranking(ranking, rank_samples, sensitivity)}
    check_ranges(ranges, weight_ranges)
    check_goal(max_drop, min_sqnr)
    named = check_metric(metric, higher_is_better)
    stages = Stages(progress)
    later = (ONE_PASS,) if options["ranking"] == "one-pass" and sensitivity is None else ()
    with staged(output) as folder:
        if ready is None:
            opened = Opened.of(options, named, stages, later=later).check((wanted.base, wanted.high))
            ready = opened.score(options, stages).calibrate(options, stages)
        if sensitivity is None:
            options["ranking"] = settle_method(ranking, options["ranking"], ready.calibration.model)
        contest = Contest.of(ready, stages, options)
        return _Run(contest, wanted, sensitivity, deadline, progress).result(folder)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The caller's precisions and percentages, checked."""

    base: str
    high: str
    percents: tuple[float, ...]
    most_macs: float | None

    @classmethod
    def parse(cls, base: str, high: str, percents: Sequence[float], most_macs: float | None) -> "_Wanted":
        low, top = Precision.parse(base), Precision.parse(high)
        for precision in (low, top):
            if str(precision) == "fp32":
                raise SpecError("fp32 is the float model itself: lift to fp16 or w16a16.")
        if low == top:
            raise SpecError(f"The base and the higher precision are both {low}: name two, such as w8a8 and w8a16.")
        if _widths(top)[0] <= _widths(low)[0] and _widths(top)[1] <= _widths(low)[1] and _widths(top) != _widths(low):
            raise SpecError(f"{top} is narrower than the base {low}: exchange the two.")
        if not percents:
            raise SpecError("No percentage was named: write how many percent of the groups to lift, such as 5,10,20.")
        for percent in (*percents, *(() if most_macs is None else (most_macs,))):
            if not 0 < percent <= 100:
                raise SpecError(f"{percent:g} % is no share to lift: write percentages above 0 and up to 100.")
        return cls(str(low), str(top), tuple(sorted({float(percent) for percent in percents})), most_macs)


def ranking_probes(samples: int) -> int:
    """Return the random projections per sample by which groups are ranked on so many samples."""
    return min(math.ceil(_PROJECTIONS / samples), _MOST_PROBES)


def _widths(precision: Precision) -> tuple[float, float]:
    return (16, 16) if precision.is_float else precision.widths


def _ranking(name: str, samples: int, sensitivity: Sensitivity | None) -> str:
    if samples < 1:
        raise SpecError(f"Groups cannot be ranked on {samples} samples: write at least 1.")
    return sensitivity.method if sensitivity is not None else choose_method(name, "ranking")


@dataclass
class _Run:
    """One run: what was scored, and what was skipped."""

    contest: Contest
    wanted: _Wanted
    given: Sensitivity | None
    deadline: Deadline
    watcher: Watcher | None
    sensitivity: Sensitivity | None = None
    is_cut: bool = False
    notes: list[str] = field(default_factory=list)

    def result(self, folder: Path) -> LitempResult:
        """Score everything, and write the best and the record into `folder`."""
        contest, wanted = self.contest, self.wanted
        made = [contest.make(precision, precision) for precision in (wanted.high, wanted.base)]
        high, base = (
            contest.score(name, whole, name, self._options(name))
            for name, whole in zip((wanted.high, wanted.base), made, strict=True)
        )
        steps = []
        can_help = base.status is not Status.OK and high.status is not Status.POOR
        if can_help or contest.options["score_all"]:
            for step in self._steps(made[1], made[0]):
                steps.append(step)
                if step.candidate.status is Status.OK and not contest.options["score_all"]:
                    break
        found = Contestants(contest.before, contest.goal, base, high, tuple(steps), self.is_cut)
        record = self._record(found)
        if contest.output is not None:
            assert found.best.output is not None
            publish(found.best.output, found.best.record, record, folder)
            report(folder)
        return LitempResult(
            contest.before, base, high, found.steps, found.accepted, found.best, contest.goal, self.sensitivity, record,
            contest.output, contest.calibration, contest.scoring,
        )  # fmt: skip

    def _steps(self, base: Quantized, high: Quantized) -> Iterator[Lifted]:
        """Score one percentage after the other, where it lifts more groups than the one before."""
        contest, wanted = self.contest, self.wanted
        if self._is_late(wanted.percents[0]):
            return
        self.sensitivity = self.given or self._rank(base, high)
        order = lifting_order(base.plan, self.sensitivity, wanted.base, wanted.high)
        shares = mac_shares(contest.calibration, order, contest.sizes)
        precision, done = Precision.parse(wanted.high), 0
        for percent in wanted.percents:
            if self._is_late(percent):
                return
            groups = self._choose(order, percent, shares)
            if len(groups) <= done:
                limit = (
                    "" if wanted.most_macs is None else f" within {wanted.most_macs:g} % of the multiply-accumulates"
                )
                self.notes.append(f"{percent:g} % lifts no more than {done} groups{limit}: it was not scored again.")
                continue
            done = len(groups)
            name = f"{wanted.base} + {percent:g} % {wanted.high}"
            made = contest.make(name, profile_of(dict.fromkeys(groups, precision), Precision.parse(wanted.base)))
            scored = contest.score(name, made, f"p{percent:02g}", self._options(wanted.base, groups))
            share = None if shares is None else sum(shares[group.name] for group in groups)
            yield Lifted(percent, tuple(group.name for group in groups), share, scored)

    def _is_late(self, percent: float) -> bool:
        """Whether the time is up before a percentage, which is noted."""
        if self.deadline.is_over():
            self.is_cut = True
            self.notes.append(f"{percent:g} % and what follows were not scored: the time was up.")
        return self.is_cut

    def _choose(self, order: Sequence[Group], percent: float, shares: Mapping[str, float] | None) -> tuple[Group, ...]:
        """Return the best set where the noise between groups is known, the first of the order elsewhere."""
        wanted, noise = self.wanted, {} if self.sensitivity is None else self.sensitivity.noise
        if wanted.base in noise and wanted.high in noise:
            both = (noise[wanted.base], noise[wanted.high])
            return lifted_together(order, both, percent, shares=shares, most_macs=wanted.most_macs)
        return lifted(order, percent, shares=shares, most_macs=wanted.most_macs)

    def _rank(self, base: Quantized, high: Quantized) -> Sensitivity:
        contest = self.contest
        samples = contest.options["rank_samples"]
        if contest.options["ranking"] == "one-pass":
            with contest.stages.stage("rank groups", samples) as told:
                count = min(samples, contest.calibration.statistics.samples)
                return one_pass(
                    contest.calibration, (base, high), samples=samples, probes=ranking_probes(count), with_noise=True,
                    progress=told,
                )  # fmt: skip
        path = None if contest.output is None else contest.output / STORE
        with contest.stages.stage("rank groups"), Store(path) as store:
            return brute_force(contest.calibration, (base, high), samples=samples, store=store, progress=self.watcher)

    def _options(self, precision: str, groups: Sequence[Group] = ()) -> dict[str, Any]:
        """Return the options with which `quantize` makes a candidate."""
        options = {name: value for name, value in self.contest.options.items() if name not in _OWN_OPTIONS}
        profile = {node: self.wanted.high for group in groups for node in group.nodes}
        return {**options, "precision": precision, "profile": profile or None}

    def _record(self, found: Contestants) -> LitempRecord:
        contest, wanted = self.contest, self.wanted
        everything = [found.base, *(step.candidate for step in found.steps), found.high]
        method = self.sensitivity.method if self.sensitivity else contest.options["ranking"]
        return LitempRecord(
            verb="litemp",
            base=wanted.base,
            high=wanted.high,
            ranking=cast('Literal["one-pass", "brute-force"]', method),
            base_row=found.base.row,
            high_row=found.high.row,
            steps=tuple(_step(step) for step in found.steps),
            accepted=found.accepted,
            reason=reason_of(found),
            next_steps=steps_after(found, contest.options, contest.output),
            notes=(*self.notes, *dict.fromkeys(note for c in everything for note in c.record.notes)),
            refused={},
            **contest.facts(),
        )


def _step(step: Lifted) -> Step:
    row, output = step.candidate.row, step.candidate.output
    return Step(
        percent=step.percent, groups=len(step.groups), share_macs=step.share_macs, lifted=step.groups, score=row.score,
        drop=row.drop, interval=row.interval, status=row.status, bit_operations=row.bit_operations,
        weight_bytes=row.weight_bytes, folder=None if output is None else output.name,
    )  # fmt: skip

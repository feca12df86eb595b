"""Verb brute_force: the sensitivity of every group, each measured by runs of its own. Slow, and the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from fewbits.analysis.score_cache import CachedPredict
from fewbits.analysis.sensitivity import PARTS, Figure, Part, Sensitivity
from fewbits.errors import SpecError
from fewbits.numerics.output_error import Normalize
from fewbits.quantization.encode import Encoded
from fewbits.quantization.groups import Group, find_groups, profile_of
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.overflow import half_overflows
from fewbits.quantization.partial import encoded_alike, restricted
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.reporting.record import versions
from fewbits.runtime.parallel import Team, Workers
from fewbits.runtime.progress import Progress
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store, key_of
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16, FP32, Precision
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.content_keys import model_key, plan_key
from fewbits.workflow.judge import Judge, Measure, OutputJudge, ScoreJudge, SentMeasure
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.sessions import open_graph
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.subject import Subject
from fewbits.workflow.workers_sent import LateRunner, SentModel, on_threads

SAMPLES = 64
Mode = Literal["alone-quantized", "alone-float"]

_ROLES: Mapping[Part, frozenset[Role]] = {
    "all": frozenset(Role),
    "weights": frozenset({Role.WEIGHT, Role.BIAS}),
    "activations": frozenset({Role.ACTIVATION, Role.CONSTANT}),
}
"""Constants have the width of activations, with which they are added or multiplied."""


def brute_force(
    calibration: Calibration,
    precisions: Sequence[str | Quantized],
    *,
    mode: Mode = "alone-quantized",
    parts: Sequence[Part] = ("all",),
    samples: int = SAMPLES,
    outputs: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    score: Scoring | None = None,
    normalize: Normalize = "channel",
    store: Store | None = None,
    ranges: str = "auto",
    weight_ranges: str = "auto",
    bias_correction: bool = True,
    workers: Workers | None = None,
    progress: Watcher | None = None,
) -> Sensitivity:
    """Measure every group in every precision by running the network with that group quantized, and nothing else.

    Encodings are those of the whole network in that precision: a group carries the noise that it carries there. Errors
    and drops are those against the model that was calibrated, also where an improver gave that one other weights.

    Args:
        calibration: of the float model; its samples are used again.
        precisions: names; or the whole network in one precision, as `quantize_calibrated` made it.
        mode: "alone-quantized"; or "alone-float", where only the group stays in float and its error is what quantizing
            it adds to the error of the others.
        parts: what of a group is quantized: "all", and on request "weights" (with biases) and "activations" (with the
            constants that they meet). fp16 has no such parts.
        samples: calibration samples to run, at most.
        outputs: the outputs whose error counts; None takes all float outputs that vary.
        groups: names of the groups to measure; None measures all.
        score: judge by the drop of this score instead of the error of outputs; `samples` and `outputs` do not matter.
        normalize: divide squared errors by each channel's variance, or by the power of the output.
        store: what was measured before is taken from there, and what is measured is put there at once.
        ranges: auto, minmax, mse, entropy or percentile:99.99; for precisions given by name.
        weight_ranges: auto, absmax or mse; likewise.
        bias_correction: let biases take up the mean error of rounded weights; likewise.
        workers: who runs the networks; None is this process. The figures are the same whoever does.
        progress: told of each precision, with one step per figure.

    Raises:
        SpecError: a precision, mode or part cannot be, or no output is left to judge by; there are no such workers.
    """
    _check(mode, parts)
    if not precisions:
        raise SpecError("No precision was named: write the precisions whose errors are wanted, such as w8a8.")
    names = [_name(precision) for precision in precisions]
    judge: Judge = (
        ScoreJudge(_against_calibrated(score, calibration.subject))
        if score
        else OutputJudge(calibration, samples, outputs, normalize)
    )
    runs = _Runs(calibration, judge, store or Store())
    stages = Stages(progress)
    found, figures = _named(find_groups(calibration.model.graph, calibration.target), groups), {}
    with (workers or Workers()).team(runs.bench, runs.recipe) as team:
        for name, given in zip(names, precisions, strict=True):
            whole = given if isinstance(given, Quantized) else quantize_calibrated(
                calibration, name, ranges=ranges, weight_ranges=weight_ranges, bias_correction=bias_correction
            )  # fmt: skip
            wanted = [part for part in PARTS if part in parts and (part == "all" or name != str(FP16))]
            with stages.stage(f"brute force {name}", len(found) * len(wanted)) as told:
                cases = [_Case(whole, group, part, mode) for group in found for part in wanted]
                for case, error in zip(cases, runs.errors(cases, team, told), strict=True):
                    figures[case.group.name, name, case.part] = Figure(error)
    return Sensitivity(
        method="brute-force", groups=found, precisions=tuple(dict.fromkeys(names)), samples=judge.samples, probes=0,
        outputs=runs.outputs(), figures=figures, metric=judge.metric,
    )  # fmt: skip


def _against_calibrated(scoring: Scoring, subject: Subject) -> Scoring:
    if subject.source.reference is None:
        return scoring
    return replace(scoring, reference=CachedPredict(subject.runner))


def _named(groups: tuple[Group, ...], names: Sequence[str] | None) -> tuple[Group, ...]:
    if names is None:
        return groups
    unknown = sorted(set(names) - {group.name for group in groups})
    if unknown:
        raise SpecError(f"The network has no group {unknown[0]!r}: groups are named by their first node.")
    return tuple(group for group in groups if group.name in names)


@dataclass(frozen=True, slots=True)
class _Case:
    """One figure: what quantizing a part of a group costs."""

    whole: Quantized
    group: Group
    part: Part
    mode: Mode


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """What every run needs."""

    model: ir.Model
    measure: Measure
    options: RunOptions


@dataclass(frozen=True, slots=True, eq=False)
class _BenchRecipe:
    model: SentModel
    measure: SentMeasure
    options: RunOptions

    def open(self, threads: int) -> _Bench:
        options = on_threads(self.options, threads)
        return _Bench(self.model.load(), self.measure.open(LateRunner(self.model, options)), options)


_Job = tuple[Plan, Encoded]
"""A network of which a part is quantized."""


def _run(bench: _Bench, job: _Job) -> float:
    return bench.measure.error(open_graph(insert_qdq(bench.model, *job), bench.options))


class _Runs:
    """Says which networks are to be run for a figure, and remembers what came of it."""

    def __init__(self, calibration: Calibration, judge: Judge, store: Store) -> None:
        self._calibration, self._judge = calibration, judge
        identity = judge.identity
        self._store = store if identity is not None else Store()
        where = calibration.subject.options.identity()
        self._context = key_of("brute force", versions(), model_key(calibration.model), identity, *where)
        self._refused = half_overflows(calibration.model.graph, calibration.statistics)
        self._last: tuple[Quantized, str, _Job] | None = None

    def bench(self) -> _Bench:
        """Return what runs need in this process."""
        return _Bench(self._calibration.model, self._judge, self._calibration.subject.options)

    def recipe(self) -> _BenchRecipe:
        """Return what runs need in a worker."""
        options = self._calibration.subject.options
        return _BenchRecipe(SentModel(self._calibration.model), self._judge.sent(), options)

    def outputs(self) -> tuple[str, ...]:
        """Return the outputs that the judge looks at."""
        return tuple(self._store.remember(key_of(self._context, "outputs"), lambda: self._judge.outputs))

    def errors(self, cases: Sequence[_Case], team: Team, told: Progress) -> list[float]:
        """Return what each of the cases costs; what comes of a run is put into the store as it ends."""
        terms, known, missing = [], {_FLOAT: 0.0}, dict[str, _Job]()
        for case in cases:
            jobs = [(self._key(job), job) for job in self._jobs(case)]
            terms.append([key for key, _ in jobs])
            for key, job in jobs:
                found = known[key] if key in known else self._store.get(key)
                if found is None:
                    missing[key] = job
                else:
                    known[key] = float(found)
        keys, done = list(missing), 0
        for index, error in team.map(_run, missing.values()) if missing else ():
            self._store.put(keys[index], error)
            known[keys[index]] = error
            before, done = done, sum(known.keys() >= set(of) for of in terms)
            told.advance(done - before)
        told.advance(len(cases) - done)
        return [known[first] - sum(known[other] for other in others) for first, *others in terms]

    def _jobs(self, case: _Case) -> list[_Job]:
        """Return the network whose error the figure is; in mode alone-float, and one to subtract."""
        whole, precision = case.whole, case.whole.profile.default
        if case.mode == "alone-float":
            return [(whole.plan, whole.encoded), self._job(whole, profile_of({case.group: FP32}, precision))]
        if self._last is None or self._last[0] is not whole or self._last[1] != case.group.name:
            self._last = whole, case.group.name, self._job(whole, profile_of({case.group: precision}))
        plan, encoded = self._last[2]  # the parts of a group are cut out of one plan
        return [(plan if case.part == "all" else restricted(plan, _ROLES[case.part]), encoded)]

    def _job(self, whole: Quantized, profile: Profile) -> _Job:
        plan = resolve(self._calibration.model, profile, self._calibration.target, half_refused=self._refused)
        return plan, encoded_alike(whole.plan, whole.encoded, plan)

    def _key(self, job: _Job) -> str:
        plan, encoded = job
        if not plan.grids and not any(node.precision == FP16 for node in plan.nodes.values()):
            return _FLOAT
        return key_of(self._context, plan_key(plan, encoded))


_FLOAT = "float"  # nothing is quantized: no error, and nothing to run


def _check(mode: str, parts: Sequence[str]) -> None:
    if mode not in ("alone-quantized", "alone-float"):
        raise SpecError(f"Unknown mode {mode!r}: write alone-quantized or alone-float.")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise SpecError(f"Unknown part {unknown[0] if unknown else ''!r} of a group: write {', '.join(PARTS)}.")
    if mode == "alone-float" and tuple(parts) != ("all",):
        raise SpecError("Weights and activations apart can be measured alone-quantized only: leave the parts out.")


def _name(precision: str | Quantized) -> str:
    if isinstance(precision, Quantized):
        if precision.profile.nodes:
            raise SpecError(f"Sensitivity is measured in one precision at a time, not in {precision.profile}.")
        return str(precision.profile)
    parsed = Precision.parse(precision)
    if parsed == FP32:
        raise SpecError("fp32 is the float model itself: name the precisions whose errors are wanted.")
    return str(parsed)

"""The steps of the workflow as the verbs carry them out, each into a folder of its own inside that of the run."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fewbits.analysis.cost import cost_of, sizes_of
from fewbits.errors import MissingOperatorError, SpecError
from fewbits.improvement.result import OUT_OF_TIME
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.reporting.auto_record import Contender
from fewbits.reporting.baseline_record import Row
from fewbits.spec.precision import Precision
from fewbits.training.schedule import Training
from fewbits.workflow.amp import amp
from fewbits.workflow.auto_facts import BASE
from fewbits.workflow.auto_latency import DEVICE, ORT
from fewbits.workflow.auto_rules import Aim
from fewbits.workflow.baseline import PRECISIONS, baseline
from fewbits.workflow.candidates import Candidate
from fewbits.workflow.ceiling import Room
from fewbits.workflow.improve import ImproveResult, improve
from fewbits.workflow.improve_run import NothingToImproveError
from fewbits.workflow.litemp import litemp
from fewbits.workflow.qat import train
from fewbits.workflow.ready import Ready
from fewbits.workflow.stages import Watcher
from fewbits.workflow.verdict import Status, Verdict
from fewbits.workflow.writing import Options

WIDE = "w8a16"
QUICK_METHODS = ("cle", "smooth", "balance", "bias-correction", "seq-mse", "gptq")
"""Of step 4, tried first: minutes at most."""
_SHARED = (
    "data", "target", "metric", "higher_is_better", "max_drop", "min_sqnr", "eval_data", "samples", "eval_samples",
    "dims", "simplify", "preprocess", "batch_size", "run_options",
)  # fmt: skip
_LEAST_MINUTES = 0.1
_WIDEST_PINNED = 8
"""Bits of weights that better weights are made for."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a step made.

    Attributes:
        found: what came of it, as a sentence.
        contenders: models that were scored and were not known before.
        evaluations: scores that were not remembered.
        folder: of the step's files, relative to the run; None where it left none.
        verdict: of uniform precisions, where the step scored some.
    """

    found: str
    contenders: tuple[Contender, ...] = ()
    evaluations: int = 0
    folder: str | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a step starts from.

    Attributes:
        ready: the float model, calibrated.
        model: what its record names as the model.
    """

    ready: Ready
    model: Any


@dataclass(eq=False)
class Steps:
    """The verbs of one run, which share what was made ready.

    Attributes:
        options: of the run, by name.
        folder: of the run.
        ready: the float model, calibrated; later the one with better weights.
        model: what the verbs' records name as the model: what the caller gave, or the folder of better weights.
        watcher: told of each stage.
        deadline: time.monotonic() at which the run is to end; None sets no limit.
        refused: precision -> why the target does not take it.
        has_better_weights: an improver changed something and was kept.
        room: what fits into the memory that the run may take.
        begin: the model that the caller gave.
    """

    options: Options
    folder: Path
    ready: Ready
    model: Any
    watcher: Watcher | None = None
    deadline: float | None = None
    refused: dict[str, str] = field(default_factory=dict)
    has_better_weights: bool = False
    room: Room = field(default_factory=Room)
    begin: "Start" = field(init=False)

    def __post_init__(self) -> None:
        self.begin = self._best_weights

    def run(self, step: str, *, wide: str | None, aim: Aim, fails: bool) -> Made:
        """Carry out a step.

        Args:
            step: a name from the table of rules, but stop.
            wide: the cheapest uniform precision above w8a8 that is acceptable.
            aim: what is wanted beyond the goals.
            fails: whether w8a8 is not acceptable.

        Raises:
            FewbitsError: something that the caller gave cannot be used, or cannot be run.
        """
        table: Mapping[str, Callable[[], Made]] = {
            "baseline": lambda: self._uniform("baseline", PRECISIONS),
            "again": lambda: self._uniform("again", (BASE, WIDE)),
            "litemp": lambda: self._litemp(wide or WIDE),
            "amp": lambda: self._amp("amp", self._candidates(wide), self._cost(aim)),
            "narrow": lambda: self._improve("narrow", "w4a16" if fails else "w4a8", (*QUICK_METHODS, "adaround")),
            "narrow-amp": lambda: self._amp("narrow-amp", ("w4a8", *self._candidates(wide)), self._cost(aim)),
            "improve": lambda: self._improve("improve", BASE, QUICK_METHODS),
            "adaround": lambda: self._improve("adaround", BASE, ("adaround",)),
            "qat": self._qat,
        }
        return table[step]()

    @property
    def left_s(self) -> float | None:
        """Seconds until the run is to end; None where no limit was set."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    @property
    def _least_left_s(self) -> float | None:
        """Seconds for a step that was begun in time, which is made although the time may be up by now."""
        return None if self.left_s is None else max(self.left_s, 60 * _LEAST_MINUTES)

    def _given(self, step: str, start: "Start | None" = None) -> tuple[dict[str, Any], Ready]:
        """Return the options that all verbs share, and what is ready, with its own count of scores."""
        ready = (start or self._best_weights).ready.again()
        shared = {name: self.options[name] for name in _SHARED}
        return {**shared, "output": self.folder / step, "ready": ready, "progress": self._told(step)}, ready

    @property
    def _best_weights(self) -> "Start":
        return Start(self.ready, self.model)

    def _start(self, precisions: Iterable[str]) -> "Start":
        """Return the model that profiles of some precisions start from.

        Better weights lie on the grids of 8 bits and are pinned there: no wider precision brings back what they lack.
        """
        is_wide = any((p := Precision.parse(name)).is_float or p.weight_bits > _WIDEST_PINNED for name in precisions)
        return self.begin if is_wide else self._best_weights

    def _told(self, step: str) -> Watcher | None:
        watcher = self.watcher
        return None if watcher is None else lambda stage, samples: watcher(f"{step}: {stage}", samples)

    def _uniform(self, step: str, precisions: tuple[str, ...]) -> Made:
        given, ready = self._given(step)
        result = baseline(self.model, precisions=precisions, **given)
        self.refused |= result.record.refused
        prefix = "" if step == "baseline" else f"{step}-"
        made = tuple(self._of_candidate(step, f"{prefix}{c.precision}", c) for c in result.candidates)
        found = f"{result.verdict.finding.value}: {result.verdict.reason}"
        return Made(found, made, ready.memory.runs, step, result.verdict)

    def _litemp(self, wide: str) -> Made:
        start = self._start((BASE, wide))
        given, ready = self._given("litemp", start)
        result = litemp(
            start.model, base=BASE, high=wide, time_limit=self._least_left_s, ranking=self.room.ranking, **given
        )
        steps = [(f"litemp-p{step.percent:02g}", step.candidate) for step in result.steps]
        made = tuple(self._of_candidate("litemp", name, candidate) for name, candidate in steps)
        return Made(result.record.reason, made, ready.memory.runs, "litemp")

    def _amp(self, step: str, candidates: tuple[str, ...], cost: str) -> Made:
        possible = tuple(name for name in dict.fromkeys(candidates) if self._takes(name))
        if len(possible) < 2:
            return Made(f"{self.ready.subject.target.name} takes no more than one of {', '.join(candidates)}")
        start = self._start(possible)
        given, ready = self._given(step, start)
        result = amp(
            start.model,
            candidates=possible,
            cost=cost,
            time_limit=self._least_left_s,
            ranking=self.room.ranking,
            **given,
        )
        made = []
        for point in result.record.points:
            if point.folder is not None and point.score is not None and point.drop is not None:
                shares = " + ".join(f"{share:.0%} {name}" for name, share in point.shares.items())
                name, folder = f"{step}-{point.folder}", f"{step}/{point.folder}"
                row = Row(
                    name, point.score, point.drop, point.interval, point.status, point.bit_operations,
                    point.weight_bytes or 0,
                )  # fmt: skip
                made.append(contender(step, shares, folder, row))
        return Made(result.record.reason, tuple(made), ready.memory.runs, step)

    def _candidates(self, wide: str | None) -> tuple[str, ...]:
        return (BASE, WIDE) if wide is None else (BASE, WIDE, wide)

    def _takes(self, precision: str) -> bool:
        if precision not in self.refused:
            subject = self.ready.subject
            try:
                resolve(subject.model, Profile.parse(precision), subject.target)
            except SpecError as error:
                self.refused[precision] = str(error)
        return precision not in self.refused

    def _cost(self, aim: Aim) -> str:
        """Return the cost model that `amp` goes by."""
        by = self.options["latency_by"]
        if aim is Aim.SMALLEST:
            return "bytes"
        if self.options["max_latency"] is None and aim is not Aim.FASTEST:
            return "bitops"
        return {ORT: "ort-latency", DEVICE: "bitops", None: "bitops"}.get(by, str(by))

    def _improve(self, step: str, precision: str, methods: tuple[str, ...]) -> Made:
        if not self._takes(precision):
            return Made(self.refused[precision])
        given, ready = self._given(step)
        try:
            result = improve(
                self.model, precision=precision, methods=methods, auto=True, time_limit=self._least_left_s,
                **given,
            )  # fmt: skip
        except NothingToImproveError as error:
            return Made(str(error))
        kept = [row for row in result.methods if row.kept and row.changed]
        if kept and precision == BASE:
            self.ready, self.model = ready.again(result.calibration), self.folder / step
            self.has_better_weights = True
        late = [row.name for row in result.methods if row.reason == OUT_OF_TIME]
        tried = ", ".join(row.name for row in result.methods if row.reason != OUT_OF_TIME)
        names = ", ".join(row.name for row in kept)
        found = f"of {tried}: {names} kept" if kept else f"none of {tried} made it better"
        found += f"; {OUT_OF_TIME} before {', '.join(late)}" if late else ""
        made = () if not kept else (self._of_improved(step, precision, result),)
        return Made(found, made, ready.memory.runs, step)

    def _qat(self) -> Made:
        given, ready = self._given("qat")
        left = self._least_left_s
        training = Training() if left is None else Training(minutes=left / 60)
        methods = ("qat",) if self.has_better_weights else ("gptq", "qat")
        try:
            result = train(self.model, precision=BASE, methods=methods, training=training, **given)
        except (NothingToImproveError, MissingOperatorError) as error:
            return Made(str(error))
        kept = any(row.kept and row.changed for row in result.methods)
        notes = [note for note in result.record.notes if note.startswith("qat:")]
        found = " ".join(notes) or "training changed nothing"
        return Made(found, (self._of_improved("qat", BASE, result),) if kept else (), ready.memory.runs, "qat")

    def _of_candidate(self, step: str, name: str, candidate: Candidate) -> Contender:
        assert candidate.output is not None
        row, folder = candidate.row, f"{step}/{candidate.output.name}"
        return contender(step, candidate.precision, folder, replace(row, precision=name))

    def _of_improved(self, step: str, precision: str, result: ImproveResult) -> Contender:
        model, made = result.calibration.model, result.quantized
        cost = cost_of(model, made.model, made.plan, sizes_of(model, self.ready.subject.first_feeds))
        row = Row(
            f"{step}-{precision}", result.score.value, result.drop.value, result.drop.interval, result.status.value,
            cost.bit_operations, cost.weight_bytes,
        )  # fmt: skip
        methods = ", ".join(row.name for row in result.methods if row.kept and row.changed)
        return contender(step, f"{precision} by {methods}", step, row)


def contender(step: str, precision: str, folder: str, row: Row) -> Contender:
    """Return a scored model as the record holds it; `row` has its name in place of the precision."""
    assert row.drop is not None
    return Contender(
        name=row.precision, step=step, precision=precision, folder=folder, score=row.score, drop=row.drop,
        interval=row.interval, status=row.status or Status.POOR.value, bit_operations=row.bit_operations,
        weight_bytes=row.weight_bytes,
    )  # fmt: skip

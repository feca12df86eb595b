"""The run of an improvement: one method after the other on the best state so far, each measured before the next."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fewbits.analysis.evaluate import Evaluation, drop
from fewbits.artifact import names
from fewbits.artifact.folder import temporary_folder
from fewbits.errors import DataError, MissingOperatorError, SpecError
from fewbits.graph.save import save_model
from fewbits.improvement.equalize import Clips
from fewbits.improvement.methods import Effort, Kind, Method
from fewbits.improvement.result import OUT_OF_TIME, Improved
from fewbits.numerics.output_error import RelativeOutputError
from fewbits.quantization.profile import Profile
from fewbits.runtime.data import Dataset
from fewbits.runtime.session import Runner
from fewbits.runtime.store import Store
from fewbits.training.schedule import CHECKPOINT, Training
from fewbits.workflow.calibrate import Calibration, calibrate_subject
from fewbits.workflow.ceiling import effort_within
from fewbits.workflow.deadline import Deadline
from fewbits.workflow.goal import Goal
from fewbits.workflow.improve_models import State, equalized, improved_subject, layers_to_round, rounded, trained
from fewbits.workflow.improve_steps import MethodRow, OutputError, decide, not_worse
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.score_memory import ScoreMemory, artifact_hash
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.verdict import Status
from fewbits.workflow.writing import Options, open_artifact

ERROR_SAMPLES = 64
"""Calibration samples that output errors are measured on, at most."""

UNCHANGED = "it changed nothing"
"""Why a method is not kept that has nothing else to say."""


class NothingToImproveError(SpecError):
    """No method can change any layer of a model."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What the caller asked for, checked.

    Attributes:
        methods: in the order in which they are applied.
        auto: keep what helps only.
        score_each: score after every method.
        profile: precisions.
        effort: of the methods that round.
        training: of the method that trains.
        clips: what becomes of Clips between layers that are equalized.
    """

    methods: tuple[Method, ...]
    auto: bool
    score_each: bool
    profile: Profile
    effort: Effort
    training: Training
    clips: Clips

    @property
    def trains(self) -> bool:
        """Whether a method trains, for which the others only make ready."""
        return any(method.kind is Kind.TRAIN for method in self.methods)


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """How good a state is.

    Attributes:
        output: error against the float model on calibration samples.
        score: the user's; None where it was not taken.
    """

    output: OutputError
    score: Evaluation | None


@dataclass(eq=False)
class ImproveRun:
    """One run: what it scores with, and what its methods did.

    Attributes:
        wanted: what was asked for.
        scoring: how models are scored.
        before: score of the float model.
        goal: what is acceptable.
        stages: told of every stage.
        options: what the caller asked for, by name.
        store: keeps rounded layers.
        memory: knows scores of files that were scored before.
        deadline: no method and no layer is begun after it.
        rows: what each method did.
        notes: sentences for the user.
    """

    wanted: Wanted
    scoring: Scoring
    before: Evaluation
    goal: Goal
    stages: Stages
    options: Options
    store: Store
    memory: ScoreMemory
    deadline: Deadline = field(default_factory=Deadline)
    rows: list[MethodRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _scores: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        """How many different quantized models were scored; what was remembered counts."""
        return len(self._scores)

    def quantize(self, calibration: Calibration, name: str) -> Quantized:
        """Return the quantized model of a calibration, in the precisions asked for.

        Raises:
            SpecError: they cannot be on this model and target.
        """
        with self.stages.stage(f"quantize {name}"):
            return quantize_calibrated(
                calibration, self.wanted.profile, ranges=self.options["ranges"],
                weight_ranges=self.options["weight_ranges"], bias_correction=self.options["bias_correction"],
            )  # fmt: skip

    def figures(self, state: State, name: str, *, with_score: bool) -> Figures:
        """Return the output error of a state, and its score where that is asked for.

        Raises:
            FewbitsError: it cannot be written, run or scored.
        """
        with temporary_folder() as folder:
            save_model(state.made.model, folder / names.ARTIFACT)
            runner = open_artifact(folder, state.calibration.subject.options)
            with self.stages.stage("measure outputs"):
                output = self._error(state.calibration, runner)
            return Figures(output, self.score(folder, runner, name) if with_score else None)

    def score(self, folder: Path, runner: Runner, name: str) -> Evaluation:
        """Return the score of the artifact in a folder; the same file is never scored twice.

        Raises:
            FewbitsError: it cannot be run or scored.
        """
        content = artifact_hash(folder)
        known = self._scores.get(content) or self.memory.get(content)
        if known is None:
            with self.stages.stage(f"score {name}", self.before.samples) as told:
                known = self.memory.put(content, self.scoring.score(runner, told))
        self._scores[content] = known
        return known

    def improve(self, state: State, figures: Figures) -> tuple[State, Figures]:
        """Apply the methods to a state, and return the last one that was kept.

        Raises:
            NothingToImproveError: no method can change anything.
            FewbitsError: a model cannot be made, run or scored.
        """
        self._check_labels(state.calibration.subject.data)
        for method in self.wanted.methods:
            if self.deadline.is_over():
                self.rows.append(_untried(method, OUT_OF_TIME))
                continue
            if self.wanted.auto and method.name == "adaround" and self._is_met(figures):
                self.rows.append(_untried(method, "the goal is met without it"))
                continue
            try:
                state, figures = self._try(method, state, figures)
            except MissingOperatorError as error:
                if not self.wanted.auto:
                    raise
                self.rows.append(_untried(method, str(error)))
        if not any(row.changed for row in self.rows):
            self.forget()
            raise NothingToImproveError(_nothing(self.rows, state.calibration.source.name))
        return state, figures

    def forget(self) -> None:
        """Remove what only a run that is stopped needs, since this one came to its end."""
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.store.path is None else self.store.path.with_name(CHECKPOINT)

    def _check_labels(self, data: Dataset) -> None:
        if self.wanted.trains and self.wanted.training.labels and not data.has_labels:
            raise DataError(
                f"The data {data.name!r} have no labels to train with: leave out --labels, or give data that have some."
            )

    def _try(self, method: Method, state: State, figures: Figures) -> tuple[State, Figures]:
        begin = time.perf_counter()
        found, trial = self._apply(method, state)
        if trial is None:
            why = "; ".join(found.notes) or UNCHANGED
            self.rows.append(_row(method, found, time.perf_counter() - begin, None, (False, why)))
            return state, figures
        seconds = time.perf_counter() - begin
        reached = self.figures(trial, method.name, with_score=self.wanted.auto or self.wanted.score_each)
        is_kept, why = True, ""
        if self.wanted.auto:
            assert figures.score is not None
            assert reached.score is not None
            is_kept, why = decide((figures.output, figures.score), (reached.output, reached.score))
        elif method.is_guarded and not self.wanted.trains:
            is_kept, why = not_worse(figures.output, reached.output)
        self.rows.append(_row(method, found, seconds, reached, (is_kept, why)))
        if not is_kept:
            return state, figures
        self.notes += [f"{method.name}: {note}" for note in found.notes]
        return trial, reached

    def _apply(self, method: Method, state: State) -> tuple[Improved, State | None]:
        """Return what a method did, and the state that this gives; None where it changed nothing."""
        samples = self.options["samples"]
        if method.kind is Kind.EQUALIZE:
            with self.stages.stage(method.name):
                found = equalized(method, state, samples, self.wanted.clips, self.wanted.effort)
        elif method.kind is Kind.TRAIN:
            training = self.wanted.training
            with self.stages.stage(method.name, training.all_steps) as told:
                found = trained(state, samples, training, checkpoint=self._checkpoint, progress=told)
        else:
            layers = layers_to_round(state.floating, state.made.plan)
            with self.stages.stage(method.name, len(layers)) as told:
                effort = effort_within(method, self.wanted.effort, state.calibration, samples)
                found = rounded(method, state, samples, effort, store=self.store, deadline=self.deadline, progress=told)
        if not found.changed:
            return found, None
        subject = improved_subject(state.calibration.subject, found, method.kind)
        calibration = calibrate_subject(subject, samples=samples, stages=self.stages)
        made = self.quantize(calibration, method.name)
        floating = state.floating if found.floating is None else found.floating
        return found, State(calibration, made, floating)

    def _error(self, calibration: Calibration, runner: Runner) -> OutputError:
        reference, data = self.scoring.reference, calibration.subject.data
        by_channel, by_power = (RelativeOutputError(runner.output_names, how) for how in ("channel", "power"))
        for batch in data.batches(calibration.batch_size, min(ERROR_SAMPLES, self.options["samples"])):
            wanted, given = reference(batch.feeds), runner.run(runner.output_names, batch.feeds)
            by_channel.update(wanted, given)
            by_power.update(wanted, given)
        power = by_power.value
        return OutputError(by_channel.value, -10 * float(np.log10(power)) if power else None)

    def _is_met(self, figures: Figures) -> bool:
        assert figures.score is not None
        return self.goal.judge(drop(self.before, figures.score), figures.score) is Status.OK


def _row(
    method: Method, found: Improved, seconds: float, reached: Figures | None, decision: tuple[bool, str]
) -> MethodRow:
    layers = tuple((name, before, after) for name, (before, after) in found.errors.items())
    score = None if reached is None or reached.score is None else reached.score.value
    return MethodRow(
        name=method.name, seconds=round(seconds, 4), changed=len(found.changed), declined=_by_reason(found.declined),
        objective=_means(layers), layers=layers, output=None if reached is None else reached.output, score=score,
        kept=decision[0], reason=decision[1],
    )  # fmt: skip


def _untried(method: Method, why: str) -> MethodRow:
    return MethodRow(method.name, 0.0, 0, {}, None, (), None, None, kept=False, reason=why)


def _means(layers: Sequence[tuple[str, float, float]]) -> tuple[float, float] | None:
    if not layers:
        return None
    count = len(layers)
    return sum(before for _, before, _ in layers) / count, sum(after for *_, after in layers) / count


def _by_reason(declined: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name, reason in declined.items():
        found.setdefault(reason, []).append(name)
    return {reason: tuple(layers) for reason, layers in found.items()}


def _nothing(rows: Sequence[MethodRow], model: str) -> str:
    if any(row.reason == OUT_OF_TIME or OUT_OF_TIME in row.declined for row in rows):
        return f"The time was up before a layer of {model!r} was improved: allow more with --time."
    tried = ", ".join(row.name for row in rows)
    reasons = [f"{layers[0]!r}: {reason}" for row in rows for reason, layers in row.declined.items()]
    reasons += [row.reason.rstrip(".") for row in rows if row.reason not in ("", UNCHANGED)]
    why = f" ({Counter(reasons).most_common(1)[0][0]})" if reasons else ""
    return f"No layer of {model!r} can be improved by {tried}{why}: choose other methods, or another precision."

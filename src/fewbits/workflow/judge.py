"""How bad a quantized model is, as one number: by the error of its outputs, or by the user's score."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fewbits.analysis.evaluate import Evaluation, drop
from fewbits.analysis.score_cache import DEFAULT_CEILING_BYTES, CachedPredict
from fewbits.analysis.score_types import Predict
from fewbits.analysis.score_user import UserMetric
from fewbits.errors import SpecError
from fewbits.numerics.output_error import Normalize, RelativeOutputError
from fewbits.runtime.data.types import Array, Dataset
from fewbits.runtime.session import Runner
from fewbits.runtime.store import key_of
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.workers_scoring import SentScoring
from fewbits.workflow.workers_sent import KeptData, LateRunner, sent_data

MOST_KEPT_BYTES = 512 << 20
"""Samples that take more memory are read again for every model."""


class Measure(Protocol):
    """Says how bad a model is: all of a judge that a worker needs."""

    def error(self, runner: Runner) -> float:
        """Return how bad a model is; 0 for the float model itself."""


class SentMeasure(Protocol):
    """A `Measure` that can be sent."""

    def open(self, reference: LateRunner) -> Measure:
        """Return the measure, given the float model."""


class Judge(Measure, Protocol):
    """Measures models of one network against its float model."""

    @property
    def identity(self) -> str | None:
        """Content hash of everything, the model aside, that a figure depends on; None where that cannot be told."""

    @property
    def samples(self) -> int:
        """How many samples a figure rests on."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs whose error counts."""

    @property
    def metric(self) -> str:
        """Name of the user's metric; empty where the figure is a relative error."""

    def sent(self) -> SentMeasure:
        """Return what measures alike in a worker."""


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """Calibration samples, kept where there is room."""

    data: Dataset
    batch_size: int
    limit: int
    most_bytes: int = MOST_KEPT_BYTES
    kept: tuple[Mapping[str, Array], ...] | None = None

    def batches(self) -> Iterator[Mapping[str, Array]]:
        if self.kept is not None:
            return iter(self.kept)
        return (batch.feeds for batch in self.data.batches(self.batch_size, self.limit))

    def read(self) -> tuple["_Samples", int, list[str]]:
        """Return the same samples, kept if there is room; how many there are; and the hashes of their batches."""
        count, size, digests, kept = 0, 0, [], []
        for batch in self.data.batches(self.batch_size, self.limit):
            count += batch.size
            size += sum(array.nbytes for array in batch.feeds.values())
            digests.append(key_of(dict(batch.feeds)))
            if size <= self.most_bytes:
                kept.append(batch.feeds)
        return replace(self, kept=tuple(kept) if size <= self.most_bytes else None), count, digests

    def sent(self) -> "_Samples":
        """Return what can be sent: what is kept goes by value."""
        if self.kept is not None:
            return replace(self, data=KeptData(self.data.name, self.data.has_labels, ()))
        return replace(self, data=sent_data(self.data, self.batch_size, self.limit))


@dataclass(frozen=True, slots=True, eq=False)
class _OutputErrors:
    """Relative error of some outputs against those of the float model."""

    reference: Predict
    samples: _Samples
    outputs: tuple[str, ...]
    normalize: Normalize

    def error(self, runner: Runner) -> float:
        """Return the relative error of the outputs; infinite where none of them keeps its shape."""
        found = RelativeOutputError(self.outputs, self.normalize)
        for feeds in self.samples.batches():
            found.update(self.reference(feeds), runner.run(self.outputs, feeds))
        return float("inf") if found.value is None else found.value


@dataclass(frozen=True, slots=True, eq=False)
class _SentOutputErrors:
    samples: _Samples
    outputs: tuple[str, ...]
    normalize: Normalize

    def open(self, reference: LateRunner) -> Measure:
        cached = CachedPredict(lambda feeds: reference.run(self.outputs, feeds))
        return _OutputErrors(cached, self.samples, self.outputs, self.normalize)


class OutputJudge:
    """Judges by the relative error of the outputs, over calibration samples; needs no labels.

    Args:
        calibration: of the float model.
        samples: calibration samples at most.
        outputs: names of those that count; None takes all that hold floats and vary.
        normalize: see `RelativeOutputError`.
        is_against_reference: compare with the float model that scores are taken against, also where an improver gave
            the calibrated one other weights. What one group adds to the error is told against the calibrated model.

    Raises:
        SpecError: the model has no such output.
        DataError: the data cannot be read.
    """

    metric = ""

    def __init__(
        self,
        calibration: Calibration,
        samples: int,
        outputs: Sequence[str] | None,
        normalize: Normalize,
        *,
        is_against_reference: bool = False,
    ) -> None:
        subject = calibration.subject
        self._is_other = is_against_reference and subject.source.reference is not None
        runner = subject.reference if self._is_other else subject.runner
        unknown = [name for name in outputs or () if name not in runner.output_names]
        if unknown:
            raise SpecError(f"The model has no output {unknown[0]!r}: it has {', '.join(runner.output_names)}.")
        self._names = runner.output_names if outputs is None else tuple(outputs)
        self._normalize = normalize
        held = calibration.subject.ceiling
        kept = DEFAULT_CEILING_BYTES if held is None else min(held.kept_bytes, DEFAULT_CEILING_BYTES)
        self._reference = CachedPredict(lambda feeds: runner.run(self._names, feeds), kept)
        self._varied: tuple[str, ...] | None = None
        most = MOST_KEPT_BYTES if held is None else min(held.kept_bytes, MOST_KEPT_BYTES)
        asked = _Samples(calibration.subject.data, calibration.batch_size, samples, most)
        self._samples, self.samples, digests = asked.read()
        other = (model_key(subject.reference_model),) if self._is_other else ()
        self.identity: str | None = key_of("outputs", self._names, normalize, digests, *other)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs whose error counts: floats that vary; the float model runs on first use.

        Raises:
            SpecError: there are none.
        """
        if self._varied is None:
            found = RelativeOutputError(self._names, self._normalize)
            for feeds in self._samples.batches():
                answers = self._reference(feeds)
                found.update(answers, answers)
            self._varied = tuple(found.by_output)
        if not self._varied:
            raise SpecError(
                f"No output to judge by: {', '.join(self._names)} hold no floats, or never change over {self.samples} "
                f"samples."
            )
        return self._varied

    def error(self, runner: Runner) -> float:
        """Return the relative error of the outputs; infinite where none of them keeps its shape."""
        return _OutputErrors(self._reference, self._samples, self.outputs, self._normalize).error(runner)

    def sent(self) -> SentMeasure:
        """Return what measures alike in a worker.

        Raises:
            DataError: the data cannot be read.
        """
        assert not self._is_other, "workers are sent the calibrated model to compare with"
        return _SentOutputErrors(self._samples.sent(), self.outputs, self._normalize)


class ScoreJudge:
    """Judges by the drop of the user's score, in the metric's unit; positive is worse.

    Args:
        scoring: how models are scored.
    """

    outputs: tuple[str, ...] = ()

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._before = scoring.score_float()
        self.metric = self._before.metric
        self.samples = self._before.samples

    @property
    def identity(self) -> str | None:
        """Content hash of metric and data; None for the user's own function, whose code may change under its name."""
        metric: Any = self._scoring.metric
        if isinstance(metric, UserMetric):
            return None
        return key_of("score", repr(metric), self._scoring.data.fingerprint, self._scoring.limit)

    def error(self, runner: Runner) -> float:
        """Return the drop of the score."""
        return _Drops(self._scoring, self._before).error(runner)

    def sent(self) -> SentMeasure:
        """Return what measures alike in a worker.

        Raises:
            DataError: the data cannot be read.
        """
        return _SentDrops(SentScoring.of(self._scoring), self._before)


@dataclass(frozen=True, slots=True, eq=False)
class _Drops:
    """Drop of a score."""

    scoring: Scoring
    before: Evaluation

    def error(self, runner: Runner) -> float:
        return drop(self.before, self.scoring.score(runner)).value


@dataclass(frozen=True, slots=True, eq=False)
class _SentDrops:
    scoring: SentScoring
    before: Evaluation

    def open(self, reference: LateRunner) -> Measure:
        return _Drops(self.scoring.open(reference), self.before)

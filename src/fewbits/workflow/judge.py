"""How bad a quantized model is, as one number: by the error of its outputs, or by the user's score."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from fewbits.analysis.evaluate import drop
from fewbits.analysis.score_cache import CachedPredict
from fewbits.analysis.score_user import UserMetric
from fewbits.errors import SpecError
from fewbits.numerics.output_error import Normalize, RelativeOutputError
from fewbits.runtime.data.types import Array
from fewbits.runtime.session import Runner
from fewbits.runtime.store import key_of
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.scoring import Scoring

MOST_KEPT_BYTES = 512 << 20
"""Samples that take more memory are read again for every model."""


class Judge(Protocol):
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

    def error(self, runner: Runner) -> float:
        """Return how bad a model is; 0 for the float model itself."""


class OutputJudge:
    """Judges by the relative error of the outputs, over calibration samples; needs no labels.

    Args:
        calibration: of the float model.
        samples: calibration samples at most.
        outputs: names of those that count; None takes all that hold floats and vary.
        normalize: see `RelativeOutputError`.

    Raises:
        SpecError: the model has no such output.
        DataError: the data cannot be read.
    """

    metric = ""

    def __init__(
        self, calibration: Calibration, samples: int, outputs: Sequence[str] | None, normalize: Normalize
    ) -> None:
        runner = calibration.subject.runner
        unknown = [name for name in outputs or () if name not in runner.output_names]
        if unknown:
            raise SpecError(f"The model has no output {unknown[0]!r}: it has {', '.join(runner.output_names)}.")
        self._names = runner.output_names if outputs is None else tuple(outputs)
        self._normalize, self._limit = normalize, samples
        self._data, self._batch_size = calibration.subject.data, calibration.batch_size
        self._reference = CachedPredict(lambda feeds: runner.run(self._names, feeds))
        self._varied: tuple[str, ...] | None = None
        self._kept: list[Mapping[str, Array]] | None = None
        self.samples, self.identity = self._read()

    def _read(self) -> tuple[int, str]:
        """Return how many samples there are, and the hash of what they hold; keep them if there is room."""
        count, size, digests, kept = 0, 0, [], []
        for batch in self._data.batches(self._batch_size, self._limit):
            count += batch.size
            size += sum(array.nbytes for array in batch.feeds.values())
            digests.append(key_of(dict(batch.feeds)))
            if size <= MOST_KEPT_BYTES:
                kept.append(batch.feeds)
        self._kept = kept if size <= MOST_KEPT_BYTES else None
        return count, key_of("outputs", self._names, self._normalize, digests)

    def _batches(self) -> Iterator[Mapping[str, Array]]:
        if self._kept is not None:
            return iter(self._kept)
        return (batch.feeds for batch in self._data.batches(self._batch_size, self._limit))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs whose error counts: floats that vary; the float model runs on first use.

        Raises:
            SpecError: there are none.
        """
        if self._varied is None:
            found = RelativeOutputError(self._names, self._normalize)
            for feeds in self._batches():
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
        found = RelativeOutputError(self.outputs, self._normalize)
        for feeds in self._batches():
            found.update(self._reference(feeds), runner.run(self.outputs, feeds))
        return float("inf") if found.value is None else found.value


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
        return drop(self._before, self._scoring.score(runner)).value

"""Metrics of real-valued outputs: psnr, mse, sqnr, perplexity. All arithmetic is float64."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.analysis.score_types import BuiltinMetric, Run, Score, mean_score
from fewbits.errors import MetricError
from fewbits.numerics.metrics import SqnrAccumulator
from fewbits.runtime.data.types import Array, Batch

F64 = npt.NDArray[np.float64]

PSNR_CEILING_DB = 100.0
"""PSNR of equal images, so that a mean over samples stays finite."""

SQNR_CEILING_DB = 200.0
"""SQNR of equal outputs (float32 rounding lies near 150 dB); noise on outputs of zeros has the negative."""

IGNORED_TOKEN = -100
"""Label of positions that perplexity leaves out, as in torch's cross entropy."""


@dataclass(frozen=True, slots=True)
class TargetMetric(BuiltinMetric):
    """A mean over samples of something that compares the output with labels of the same shape."""

    def _score(self, run: Run) -> Score:
        return mean_score([self._values(*self._pair(run, batch)) for batch in run.batches()])

    @abstractmethod
    def _values(self, output: F64, target: F64) -> F64:
        """Return one value per sample: [N, ...], [N, ...] -> [N]."""

    def _pair(self, run: Run, batch: Batch) -> tuple[F64, F64]:
        labels = self.labels_of(run, batch)
        output = self.output_of(run.predict, batch)
        if [dim for dim in output.shape if dim != 1] != [dim for dim in labels.shape if dim != 1]:
            raise MetricError(
                f"Metric {self.name!r} compares the output, shape {list(output.shape)}, with labels of shape "
                f"{list(labels.shape)}: they must be equal. {self.elsewhere}, or reshape the labels."
            )
        return as_finite(output.reshape(labels.shape), self, "the output"), as_finite(labels, self, "the labels")


@dataclass(frozen=True, slots=True)
class SquaredDifference(TargetMetric):
    """Mean squared difference between output and labels; each sample's mean counts the same."""

    def _values(self, output: F64, target: F64) -> F64:
        return np.asarray(np.mean((output - target).reshape(len(target), -1) ** 2, axis=1))


@dataclass(frozen=True, slots=True)
class Psnr(TargetMetric):
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mse), of images in 0..1; labels are the target images.

    The mean over samples; equal images count as 100 dB.
    """

    def _values(self, output: F64, target: F64) -> F64:
        if target.size and (target.min() < -0.001 or target.max() > 1.001):
            raise MetricError(
                f"Metric {self.name!r} takes images in 0..1, the labels reach from {target.min():g} to "
                f"{target.max():g}: divide them, and let the model's output follow."
            )
        errors = np.mean((output - target).reshape(len(target), -1) ** 2, axis=1)
        return np.asarray(-10 * np.log10(np.maximum(errors, 10 ** (-PSNR_CEILING_DB / 10))))


@dataclass(frozen=True, slots=True)
class Sqnr(BuiltinMetric):
    """Signal-to-quantization-noise ratio in dB against the float outputs, powers summed over all samples.

    10 log10(sum float^2 / sum (float - output)^2), within -200..200 dB.
    """

    def _score(self, run: Run) -> Score:
        total = SqnrAccumulator()
        for batch in run.batches():
            wanted = as_finite(self.float_output_of(run, batch), self, "the float model's output")
            given = as_finite(self.output_of(run.predict, batch), self, "the output")
            if wanted.shape != given.shape:
                raise MetricError(
                    f"Metric {self.name!r} compares outputs of shape {list(given.shape)} with the float model's, "
                    f"{list(wanted.shape)}: they must be equal. {self.elsewhere}."
                )
            if wanted.size:
                total.update(wanted, given)
        return Score(max(-SQNR_CEILING_DB, min(SQNR_CEILING_DB, total.db)))


@dataclass(frozen=True, slots=True)
class Perplexity(BuiltinMetric):
    """exp(mean negative log likelihood per token), natural logarithm, from logits [N, S, V].

    Labels [N, S] belong to the logits at the same position; -100 is left out. Without labels the integer input of shape
    [N, S] (`input_ids` first) gives them, shifted by one: position t predicts token t + 1; tokens that a feed
    `attention_mask` masks are left out.
    """

    def _score(self, run: Run) -> Score:
        total, count = 0.0, 0
        for batch in run.batches():
            logits = self.output_of(run.predict, batch)
            if logits.ndim != 3:
                raise MetricError(
                    f"Metric {self.name!r} needs logits [N, S, V], the output has shape {list(logits.shape)}. "
                    f"{self.elsewhere}."
                )
            logits, labels = self._aligned(logits, batch)
            kept = labels != IGNORED_TOKEN
            total += self._log_loss(logits[kept], labels[kept])
            count += int(kept.sum())
        if not count:
            raise MetricError(
                f"Metric {self.name!r} found no token to predict in {run.data.name!r}: give longer samples."
            )
        mean = total / count
        return Score(math.exp(mean) if mean < 700 else math.inf)

    def _aligned(self, logits: Array, batch: Batch) -> tuple[Array, Array]:
        """Return logits [N, T, V] and the tokens [N, T] that they predict."""
        if batch.labels is not None:
            if batch.labels.shape != logits.shape[:2] or batch.labels.dtype.kind not in "iu":
                raise MetricError(
                    f"Metric {self.name!r} needs labels {list(logits.shape[:2])} of integers for logits "
                    f"{list(logits.shape)}; they are {batch.labels.dtype} {list(batch.labels.shape)}."
                )
            return logits, batch.labels.astype(np.int64)
        names = [name for name, x in batch.feeds.items() if x.dtype.kind in "iu" and x.shape == logits.shape[:2]]
        names.sort(key=lambda name: ("mask" in name or "position" in name, "input_ids" not in name))
        if not names:
            raise MetricError(
                f"Metric {self.name!r} needs labels, or an integer input of shape {list(logits.shape[:2])}; the feeds "
                f"are {', '.join(map(repr, batch.feeds))}: add labels."
            )
        labels = batch.feeds[names[0]].astype(np.int64)
        mask = batch.feeds.get("attention_mask")
        if mask is not None and mask.shape == labels.shape:
            labels = np.where(mask != 0, labels, IGNORED_TOKEN)
        return logits[:, :-1], labels[:, 1:]

    def _log_loss(self, logits: Array, labels: Array) -> float:
        """Return the sum of -log softmax(logits)[label]: logits [T, V], labels [T]."""
        if labels.size and not 0 <= labels.min() <= labels.max() < logits.shape[-1]:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise MetricError(
                f"Metric {self.name!r}: the token {wrong} is outside the {logits.shape[-1]} of the logits."
            )
        values = logits.astype(np.float64)
        if np.isnan(values).any():
            raise MetricError(f"Metric {self.name!r} cannot score the output: it holds NaN. Some layer overflows.")
        top = values.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(values - top).sum(axis=-1)) + top[:, 0]
        return float(np.sum(log_sum - np.take_along_axis(values, labels[:, None], axis=-1)[:, 0]))


def as_finite(array: Array, metric: BuiltinMetric, whose: str) -> F64:
    """Return float64 values.

    Raises:
        MetricError: some are NaN or infinite.
    """
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise MetricError(
            f"Metric {metric.name!r} cannot score {whose}: it holds NaN or infinity. Some layer overflows. "
            f"{metric.elsewhere}."
        )
    return values

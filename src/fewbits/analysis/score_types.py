"""The contract of every metric: what it calls and what it returns; and `BuiltinMetric`, the base of the named ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fewbits.errors import MetricError
from fewbits.runtime.data.types import Array, Batch, Dataset
from fewbits.runtime.progress import Progress

Predict = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs a model: feeds by input name -> outputs by output name."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A metric's value, and its parts where it is a mean.

    Attributes:
        value: in the metric's unit.
        per_sample: float64 [samples], with mean() equal to `value`; None where the metric is no mean over samples.
    """

    value: float
    per_sample: npt.NDArray[np.float64] | None = None


class Metric(Protocol):
    """Turns a model and data into one number."""

    @property
    def name(self) -> str:
        """What reports call it, as the user wrote it."""

    @property
    def higher_is_better(self) -> bool:
        """Direction."""

    @property
    def needs_labels(self) -> bool:
        """Whether the data must carry labels."""

    @property
    def needs_float(self) -> bool:
        """Whether it compares with the float model."""

    @property
    def unit(self) -> str:
        """`%`, `dB` or nothing."""

    def score(
        self,
        predict: Predict,
        data: Dataset,
        *,
        limit: int | None = None,
        batch_size: int | None = None,
        reference: Predict | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """Score a model.

        Args:
            predict: the model.
            data: what to run it on.
            limit: samples at most.
            batch_size: samples per call.
            reference: the float model, for metrics that need it.
            progress: told the number of samples after each batch.

        Raises:
            MetricError: labels or float model are missing, or outputs do not suit the metric.
        """


@dataclass(frozen=True, slots=True)
class Run:
    """One scoring run: everything that `Metric.score` got."""

    predict: Predict
    data: Dataset
    limit: int | None
    batch_size: int | None
    reference: Predict | None
    progress: Progress | None

    def batches(self) -> Iterator[Batch]:
        """Yield the batches, and report each after it was used."""
        for batch in self.data.batches(self.batch_size, self.limit):
            yield batch
            if self.progress is not None:
                self.progress.advance(batch.size)


@dataclass(frozen=True, slots=True)
class BuiltinMetric(ABC):
    """A metric of one output: the first, or the one that `name@output` picks."""

    name: str
    unit: str = ""
    higher_is_better: bool = True
    needs_labels: bool = False
    needs_float: bool = False
    output: str | None = None

    def score(
        self,
        predict: Predict,
        data: Dataset,
        *,
        limit: int | None = None,
        batch_size: int | None = None,
        reference: Predict | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """Score a model; see `Metric.score`."""
        return self._score(Run(predict, data, limit, batch_size, reference, progress))

    @abstractmethod
    def _score(self, run: Run) -> Score:
        """Score one run."""

    def at(self, output: str) -> "BuiltinMetric":
        """Return the metric of another output."""
        return replace(self, name=f"{self.name}@{output}", output=output)

    @property
    def elsewhere(self) -> str:
        """How to name another output, for messages."""
        return f"Name another output with {self.name.partition('@')[0]}@OUTPUT"

    def output_of(self, predict: Predict, batch: Batch) -> Array:
        """Run the model and return the output.

        Raises:
            MetricError: the model has no output of that name, or it holds text.
        """
        outputs = predict(batch.feeds)
        name = next(iter(outputs)) if self.output is None else self.output
        if name not in outputs:
            names = ", ".join(map(repr, outputs))
            raise MetricError(
                f"Metric {self.name!r} wants the output {name!r}, the model has {names}: name one of these."
            )
        array = np.asarray(outputs[name])
        if array.dtype.hasobject or array.dtype.kind in "SU":
            raise MetricError(f"Metric {self.name!r} scores numbers, and {name!r} holds text. {self.elsewhere}.")
        return array

    def labels_of(self, run: Run, batch: Batch) -> Array:
        """Return the labels of a batch.

        Raises:
            MetricError: there are none.
        """
        if batch.labels is None:
            raise MetricError(
                f"Metric {self.name!r} needs labels, {run.data.name!r} has none: add labels, or choose sqnr or "
                "agreement, which compare with the float model."
            )
        return batch.labels

    def float_output_of(self, run: Run, batch: Batch) -> Array:
        """Run the float model and return the output.

        Raises:
            MetricError: no float model was given.
        """
        if run.reference is None:
            raise MetricError(f"Metric {self.name!r} compares with the float model: give its predict as `reference`.")
        return self.output_of(run.reference, batch)


def mean_score(parts: list[npt.NDArray[np.float64]]) -> Score:
    """Return the mean over all samples, with the samples' values."""
    values = np.concatenate(parts)
    return Score(float(values.mean()), values)

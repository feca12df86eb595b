"""Run a model at a place in any size, and score it there beside the float model and the simulation."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from fewbits.analysis.evaluate import Evaluation, drop, evaluate
from fewbits.analysis.scores import CachedPredict, Metric, Predict
from fewbits.artifact import names
from fewbits.artifact.folder import reference_file, temporary_folder
from fewbits.artifact.samples import Arrays
from fewbits.deployment.place_certificate import ScoreAtPlace
from fewbits.deployment.places import Place, PlaceJob
from fewbits.runtime.data import Dataset
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.compile import open_dims_of
from fewbits.workflow.stages import Stages

FIRST = "1"
"""Folder of the first size that an `AnySize` was opened for."""


@dataclass(frozen=True, slots=True, eq=False)
class PlaceScoring:
    """How to score at a place.

    Attributes:
        folder: of the artifact.
        metric: what to score by.
        data: to score on.
        limit: samples at most; None takes all.
        options: of onnxruntime.
    """

    folder: Path
    metric: Metric
    data: Dataset
    limit: int | None
    options: RunOptions

    def score(self, place: Place, job: PlaceJob, stages: Stages) -> ScoreAtPlace:
        """Score float model, simulation and place, sample by sample.

        Args:
            place: where to run.
            job: the artifact there; its sizes and folder are not used.
            stages: told of each.

        Raises:
            MetricError: labels are missing, or outputs do not suit the metric.
            ModelError: the place does not take the model in a size that the data have.
        """
        with temporary_folder() as scratch, AnySize(place, replace(job, folder=scratch)) as served:
            return self._score(served, stages)

    def _score(self, served: "AnySize", stages: Stages) -> ScoreAtPlace:
        sim = open_session(self.folder / names.ARTIFACT, options=self.options)
        reference = CachedPredict(open_session(reference_file(self.folder), options=self.options))
        found = {}
        for name, predict in (("float", reference), ("sim", sim), ("place", served)):
            with stages.stage(f"score {name}", self.limit) as told:
                found[name] = evaluate(
                    predict, self.data, self.metric, limit=self.limit, batch_size=1,
                    reference=reference if self.metric.needs_float else None, progress=told,
                )  # fmt: skip
        return _score(found)


class AnySize:
    """A model at a place that takes feeds of any size, though the place takes one: it is opened anew for each.

    A batch along an open first axis is taken apart into single samples.

    Args:
        place: where to run.
        job: the artifact there; its folder is for all openings.
    """

    def __init__(self, place: Place, job: PlaceJob) -> None:
        self._place, self._job = place, job
        self._axes = open_dims_of(job.model)
        self._open = ExitStack()
        self._served: Predict | None = None
        self._dims: dict[str, int] = {}
        self._count = 0

    def __enter__(self) -> "AnySize":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __call__(self, feeds: Arrays) -> Arrays:
        """Return every output for one batch.

        Raises:
            ModelError: the place does not take the model in this size, or fails.
        """
        batched = {name for name, axes in self._axes.items() if 0 in axes and name in feeds}
        count = min((len(feeds[name]) for name in batched), default=1)
        if count == 1:
            return self._one(feeds)
        parts = [
            self._one({k: np.asarray(v)[i : i + 1] if k in batched else v for k, v in feeds.items()})
            for i in range(count)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _one(self, feeds: Arrays) -> Arrays:
        sizes = _sizes(self._axes, feeds)
        if self._served is None or sizes != self._dims:
            self._open.close()
            self._count, self._dims = self._count + 1, sizes
            folder = self._job.folder / str(self._count)
            folder.mkdir()
            job = replace(self._job, dims=sizes, folder=folder)
            self._served = self._open.enter_context(self._place.open(job))
        return self._served(feeds)


def sizes_of(model: Path, feeds: Arrays) -> dict[str, int]:
    """Return the sizes that one sample gives to the open dimensions of a model."""
    return _sizes(open_dims_of(model), feeds)


def _sizes(axes: Mapping[str, Mapping[int, str]], feeds: Arrays) -> dict[str, int]:
    return {dim: feeds[name].shape[axis] for name, mine in axes.items() for axis, dim in mine.items()}


def _score(found: Mapping[str, Evaluation]) -> ScoreAtPlace:
    sim, place = found["sim"], found["place"]
    lost = drop(sim, place)
    return ScoreAtPlace(
        metric=sim.metric, unit=sim.unit, higher_is_better=sim.higher_is_better, samples=place.samples,
        float_=found["float"].value, sim=sim.value, place=place.value, lost=lost.value, interval=lost.interval,
    )  # fmt: skip

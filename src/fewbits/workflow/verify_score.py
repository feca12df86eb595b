"""The user's score at a place, beside that of the float model and of the simulation, on the same samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewbits.analysis.evaluate import Evaluation, drop, evaluate
from fewbits.analysis.scores import CachedPredict, Metric, Predict
from fewbits.artifact import names
from fewbits.artifact.samples import Arrays
from fewbits.deployment.place_certificate import ScoreAtPlace
from fewbits.runtime.data import Dataset
from fewbits.runtime.session import Runner, RunOptions, open_session
from fewbits.workflow.compile import open_dims_of
from fewbits.workflow.stages import Stages


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

    def score(self, served: Predict, dims: Mapping[str, int], stages: Stages) -> ScoreAtPlace:
        """Score float model, simulation and place, sample by sample.

        Args:
            served: the model at the place.
            dims: the sizes that its open dimensions have there.
            stages: told of each.

        Raises:
            MetricError: labels are missing, or outputs do not suit the metric.
        """
        sim = open_session(self.folder / names.ARTIFACT, options=self.options)
        reference = CachedPredict(open_session(self.folder / names.FLOAT, options=self.options))
        at_place = one_by_one(served, _batched(sim, self.folder / names.ARTIFACT, dims))
        found = {}
        for name, predict in (("float", reference), ("sim", sim), ("place", at_place)):
            with stages.stage(f"score {name}", self.limit) as told:
                found[name] = evaluate(
                    predict, self.data, self.metric, limit=self.limit, batch_size=1,
                    reference=reference if self.metric.needs_float else None, progress=told,
                )  # fmt: skip
        return _score(found)


def one_by_one(predict: Predict, batched: frozenset[str]) -> Predict:
    """Return a model that takes any batch, though `predict` takes one sample at a time.

    Args:
        predict: a model with a batch of 1.
        batched: inputs whose first axis is the batch; empty where the batch is fixed anyway.
    """

    def run(feeds: Arrays) -> Arrays:
        sizes = {len(feeds[name]) for name in batched if name in feeds}
        if sizes in (set(), {1}):
            return predict(feeds)
        parts = [
            predict({k: np.asarray(v)[i : i + 1] if k in batched else v for k, v in feeds.items()})
            for i in range(min(sizes))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run


def _batched(sim: Runner, model: Path, dims: Mapping[str, int]) -> frozenset[str]:
    """Return the inputs whose first axis is an open dimension that the place has at 1."""
    axes = open_dims_of(model)
    return frozenset(info.name for info in sim.inputs if dims.get(axes.get(info.name, {}).get(0, ""), 0) == 1)


def _score(found: Mapping[str, Evaluation]) -> ScoreAtPlace:
    sim, place = found["sim"], found["place"]
    lost = drop(sim, place)
    return ScoreAtPlace(
        metric=sim.metric, unit=sim.unit, higher_is_better=sim.higher_is_better, samples=place.samples,
        float_=found["float"].value, sim=sim.value, place=place.value, lost=lost.value, interval=lost.interval,
    )  # fmt: skip

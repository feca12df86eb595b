"""The record of automatic mixed precision: every profile that was considered, what it costs and what it scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewbits.reporting.baseline_record import ContestRecord

Origin = Literal["uniform", "curve", "between", "repaired"]
"""Where a profile comes from: one precision for all, the predicted curve, a search between two scored ones, a search
with errors that were corrected after scoring."""


@dataclass(frozen=True, slots=True)
class Point:
    """One profile.

    Attributes:
        number: by which `fewbits export --point` takes it; of its folder, too.
        origin: where it comes from.
        profile: group -> precision.
        shares: precision -> share of the groups, 0 to 1.
        cost: in the unit of the cost model.
        whole_cost: the same, measured or estimated of the network as a whole, where `cost` is put together from parts;
            None where `cost` is exact, or nothing is known of this profile.
        conversions: pairs of groups between which activations change type.
        conversion_cost: what these cost, in the same unit; part of `cost`.
        predicted: error of the outputs, relative to their variance, as predicted; None where nothing was predicted,
            since the cheapest profile was acceptable.
        measured: the same, measured on calibration samples; None where it was not run.
        score: in the metric's unit; None where it was not scored, and so for the next three.
        drop: against float, positive is worse.
        interval: 95 % interval of the drop, where the metric has values per sample.
        status: ok, noise or poor.
        bit_operations: per sample; None where it was not scored, or shapes are not known.
        weight_bytes: of the model file; None where it was not scored.
        folder: of its files, relative to the run; None where it was not scored or nothing is kept.
    """

    number: int
    origin: Origin
    profile: Mapping[str, str]
    shares: Mapping[str, float]
    cost: float
    conversions: int
    conversion_cost: float
    predicted: float | None
    whole_cost: float | None = None
    measured: float | None = None
    score: float | None = None
    drop: float | None = None
    interval: tuple[float, float] | None = None
    status: str | None = None
    bit_operations: int | None = None
    weight_bytes: int | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One group of nodes that changes precision together.

    Attributes:
        name: of the group, its first node.
        nodes: how many nodes.
        share_macs: of the network's multiply-accumulates, 0 to 1; None where shapes are not known.
    """

    name: str
    nodes: int
    share_macs: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AmpRecord(ContestRecord):
    """Everything about one run of automatic mixed precision that someone may ask later.

    Attributes beside those of the class that it extends:
        candidates: precisions to choose from.
        cost: of profiles: name, unit, is_estimate.
        budget: of the cost, in its unit; None where none was set.
        sensitivity: how noise was found, one-pass or brute-force.
        groups: in the order of the network.
        points: by rising cost.
        chosen: number of the point whose files the run's folder holds, or None.
        is_accepted: whether that one is within everything that was asked for.
        is_finished: whether the search came to its end; False in the record of a run that was stopped, or still runs.
        ended: why the search ended.
        evaluations: how many profiles were scored on all of the data.
        rank_correlation: Spearman's, of predicted and measured errors over the points; None below three.
        reason: why, with the figures it rests on.
    """

    candidates: tuple[str, ...]
    cost: Mapping[str, Any]
    budget: float | None
    sensitivity: Literal["one-pass", "brute-force"]
    groups: tuple[GroupFacts, ...]
    points: tuple[Point, ...]
    chosen: int | None
    is_accepted: bool
    is_finished: bool
    ended: str
    evaluations: int
    rank_correlation: float | None
    reason: str

    def point(self, number: int) -> Point | None:
        """Return the point of a number, or None."""
        return next((point for point in self.points if point.number == number), None)

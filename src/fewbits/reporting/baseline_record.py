"""The record of a baseline: the scores and costs of several precisions of one model, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.reporting.record import VerbRecord


@dataclass(frozen=True, slots=True)
class Row:
    """One precision: score, loss and cost.

    Attributes:
        precision: its name, or `float`.
        score: in the metric's unit.
        drop: against float, positive is worse; None for float itself.
        interval: 95 % interval of the drop, where the metric has values per sample.
        status: ok, noise or poor; None for float itself.
        bit_operations: per sample; None where shapes are not known.
        weight_bytes: of the model file.
        latency_s: per sample on the device; None until something estimates or measures it.
    """

    precision: str
    score: float
    drop: float | None = None
    interval: tuple[float, float] | None = None
    status: str | None = None
    bit_operations: int | None = None
    weight_bytes: int = 0
    latency_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestRecord(VerbRecord):
    """What the records of all verbs say that score several models against one goal.

    Attributes beside those of the class that it extends:
        metric: name, unit, direction, samples.
        goal: what accuracy was acceptable.
        float_row: the float model.
        next_steps: (why, command).
    """

    metric: Mapping[str, Any]
    goal: Mapping[str, Any]
    float_row: Row
    next_steps: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord(ContestRecord):
    """Everything about one baseline that someone may ask later.

    Attributes beside those of the class that it extends:
        rows: one per precision; each has its own folder of that name.
        refused: precision -> why it cannot be on this target.
        verdict: finding, accepted precision, reason, remarks.
    """

    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    verdict: Mapping[str, Any]

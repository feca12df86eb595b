"""The record of lite mixed precision: what lifting the most sensitive groups costs, and what it wins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewbits.reporting.baseline_record import ContestRecord, Row


@dataclass(frozen=True, slots=True)
class Step:
    """One percentage of lifted groups: score, loss and cost.

    Attributes:
        percent: of the groups, the most sensitive, that run in the higher precision.
        groups: how many that are.
        share_macs: share of the multiply-accumulates in them, 0 to 1; None where shapes are not known.
        lifted: names of the groups.
        score: in the metric's unit.
        drop: against float, positive is worse.
        interval: 95 % interval of the drop, where the metric has values per sample.
        status: ok, noise or poor.
        bit_operations: per sample; None where shapes are not known.
        weight_bytes: of the model file.
        folder: of its files, relative to the run; None where nothing is kept.
    """

    percent: float
    groups: int
    share_macs: float | None
    lifted: tuple[str, ...]
    score: float
    drop: float | None
    interval: tuple[float, float] | None
    status: str | None
    bit_operations: int | None
    weight_bytes: int
    folder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LitempRecord(ContestRecord):
    """Everything about one run of lite mixed precision that someone may ask later.

    Attributes beside those of the class that it extends:
        base: precision of what is not lifted.
        high: precision of what is lifted.
        ranking: how the groups were ranked, one-pass or brute-force.
        base_row: everything in the base precision.
        high_row: everything in the higher precision; None where it was not scored.
        steps: by rising percentage; only those that were scored.
        accepted: index in `steps` of the cheapest that is acceptable, or None.
        reason: why, with the figures it rests on.
        refused: precision -> why it cannot be on this target.
    """

    base: str
    high: str
    ranking: Literal["one-pass", "brute-force"]
    base_row: Row
    high_row: Row | None
    steps: tuple[Step, ...]
    accepted: int | None
    reason: str
    refused: Mapping[str, str]

"""The record of lite mixed precision: what lifting the most sensitive groups costs, and what it wins."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fewbits.reporting.baseline_record import Row
from fewbits.reporting.record import SCHEMA, machine, plain, versions


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


@dataclass(frozen=True, slots=True)
class LitempRecord:
    """Everything about one run of lite mixed precision that someone may ask later.

    Attributes:
        verb: litemp.
        created: time of writing, UTC, ISO 8601.
        options: what the caller asked for, by option name.
        model: source, sha256 and what preparing changed.
        data: role (calibration, evaluation) -> name, fingerprint, samples.
        target: device profile.
        metric: name, unit, direction, samples.
        goal: what was acceptable.
        base: precision of what is not lifted.
        high: precision of what is lifted.
        ranking: how the groups were ranked, one-pass or brute-force.
        float_row: the float model.
        base_row: everything in the base precision.
        high_row: everything in the higher precision; None where it was not scored.
        steps: by rising percentage; only those that were scored.
        accepted: index in `steps` of the cheapest that is acceptable, or None.
        reason: why, with the figures it rests on.
        next_steps: (why, command).
        notes: sentences for the user.
        refused: precision -> why it cannot be on this target.
        timings: stage -> seconds.
        versions: package -> version.
        machine: platform, processor and cores.
        schema: version of this layout.
    """

    verb: str
    created: str
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    target: str
    metric: Mapping[str, Any]
    goal: Mapping[str, Any]
    base: str
    high: str
    ranking: Literal["one-pass", "brute-force"]
    float_row: Row
    base_row: Row
    high_row: Row | None
    steps: tuple[Step, ...]
    accepted: int | None
    reason: str
    next_steps: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    refused: Mapping[str, str]
    timings: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the record as JSON; numbers that JSON lacks become null."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False) + "\n"

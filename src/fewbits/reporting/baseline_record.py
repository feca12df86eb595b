"""The record of a baseline: the scores and costs of several precisions of one model, and what follows from them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fewbits.reporting.record import SCHEMA, machine, plain, versions


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


@dataclass(frozen=True, slots=True)
class BaselineRecord:
    """Everything about one baseline that someone may ask later.

    Attributes:
        verb: baseline.
        created: time of writing, UTC, ISO 8601.
        options: what the caller asked for, by option name.
        model: source, sha256 and what preparing changed.
        data: role (calibration, evaluation) -> name, fingerprint, samples.
        target: device profile.
        metric: name, unit, direction, samples.
        goal: what was acceptable.
        float_row: the float model.
        rows: one per precision; each has its own folder of that name.
        refused: precision -> why it cannot be on this target.
        verdict: finding, accepted precision, reason, remarks.
        next_steps: (why, command).
        notes: sentences for the user.
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
    float_row: Row
    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    verdict: Mapping[str, Any]
    next_steps: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    timings: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the record as JSON; numbers that JSON lacks become null."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False) + "\n"

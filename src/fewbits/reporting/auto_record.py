"""The record of a whole workflow: what was decided at each fork, every candidate, and which one to ship."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fewbits.reporting.baseline_record import Row
from fewbits.reporting.record import SCHEMA, machine, plain, versions


@dataclass(frozen=True, slots=True)
class Fork:
    """One decision of the workflow.

    Attributes:
        step: what was done: baseline, litemp, improve, amp, qat; or stop.
        why: the rule that held, as a sentence, with the figures that decided.
        found: what came of it, as a sentence; empty for stop.
        folder: of its files, relative to the run; None for stop, or where nothing is kept.
        seconds: wall time.
        evaluations: models that were scored.
    """

    step: str
    why: str
    found: str = ""
    folder: str | None = None
    seconds: float = 0.0
    evaluations: int = 0


@dataclass(frozen=True, slots=True)
class Contender:
    """One model that was written and scored.

    Attributes:
        name: by which the user takes it, such as w8a8, litemp-p05, improve-w8a8.
        step: that made it.
        precision: in words: w8a8, or w8a8 + 5 % w8a16.
        folder: of its files, relative to the run; None where nothing is kept.
        score: in the metric's unit.
        drop: against float, positive is worse.
        interval: 95 % interval of the drop, where the metric has values per sample.
        status: ok, noise or poor.
        bit_operations: per sample; None where shapes are not known.
        weight_bytes: of the model file.
        latency_ms: per sample; None where nothing measured or estimated it.
        latency_by: ort, the chip of an estimate, or device; empty without latency.
        is_pareto: none is better in one of drop, bit operations, bytes and latency without being worse in another.
    """

    name: str
    step: str
    precision: str
    folder: str | None
    score: float
    drop: float
    interval: tuple[float, float] | None
    status: str
    bit_operations: int | None
    weight_bytes: int
    latency_ms: float | None = None
    latency_by: str = ""
    is_pareto: bool = False


@dataclass(frozen=True, slots=True)
class AutoRecord:
    """Everything about one workflow that someone may ask later.

    Attributes:
        verb: auto.
        created: time of writing, UTC, ISO 8601.
        options: what the caller asked for, by option name.
        model: source, sha256 and what preparing changed.
        data: role (calibration, evaluation) -> name, fingerprint, samples.
        target: device profile.
        metric: name, unit, direction, samples.
        goal: what accuracy was acceptable.
        aim: enough, fastest, smallest or most-accurate.
        max_latency_ms: that is acceptable; None sets no limit.
        float_row: the float model.
        verdict: of step 1: finding, accepted precision, reason, remarks.
        forks: the decisions, in their order; the last is stop.
        contenders: every model that was scored.
        chosen: name of the one whose files the run's folder holds.
        is_met: whether it meets all goals.
        summary: verdict, recommendation, and what they rest on or leave open: three sentences.
        checks: name of a check of what is handed over (verify, lint, compile ...) -> its result in words, failures
            first with the word "failed".
        preflight: what was found out before anything was quantized; empty where nothing was.
        command: that makes this run again.
        next_steps: (why, command).
        notes: sentences for the user.
        timings: stage -> seconds.
        wall_s: of the whole run, what an earlier, stopped one took not counted.
        peak_mb: largest resident memory of the process.
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
    aim: str
    max_latency_ms: float | None
    float_row: Row
    verdict: Mapping[str, Any]
    forks: tuple[Fork, ...]
    contenders: tuple[Contender, ...]
    chosen: str
    is_met: bool
    summary: tuple[str, ...]
    checks: Mapping[str, str]
    preflight: Mapping[str, Any]
    command: str
    next_steps: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    timings: Mapping[str, float]
    wall_s: float
    peak_mb: float
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the record as JSON; numbers that JSON lacks become null."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False) + "\n"

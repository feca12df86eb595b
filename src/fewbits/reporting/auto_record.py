"""The record of a whole workflow: what was decided at each fork, every candidate, and which one to ship."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.reporting.baseline_record import ContestRecord
from fewbits.reporting.preflight_record import Preflight


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRecord(ContestRecord):
    """Everything about one workflow that someone may ask later.

    Attributes beside those of the class that it extends:
        aim: enough, fastest, smallest or most-accurate.
        max_latency_ms: that is acceptable; None sets no limit.
        verdict: of step 1: finding, accepted precision, reason, remarks.
        forks: the decisions, in their order; the last is stop.
        contenders: every model that was scored.
        chosen: name of the one whose files the run's folder holds.
        is_met: whether it meets all goals.
        summary: verdict, recommendation, and what they rest on or leave open: three sentences.
        checks: name of a check of what is handed over (verify, lint, compile ...) -> its result in words, which begin
            with "failed" where it failed and with "not done" where it was not run.
        preflight: what was found out before anything was quantized; None where nothing was.
        command: that makes this run again.
        wall_s: of the whole run, what an earlier, stopped one took not counted.
        peak_mb: largest resident memory of the process.
    """

    aim: str
    max_latency_ms: float | None
    verdict: Mapping[str, Any]
    forks: tuple[Fork, ...]
    contenders: tuple[Contender, ...]
    chosen: str
    is_met: bool
    summary: tuple[str, ...]
    checks: Mapping[str, str]
    preflight: Preflight | None
    command: str
    wall_s: float
    peak_mb: float

"""Preflight: time and memory of a workflow, and what its data and score can tell, from a few probe runs before it."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fewbits.analysis.evaluate import Evaluation
from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.quantization.select import MOST_TRIALS, TRIAL_SAMPLES
from fewbits.reporting.preflight_record import Preflight
from fewbits.runtime.memory import MB, peak_mb, resident_mb
from fewbits.spec.precision import Precision
from fewbits.workflow import preflight_memory as memory
from fewbits.workflow.baseline import PRECISIONS
from fewbits.workflow.brute_force import SAMPLES as RANK_SAMPLES
from fewbits.workflow.calibrate import MOST_TORCH_BYTES, batch_size_for
from fewbits.workflow.goal import Goal
from fewbits.workflow.litemp import ranking_probes
from fewbits.workflow.preflight_data import (
    deviation,
    enough_samples,
    find_outliers,
    half_width,
    missing_classes,
    widths,
)
from fewbits.workflow.preflight_probe import Fed, Look, Probe, look, probe, probe_float, scored_feeds
from fewbits.workflow.preflight_warnings import Facts, warnings_of
from fewbits.workflow.ranges import AUTO
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.subject import Subject

STAGE = "preflight"
LATER = ("litemp", "improve")
"""Later steps whose memory can be told."""


def preflight(
    subject: Subject,
    scoring: Scoring,
    before: Evaluation,
    *,
    samples: int,
    stages: Stages,
    goal: Goal | None = None,
    precisions: Sequence[str] = PRECISIONS,
    ranges: str = AUTO,
    steps: Collection[str] = (),
) -> Preflight:
    """Return what a workflow will take, and what its data can tell; the float model was scored, nothing else ran.

    Time covers step 1: preparing, scoring the float model, calibrating, and making, writing and scoring every one of
    `precisions` in this process, one after the other. Candidates are made from up to 128 calibration samples with plain
    ranges and run on one batch; what reading data costs is taken from `before`.

    Memory is the resident peak of this process. The probes run every kind of session at the batch sizes of the real
    run, so what they needed is what step 1 needs. What is resident after them is what later steps add to. Of these the
    ranking of `litemp` (one pass) and the methods of `improve` that round weights are covered, by upper figures from
    the sizes of tensors; training and worker processes are not. What the user's own metric and data take is covered as
    far as scoring the float model showed it.

    Args:
        subject: the float model and its calibration data.
        scoring: how models are scored; its metric is started once more and stopped after a few calls.
        before: score of the float model.
        samples: calibration samples at most.
        stages: what ran so far counts as preparing; the preflight is a stage of its own.
        goal: what is acceptable; None says nothing of noise beside it.
        precisions: of step 1; those that the target refuses are left out.
        ranges: as in `baseline`.
        steps: that may come later, of `LATER`.

    Raises:
        SpecError: a step is unknown.
        DataError: the calibration data cannot be used.
    """
    for step in steps:
        if step not in LATER:
            raise SpecError(f"Unknown later step {step!r}: preflight can tell the memory of {' and '.join(LATER)}.")
    prepared = sum(seconds for name, seconds in stages.seconds.items() if not name.startswith("score"))
    begin = time.perf_counter()
    with stages.stage(STAGE):
        seen, scored = look(subject, samples), scored_feeds(scoring)
        plain = probe_float(seen, scored)
        found = _probes(seen, scored, precisions, ranges)
        missing = missing_classes(subject.data, samples, scoring)
    count = seen.samples if seen.is_all else samples
    parts = _parts(seen, plain, found, before, count)
    parts = {"prepare": prepared, STAGE: time.perf_counter() - begin, **parts}
    step1_mb, later_mb, waiting_mb = _memory(seen, count, steps)
    spread, width = deviation(before, None if goal is None else goal.max_drop), widths(seen.magnitudes)
    told = Preflight(
        seconds=sum(parts.values()),
        peak_mb=None if step1_mb is None else max((step1_mb, *later_mb.values())),
        parts=parts,
        calibration_samples=seen.samples,
        enough_samples=enough_samples(width),
        outliers=find_outliers(seen.magnitudes, seen.tensors, seen.inputs),
        missing_classes=missing.names,
        score_samples=before.samples,
        resolution=None if spread is None else half_width(spread, before.samples),
        warnings=(),
        step1_mb=step1_mb,
        later_mb=later_mb,
        waiting_mb=waiting_mb,
        later_s=_later_s(found, before, plain, steps),
    )
    lacking = 1 - float(width[max(len(width) // 2, 1) - 1])
    return replace(told, warnings=tuple(warnings_of(told, Facts(before, goal, spread, count, lacking, missing))))


def _probes(seen: Look, scored: Fed, precisions: Sequence[str], ranges: str) -> dict[str, Probe]:
    """Return the probes of the precisions that the target takes; those with equally wide activations share one."""
    found: dict[str, Probe] = {}
    alike: dict[tuple[int, bool], Probe] = {}
    for precision in precisions:
        parsed = Precision.parse(precision)
        key = parsed.activation_bits, parsed.is_float
        try:
            resolve(seen.calibration.model, Profile.parse(precision), seen.calibration.target)
        except SpecError:  # baseline says why
            continue
        is_tried = ranges == AUTO and not parsed.is_float and parsed.activation_bits <= 8
        if is_tried or key not in alike:
            alike[key] = probe(seen, precision, scored, is_tried=is_tried)
        found[precision] = alike[key]
    return found


def _parts(seen: Look, plain: Probe, found: Mapping[str, Probe], before: Evaluation, samples: int) -> dict[str, float]:
    """Return part of step 1 -> seconds, without preparing; writing takes as long as building and opening did."""
    few = min(TRIAL_SAMPLES, samples) * seen.feeds_share
    tried = [one for one in found.values() if one.trials_s]
    trials = sum(one.trials_s + MOST_TRIALS * (one.open_s + few * one.calibration_s) for one in tried)
    return {
        "calibrate": seen.open_s + samples * seen.sample_s,
        "quantize": sum(one.encode_s for one in found.values()),
        "range trials": trials + few * plain.calibration_s * bool(tried),
        "write": sum(one.open_s for one in found.values()),
        "score": before.seconds + sum(_score_s(one, plain, before) for one in found.values()),
    }


def _score_s(one: Probe, plain: Probe, before: Evaluation) -> float:
    """Return how long scoring a candidate takes: all that is not the model stays as it was with the float model."""
    inside = min(plain.scoring_s * before.samples, before.seconds)
    return before.seconds + inside * (one.scoring_s / plain.scoring_s - 1)


def _memory(seen: Look, samples: int, steps: Collection[str]) -> tuple[float | None, dict[str, float], float]:
    """Return the peak of step 1, those with later steps, and what waits while weights are rounded.

    There is nothing where the system does not tell memory.
    """
    peak = peak_mb()
    if peak is None:
        return None, {}, 0.0
    subject, model, size = seen.calibration.subject, seen.calibration.model, seen.calibration.batch_size
    sizes = memory.tensor_bytes(model.graph, seen.sample_bytes)
    kept = sum(seen.sample_bytes.get(str(value.name), 0.0) for value in (*model.graph.inputs, *model.graph.outputs))
    inputs = min(TRIAL_SAMPLES, samples) * kept / MB
    waiting = memory.waiting_mb(model, sizes, samples)
    better = memory.Improving(model, sizes, samples, batch_size_for(subject, most=MOST_TORCH_BYTES))
    together, probes = size if seen.is_by_sample else 1, ranking_probes(min(RANK_SAMPLES, samples))
    is_held = subject.ceiling is not None  # then as little is done at once as must be, and step 1 may leave all it took
    step1 = peak + inputs
    stays = step1 if is_held else (resident_mb() or peak) + inputs
    added = {
        "litemp": lambda: (
            memory.TORCH_MB + memory.least_one_pass_mb(model, sizes)
            if is_held
            else memory.litemp_mb(model, sizes, together, probes)
        ),
        "improve": lambda: memory.TORCH_MB + (better.most_mb if is_held else better.rounding_mb) + waiting,
    }
    return step1, {step: max(step1, stays + added[step]()) for step in LATER if step in steps}, waiting


def _later_s(found: Mapping[str, Probe], before: Evaluation, plain: Probe, steps: Collection[str]) -> dict[str, float]:
    """Return later step -> seconds of one candidate more, as slow as the slowest precision."""
    each = [one.encode_s + 2 * one.open_s + _score_s(one, plain, before) for one in found.values()]
    return {step: max(each) for step in LATER if step in steps and each}

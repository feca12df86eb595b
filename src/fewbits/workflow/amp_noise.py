"""The noise of every group in every candidate: predicted once, and put right where real runs say otherwise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fewbits.analysis.sensitivity import Noise
from fewbits.reporting.record import versions
from fewbits.runtime.parallel import Workers
from fewbits.runtime.store import Store, key_of
from fewbits.spec.precision import Precision
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.content_keys import model_key, plan_key
from fewbits.workflow.precision_problem import hands_over, predicted_error
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.sensitivity import one_pass
from fewbits.workflow.stages import Stages

PROJECTIONS, MOST_PROBES = 256, 16
"""Samples x probes: a figure's relative standard deviation is then about 9 %."""
_CONFIRMED = 8
"""Groups whose error is measured per correction."""
_SAMPLES = 32
"""Calibration samples that a correction rests on."""
_FACTORS = (0.1, 10.0)
"""By what a correction changes a prediction, at most: it is measured in 32 samples of one profile."""

Noises = dict[str, Noise]


def find_noise(
    calibration: Calibration,
    made: Sequence[Quantized],
    *,
    method: str,
    samples: int,
    store: Store,
    stages: Stages,
    workers: Workers | None = None,
) -> Noises:
    """Return precision -> its noise.

    By brute force, all noise of a group counts as its own: what it shares with its neighbours is not told apart.

    Args:
        calibration: of the float model.
        made: the whole network in each precision.
        method: one-pass or brute-force.
        samples: calibration samples, at most.
        store: what was found before is taken from there.
        stages: told of the work.
        workers: who runs models by brute force.

    Raises:
        FewbitsError: see `one_pass` and `brute_force`.
    """
    if method == "brute-force":
        measured = brute_force(
            calibration, made, samples=samples, store=store, workers=workers, progress=stages.watcher
        )
        names = [group.name for group in measured.groups]
        return {p: Noise({name: measured.error(name, p) for name in names}, {}, {}) for p in measured.precisions}
    content = [plan_key(one.plan, one.encoded) for one in made]
    data = calibration.subject.data.fingerprint
    probes = min(math.ceil(PROJECTIONS / min(samples, calibration.statistics.samples)), MOST_PROBES)
    key = key_of("noise", versions(), model_key(calibration.model), content, data, samples, probes)

    def run() -> dict[str, Any]:
        with stages.stage("predict noise", samples) as told:
            found = one_pass(calibration, made, samples=samples, probes=probes, with_noise=True, progress=told)
        return {precision: _plain(noise) for precision, noise in found.noise.items()}

    return {precision: _read(noise) for precision, noise in store.remember(key, run).items()}


def corrected(
    noise: Mapping[str, Noise],
    profile: Mapping[str, str],
    calibration: Calibration,
    made: Mapping[str, Quantized],
    *,
    store: Store,
    stages: Stages,
    workers: Workers | None = None,
) -> tuple[Noises, dict[tuple[str, str], float]]:
    """Return the noise with the groups put right that matter most in a profile, and by which factor each was.

    float16 is left as it is: onnxruntime does not round what passes between float16 nodes.

    Args:
        noise: precision -> its noise.
        profile: group -> precision.
        calibration: of the float model.
        made: precision -> the whole network in it.
        store: what was measured before is taken from there.
        stages: told of the work.
        workers: who runs models.
    """
    parts = contributions(noise, profile)
    wanted = [name for name in sorted(parts, key=lambda name: -parts[name]) if parts[name] > 0]
    wanted = [name for name in wanted if not Precision.parse(profile[name]).is_float][:_CONFIRMED]
    factors: dict[tuple[str, str], float] = {}
    for precision in dict.fromkeys(profile[name] for name in wanted):
        names = [name for name in wanted if profile[name] == precision]
        measured = brute_force(
            calibration,
            [made[precision]],
            samples=_SAMPLES,
            groups=names,
            store=store,
            workers=workers,
            progress=stages.watcher,
        )
        for name in names:
            alone = predicted_error(noise, {name: precision})
            error = measured.error(name, precision)
            if alone > 0 and math.isfinite(error):
                factors[name, precision] = min(max(error / alone, _FACTORS[0]), _FACTORS[1])
    return {p: _scaled(found, {g: f for (g, q), f in factors.items() if q == p}) for p, found in noise.items()}, factors


def contributions(noise: Mapping[str, Noise], profile: Mapping[str, str]) -> dict[str, float]:
    """Return group -> what it adds to the predicted error of a profile; see `predicted_error`."""
    nothing = Noise({}, {}, {})  # of fp32
    parts = {g: noise.get(p, nothing) for g, p in profile.items()}
    found = {g: part.own.get(g, 0.0) + part.written.get(g, 0.0) for g, part in parts.items()}
    for precision, of_precision in noise.items():
        for (writer, reader), error in of_precision.read.items():
            if profile.get(reader) == precision and writer != reader:
                handed = writer in profile and hands_over(profile[writer], precision)
                found[reader] += 0.0 if handed else error
    return found


def _scaled(noise: Noise, factors: Mapping[str, float]) -> Noise:
    def scale(errors: Mapping[str, float]) -> dict[str, float]:
        return {group: error * factors.get(group, 1.0) for group, error in errors.items()}

    read = {pair: error * factors.get(pair[1], 1.0) for pair, error in noise.read.items()}
    return Noise(scale(noise.own), scale(noise.written), read)


def _plain(noise: Noise) -> dict[str, Any]:
    read = [[writer, reader, error] for (writer, reader), error in noise.read.items()]
    return {"own": dict(noise.own), "written": dict(noise.written), "read": read}


def _read(found: Mapping[str, Any]) -> Noise:
    return Noise(found["own"], found["written"], {(w, r): error for w, r, error in found["read"]})

"""The digits example: what tests of workers measure, and how two calibrations are compared bit for bit."""

from pathlib import Path

import numpy as np

from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import calibrate

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODEL, CALIB, EVAL = DIGITS / "digits.onnx", DIGITS / "calib.npz", DIGITS / "eval.npz"
PLAIN = {"ranges": "minmax", "weight_ranges": "absmax", "bias_correction": False}


def calibrated(workers=None, *, data=CALIB, samples=64, **options):
    return calibrate(MODEL, data=data, samples=samples, workers=workers, **options)


def figures(calibration, workers=None, *, count=6, **options):
    from fewbits.quantization.groups import find_groups

    groups = [group.name for group in find_groups(calibration.model.graph, calibration.target)][:count]
    found = brute_force(
        calibration, ["w8a8", "fp16"], groups=groups, samples=16, workers=workers, **{**PLAIN, **options}
    )
    return list(found.figures.items())


def differences(one, other):
    """Return what two calibrations do not have alike, bit for bit."""
    found = [name for name in ("samples", "aliases", "histograms") if getattr(one, name) != getattr(other, name)]
    if list(one.moments) != list(other.moments):
        return [*found, "moments"]
    for node, moment in one.moments.items():
        there = other.moments[node]
        if moment.rows != there.rows:
            found.append(f"{node} rows")
        parts = ((name, getattr(moment, name), getattr(there, name)) for name in ("_offset", "_square", "_sum"))
        found += [f"{node} {name}" for name, a, b in parts if not np.array_equal(a, b)]
    return found

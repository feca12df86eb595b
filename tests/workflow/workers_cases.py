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


def require_equal(one, other):
    assert (one.samples, one.aliases) == (other.samples, other.aliases)
    assert one.histograms == other.histograms
    assert list(one.moments) == list(other.moments)
    for node, moment in one.moments.items():
        assert moment.rows == other.moments[node].rows
        for name in ("_offset", "_square", "_sum"):
            np.testing.assert_array_equal(getattr(moment, name), getattr(other.moments[node], name), err_msg=node)

"""Taps and cuts: the tapped model answers as before, and in the cut one every operator sees what it is given."""

import numpy as np
import onnx
import pytest

from fewbits.deployment.cut import Runs, cut, differences, find_taps, tapped
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated

EXACT = SessionPolicy.EXACT


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib)


def made(calibration, precision):
    found = quantize_calibrated(calibration, precision, ranges="minmax")
    return onnx.shape_inference.infer_shapes(onnx.load_model_from_string(found.to_bytes()))


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "fp16"])
def test_cut_and_tapped_models_answer_alike_when_fed_alike(calibration, tiny, precision):
    model = made(calibration, precision)
    feeds = {"image": np.load(tiny.calib)["image"][:2]}
    taps = find_taps(model)
    assert {"conv1", "conv2", "add", "head"} <= {tap.node for tap in taps} | {"conv1"}
    exact = open_session(tapped(model, taps).SerializeToString(), policy=EXACT)(feeds)
    # onnxruntime keeps float16 regions in float32 unless they are looked at
    tolerance = 2e-2 if precision == "fp16" else 0
    plain = open_session(model.SerializeToString(), policy=EXACT)(feeds)
    np.testing.assert_allclose(exact["logits"], plain["logits"], atol=tolerance)
    apart, fed = cut(model, taps, exact)
    alone = open_session(apart.SerializeToString(), policy=EXACT)(
        {**feeds, **{source: exact[output] for output, source in fed.items()}}
    )
    for tap in taps:
        np.testing.assert_allclose(alone[tap.output], exact[tap.output], atol=tolerance)


def test_only_the_operator_that_differs_is_named(calibration, tiny):
    """What the place adds to one tensor spreads in the whole network, and stays where it is in the cut model."""
    model = made(calibration, "w8a8")
    taps = [tap for tap in find_taps(model) if tap.node]
    values = {tap.output: np.arange(12, dtype=np.float32) * tap.step for tap in taps}
    shifted = {name: value.copy() for name, value in values.items()}
    bad = next(tap for tap in taps if tap.node == "add")
    shifted[bad.output] += np.float32(3 * bad.step)
    found = differences(taps, Runs(values, shifted, values, shifted))
    assert (found[0].node, found[0].op, found[0].worst_steps, found[0].share_off) == ("add", "Add", 3, 1.0)
    assert found[0].alone_db is not None
    assert {one.alone_db for one in found[1:]} == {None}

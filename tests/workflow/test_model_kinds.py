"""Kinds of models that make tools stumble: each is prepared, quantized to w8a8 and fp16, and runs."""

import numpy as np
import onnx
import pytest
from kinds_of_models import KINDS, Kind

import fewbits
from fewbits.graph.save import to_bytes
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, open_session

OPTIONS = RunOptions(threads=1)
LEAST_DB = {"w8a8": 25.0, "fp16": 50.0}
UNSTABLE = {"nms_tail": "what is selected changes with the last bit of a score"}
NOT_RUN = ("bfloat16_model", "double_model")
"""What onnxruntime cannot run as it is, so that nothing is there to compare the prepared model with."""

# node that stays in float -> the reason, beside those that compute no floats
LEFT = {
    "if_on_shape": {"If": "the bodies of control flow are left in float"},
    "if_hands_out_outer": {"If": "the bodies of control flow are left in float"},
    "loop_carrying": {"Loop": "the bodies of control flow are left in float"},
    "scan_sum": {"Scan": "the bodies of control flow are left in float"},
    "topk_tail": {"TopK": "it selects; its result is indices"},
    "nonzero_shapes": {"Compress": "operator Compress is not in the table of known operators"},
    "tied_embedding": {"Transpose": "its values come from constants or shapes, not from data"},
    "sequences_inside": {
        op: f"operator {op} is not in the table of known operators"
        for op in ("Optional", "OptionalGetElement", "SequenceConstruct", "SequenceAt")
    },
    "several_domains": {
        "Scaler": "operator ai.onnx.ml::Scaler is not part of ONNX",
        "QuickGelu": "operator com.microsoft::QuickGelu is not part of ONNX",
    },
    "float16_model": {"Cast": "it changes types"},
    "double_model": {"Cast": "it changes types"},
}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def kind(request) -> tuple[str, Kind]:
    return request.param.__name__, request.param()


def test_a_prepared_kind_computes_the_same(kind):
    name, (model, feeds) = kind
    prepared = fewbits.prepare(model, data=[feeds], run_options=OPTIONS)
    onnx.checker.check_model(onnx.load_model_from_string(to_bytes(prepared.model)), full_check=True)
    if name in NOT_RUN:
        assert prepared.parity.reason.startswith("onnxruntime cannot load the model")
        return
    assert prepared.parity.samples > 0
    found = [db for db in prepared.parity.sqnr_db.values() if db is not None]
    assert all(db > (45 if name in ("float16_model", "mixed_types") else 100) for db in found), found


def test_a_kind_is_quantized_and_runs(kind, tmp_path):
    name, (model, feeds) = kind
    result = fewbits.quantize(model, data=[feeds], output=tmp_path / "out", run_options=OPTIONS)
    calibration = result.calibration
    half = fewbits.quantize_calibrated(calibration, "fp16")
    assert {node.precision.activation_bits for node in result.plan.nodes.values() if not node.reason} == {8}
    left = {
        node.op: node.reason
        for node in result.plan.nodes.values()
        if node.reason not in ("", "it computes no float32 values")
    }
    assert left == LEFT.get(name, {})
    (batch,) = calibration.subject.data.batches()
    wanted = calibration.subject.runner(batch.feeds)
    for precision, made in (("w8a8", tmp_path / "out" / "model.qdq.onnx"), ("fp16", half.to_bytes())):
        given = open_session(made, options=OPTIONS)(batch.feeds)
        for output, value in wanted.items():
            assert given[output].dtype == value.dtype
            assert given[output].shape == value.shape
            if name not in UNSTABLE and value.dtype.kind == "f" and not np.array_equal(value, given[output]):
                assert sqnr_db(value, given[output]) > LEAST_DB[precision], (precision, output)


@pytest.mark.parametrize("name", ["if_on_shape", "if_hands_out_outer", "loop_carrying", "scan_sum"])
def test_bodies_read_outer_tensors_as_they_were(name):
    """A body reads by name; its readers see the quantized tensor's own float, or its grid, and nothing else."""
    (make,) = [kind for kind in KINDS if kind.__name__ == name]
    model, feeds = make()
    made = fewbits.quantize_calibrated(fewbits.calibrate(model, data=[feeds], run_options=OPTIONS), "w8a8")
    proto = onnx.load_model_from_string(made.to_bytes())
    (control,) = [node for node in proto.graph.node if node.op_type in ("If", "Loop", "Scan")]
    bodies = [attribute.g for attribute in control.attribute if attribute.HasField("g")]
    operators = {node.op_type for body in bodies for node in body.node}
    assert not operators & {"QuantizeLinear", "DequantizeLinear"}
    known = {value for node in proto.graph.node for value in node.output}
    known |= {tensor.name for tensor in proto.graph.initializer} | {value.name for value in proto.graph.input}
    for body in bodies:
        inner = {value for node in body.node for value in node.output} | {value.name for value in body.input}
        read = {value for node in body.node for value in node.input if value}
        assert read - inner <= known


def test_tied_tensors_share_their_grid():
    (make,) = [kind for kind in KINDS if kind.__name__ == "shared_conv_weight"]
    model, feeds = make()
    made = fewbits.quantize_calibrated(fewbits.calibrate(model, data=[feeds], run_options=OPTIONS), "w8a8")
    convs = [name for name, node in made.plan.nodes.items() if node.op == "Conv"]
    assert len({made.plan.inputs[name, 1] for name in convs}) == 1

"""Files whose inputs and outputs are float16, read again: ours, and what is refused."""

import numpy as np
import onnx
import pytest
from qdq_models import normal

from fewbits.errors import ModelError
from fewbits.graph.load import load_model
from fewbits.graph.save import to_bytes
from fewbits.graph.shapes import infer_shapes
from fewbits.quantization.adopt import adopt
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.strip import strip_qdq
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
HALF_ENDS = f"""{HEAD} g (float16[8, 6] x) => (float16[8, 4] y, float16[4] b)
    {{ a = MatMul (x, w) r = Relu (a) y = Add (r, b) }}"""
BARE = {
    "x": f"{HEAD} g (float16[4] x) => (float[4] y) {{ a = Relu (x) y = Cast <to: int = 1> (a) }}",
    "y": f"{HEAD} g (float[4] x) => (float16[4] y) {{ a = Cast <to: int = 10> (x) y = Relu (a) }}",
}

POSITIVE = f"""{HEAD} g (float[2, 4] x, float16[4, 3] w) => (float[2, 3] y)
    <float scale = {{0.01}}, uint8 zero = {{0}}> {{ h = Cast <to: int = 10> (x) m = MatMul (h, w)
    f = Cast <to: int = 1> (m) q = QuantizeLinear (f, scale, zero) y = DequantizeLinear (q, scale, zero) }}"""


def half_ends() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(HALF_ENDS)
    weights = {"w": normal(6, 4).astype(np.float16), "b": normal(4).astype(np.float16)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "fp16"])
def test_float16_inputs_outputs_and_constants_are_kept(precision):
    feeds = {"x": normal(8, 6).astype(np.float16)}
    made = quantize_calibrated(calibrate(half_ends(), data=[feeds]), precision, ranges="minmax")
    model = load_model(made.to_bytes())
    infer_shapes(model)
    stripped = strip_qdq(model, "the file")
    infer_shapes(stripped.model)
    adopted = adopt(stripped.model, stripped.given, "qnn-htp-v73", is_complete=True)
    assert [plan.precision for plan in adopted.plan.nodes.values() if plan.op in ("MatMul", "Add")] == [
        plan.precision for plan in made.plan.nodes.values() if plan.op in ("MatMul", "Add")
    ]
    again = to_bytes(insert_qdq(stripped.model, adopted.plan, adopted.encoded))
    given, wanted = (open_session(data, policy=SessionPolicy.EXACT)(feeds) for data in (again, made.to_bytes()))
    assert {name: array.dtype for name, array in given.items()} == {"y": np.float16, "b": np.float16}
    for name, array in wanted.items():
        np.testing.assert_array_equal(given[name], array)


@pytest.mark.parametrize("name", BARE)
def test_a_float16_end_without_a_cast_is_refused(name):
    model = load_model(onnx.parser.parse_model(BARE[name]))
    infer_shapes(model)
    with pytest.raises(ModelError, match=f"computes with the float16 input or output '{name}' as it is.*put a Cast"):
        strip_qdq(model, "the file")


def test_no_relu_is_put_behind_what_is_computed_in_float16():
    """A tool leaves a Relu to a grid of the operator's own; behind a float16 one only its numbers decide on 0."""
    proto = onnx.parser.parse_model(POSITIVE)
    del proto.graph.input[1]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(4, 3).astype(np.float16), "w"))
    model = load_model(proto)
    infer_shapes(model)
    stripped = strip_qdq(model, "the file")
    assert [node.op_type for node in stripped.model.graph] == ["MatMul"]
    assert stripped.clamps == 0
    assert stripped.given.halves == {"y"}

"""Grids narrower than their type, read again from the file that they were written to."""

import numpy as np
import onnx_ir as ir
import pytest
from qdq_models import model, normal, quantized, session

from fewbits.graph.save import to_bytes
from fewbits.graph.shapes import infer_shapes
from fewbits.quantization.adopt import adopt
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.strip import strip_qdq
from fewbits.runtime.session import SessionPolicy

TEXT = "g (float[8, 6] x) => (float y) { a = Gemm (x, w, b) r = LeakyRelu (a) y = Gemm (r, v) }"
FEEDS = {"x": normal(8, 6)}


def narrow(precision: str):
    graph = model(TEXT, w=normal(6, 5), b=normal(5), v=normal(5, 4))
    return quantized(graph, FEEDS, precision)


@pytest.mark.parametrize("precision", ["w8a4", "w8a5", "w6a6", "w8a7"])
def test_a_narrow_grid_is_read_as_one_grid(precision):
    made = narrow(precision)
    stripped = strip_qdq(made.quantized, "the file")
    infer_shapes(stripped.model)
    assert [node.op_type for node in stripped.model.graph] == ["Gemm", "LeakyRelu", "Gemm"]
    adopted = adopt(stripped.model, stripped.given, "qnn-htp-v73", is_complete=True)
    for name in ("x", "a", "r", "y"):
        assert adopted.plan.grids[name].spec == made.plan.grids[name].spec
        assert adopted.encoded.encodings[name].scale == made.encoding(name).scale
    again = insert_qdq(stripped.model, adopted.plan, adopted.encoded)
    given, wanted = (session(m, SessionPolicy.EXACT)(FEEDS)["y"] for m in (again, made.quantized))
    np.testing.assert_array_equal(given, wanted)


def test_a_clip_that_the_grid_took_in_leaves_its_name_to_the_tensor():
    text = """g (float[1,2,4,4] x) => (float y) { c = Conv (x, w) k = Clip (c, low, high)
        y = AveragePool <kernel_shape = [2,2]> (k) }"""
    graph = model(text, w=normal(3, 2, 1, 1), low=np.float32(0), high=np.float32(50))
    made = quantized(graph, {"x": normal(1, 2, 4, 4)}, "w6a6")
    assert "k" not in {value.name for node in made.quantized.graph for value in node.outputs}
    stripped = strip_qdq(made.quantized, "the file")
    infer_shapes(stripped.model)
    adopted = adopt(stripped.model, stripped.given, "qnn-htp-v73", is_complete=True)
    assert adopted.encoded.encodings["k"].scale == made.encoding("k").scale
    assert "c" not in adopted.plan.grids


def test_a_clip_with_other_bounds_is_an_operator_of_the_network():
    made = narrow("w8a6")
    bound = next(v for name, v in made.quantized.graph.initializers.items() if name == "a_high")
    bound.const_value = ir.Tensor(bound.const_value.numpy() * np.float32(0.7), name="a_high")
    assert to_bytes(made.quantized)
    stripped = strip_qdq(made.quantized, "the file")
    assert [node.op_type for node in stripped.model.graph].count("Clip") == 1

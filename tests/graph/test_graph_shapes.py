import numpy as np
import onnx_ir as ir
import pytest
from graph_models import graph, normal

from fewbits.errors import ModelError, SpecError
from fewbits.graph.shapes import fix_dims, infer_shapes, open_dims, static_shape

TEXT = """g (float[batch,3,h,8] x, float[4,3,3,3] w) => (float[batch,n] y) {
    a = Conv <pads=[1,1,1,1]> (x, w) r = Relu(a) y = Flatten(r) }"""


def shapes(model: ir.Model) -> dict[str, list[int | str | None]]:
    return {
        str(v.name): [d if isinstance(d, int) else d.value for d in v.shape] for n in model.graph for v in n.outputs
    }


def test_infer_shapes_fills_in_shapes_and_types():
    model = graph(TEXT, w=normal(4, 3, 3, 3))
    infer_shapes(model)
    found = shapes(model)
    assert found["a"][0] == "batch"
    assert (found["a"][1], found["a"][3]) == (4, 8)
    assert model.graph[0].outputs[0].dtype == ir.DataType.FLOAT
    assert found["y"] == ["batch", "n"]


def test_infer_shapes_leaves_weights_alone():
    model = graph(TEXT, w=normal(4, 3, 3, 3))
    tensor = model.graph.initializers["w"].const_value
    infer_shapes(model)
    assert model.graph.initializers["w"].const_value is tensor
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_infer_shapes_follows_shape_arithmetic():
    model = graph(
        "g (float[2,3,4] x, int64[1] m) => (float[p,q] y) { s = Shape <end=1> (x) c = Concat <axis=0> (s, m) "
        "y = Reshape(x, c) }",
        m=np.array([-1]),
    )
    infer_shapes(model)
    assert shapes(model)["y"] == [2, 12]


def test_infer_shapes_keeps_what_custom_operators_record():
    model = graph("g (float[2] x) => (float[k] y) { a = vendor.Magic(x) y = Neg(a) }", domains='"vendor": 1')
    magic = model.graph[0].outputs[0]
    magic.shape, magic.dtype = ir.Shape([7]), ir.DataType.FLOAT
    infer_shapes(model)
    assert shapes(model) == {"a": [7], "y": [7]}


def test_infer_shapes_keeps_the_declared_output_where_onnx_cannot_infer():
    model = graph("g (float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul(x, w) }", w=normal(4, 5))
    infer_shapes(model)
    assert static_shape(model.graph.outputs[0]) == (2, 5)


def test_infer_shapes_reports_a_contradiction(monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("[ShapeInferenceError]\nIncompatible dimensions")

    monkeypatch.setattr("onnx.shape_inference.infer_shapes", broken)
    with pytest.raises(ModelError, match=r"shapes of the model contradict each other: Incompatible dimensions\."):
        infer_shapes(graph(TEXT, w=normal(4, 3, 3, 3)))


def test_fix_dims_reaches_every_value():
    model = graph(TEXT, w=normal(4, 3, 3, 3))
    assert open_dims(model) == ["batch", "h"]
    fix_dims(model, {"batch": 2, "h": 5})
    assert static_shape(model.graph.inputs[0]) == (2, 3, 5, 8)
    assert shapes(model) == {"a": [2, 4, 5, 8], "r": [2, 4, 5, 8], "y": [2, 160]}
    assert open_dims(model) == []


def test_fix_dims_unknown_name():
    with pytest.raises(SpecError, match="no open dimension 'seq': it has batch, h"):
        fix_dims(graph(TEXT, w=normal(4, 3, 3, 3)), {"seq": 1})


def test_fix_dims_of_a_static_model():
    model = graph("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(SpecError, match="no open dimension 'batch': all its input dimensions have a size"):
        fix_dims(model, {"batch": 1})


def test_fix_dims_size_below_one():
    with pytest.raises(SpecError, match="'batch' must be at least 1, not 0"):
        fix_dims(graph(TEXT, w=normal(4, 3, 3, 3)), {"batch": 0})

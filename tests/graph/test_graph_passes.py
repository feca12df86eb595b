import logging

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import applied, graph, normal, ops, reasons, run

from fewbits.graph.bridge import rewrite
from fewbits.graph.passes import constants, dead_code, identities, simplify
from fewbits.graph.passes.base import PassResult
from fewbits.graph.shapes import infer_shapes

# --- identities, constants, dead code


@pytest.mark.parametrize(
    "node",
    [
        "Identity(a)",
        "Dropout(a)",
        "Cast <to=1> (a)",
        "Transpose <perm=[0,1,2]> (a)",
        "Reshape(a, shape)",
        "Pad(a, zeros)",
        "Concat <axis=1> (a)",
        "Sum(a)",
    ],
)
def test_remove_identities(node):
    text = (
        f"g (float[2,3,4] x, int64[3] shape, int64[6] zeros) => (float[2,3,4] y) {{ a = Neg(x) c = {node} y = Abs(c) }}"
    )
    model = graph(text, shape=np.array([2, 3, 4]), zeros=np.zeros(6, np.int64))
    after, _ = applied(identities.run, model, {"x": normal(2, 3, 4)})
    assert ops(after) == ["Neg", "Abs"]


@pytest.mark.parametrize(
    "node",
    ["Cast <to=11> (a)", "Transpose <perm=[0,2,1]> (a)", "Reshape(a, shape)", "Pad(a, pads)", "Sum(a, a)"],
)
def test_remove_identities_keeps_what_works(node):
    text = f"g (float[2,3,3] x, int64[2] shape, int64[6] pads) => (float[o] y) {{ a = Neg(x) y = {node} }}"
    text = text.replace("float[o]", "double[2,3,3]" if "to=11" in node else "float[o]")
    text = text.replace(
        "float[o]", "float[6,3]" if "shape)" in node else "float[2,3,4]" if "pads)" in node else "float[2,3,3]"
    )
    model = graph(text, shape=np.array([6, 3]), pads=np.array([0, 0, 0, 0, 0, 1]))
    _, result = applied(identities.run, model, {"x": normal(2, 3, 3)})
    assert result == PassResult()


def test_remove_identities_keeps_output_names():
    model = graph("g (float[2] x) => (float[2] y, float[2] z) { a = Neg(x) y = Identity(a) z = Abs(a) }")
    after, _ = applied(identities.run, model, {"x": normal(2)})
    assert ops(after) == ["Neg", "Abs"]
    assert [value.name for value in after.graph.outputs] == ["y", "z"]


def test_remove_identities_declines_a_second_name():
    model = graph(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] w) { y = Neg(x) z = Identity(y) w = Identity(x) }"
    )
    _, result = applied(identities.run, model, {"x": normal(2)})
    assert "it hands out another output of the graph under the output name 'z'" in reasons(result)
    assert "it hands out an input or constant of the graph under the output name 'w'" in reasons(result)


def test_remove_identities_reaches_readers_in_branches():
    model = graph("""g (bool c, float[2] x) => (float[2] y) { n = Neg(x) a = Identity(n)
        y = If (c) <then_branch = t () => (float[2] z) { z = Abs(a) },
                    else_branch = e () => (float[2] u) { u = Relu(a) }>
    }""")
    after, _ = applied(identities.run, model, {"c": np.array(True), "x": normal(2)})
    assert ops(after) == ["Neg", "If"]


def test_constants_become_initializers():
    model = graph("g (float[2] x) => (float[2] y) { k = Constant <value_floats=[1.0, 2.0]> () y = Add(x, k) }")
    after, result = applied(constants.run, model, {"x": normal(2)})
    assert ops(after) == ["Add"]
    assert list(after.graph.initializers) == ["k"]
    assert result.changed == ("Constant 'Constant_0' is now an initializer",)


def test_constants_declines_an_output():
    model = graph("g (float[2] x) => (float[2] y, float[2] k) { k = Constant <value_floats=[1.0, 2.0]> () y = Neg(x) }")
    _, result = applied(constants.run, model, {"x": normal(2)})
    assert "it is an output of its graph" in reasons(result)


def test_dead_code():
    model = graph("g (float[2] x, float[2] k) => (float[2] y) { a = Add(x, k) b = Abs(a) y = Neg(x) }", k=normal(2))
    after, result = applied(dead_code.run, model, {"x": normal(2)})
    assert ops(after) == ["Neg"]
    assert set(result.changed) == {"removed Add 'Add_0'", "removed Abs 'Abs_1'", "removed initializer 'k'"}


def test_dead_code_removes_what_only_the_body_of_a_removed_node_read():
    text = (
        "g (float[2] x, bool c, float[2] w) => (float[2] y) { m = Max (x, w) n = Neg (m) z = If (c) <"
        " then_branch = t () => (float[2] a) { a = Relu (n) }, else_branch = e () => (float[2] b) { b = Abs (x) } >"
        " y = Relu (x) }"
    )
    model = graph(text, w=normal(2))
    dead_code.run(model)
    assert ops(model) == ["Relu"]
    assert not model.graph.initializers


def test_dead_code_keeps_an_output_before_one_that_is_read():
    text = "g (float[2,4] x, float[4] w) => (float[2,1] y) { n, m, s = LayerNormalization(x, w) y = Neg(s) }"
    after, _ = applied(dead_code.run, graph(text, w=normal(4)), {"x": normal(2, 4)})
    assert [value.name for value in next(iter(after.graph)).outputs] == ["n", "m", "s"]


# --- onnxslim

SHAPED = """g (float[2,3,4] x, int64[1] one, float[3,1] k) => (float[2,12] y) {
    s = Shape(x) z = Constant <value_int=0> () d = Gather(s, z) u = Unsqueeze(d, axis)
    axis = Constant <value_ints=[0]> () c = Concat <axis=0> (u, one) p = Sqrt(k) m = Mul(x, p) y = Reshape(m, c) }"""


def shaped() -> ir.Model:
    return graph(SHAPED, one=np.array([-1]), k=np.abs(normal(3, 1)))


def test_simplify_folds_shape_arithmetic_and_constants():
    after, result = applied(simplify.run, shaped(), {"x": normal(2, 3, 4)})
    assert ops(after) == ["Mul", "Reshape"]
    assert "Shape: 1 -> 0" in result.changed


def test_simplify_declines_when_onnxslim_raises(monkeypatch):
    def broken(*_args, **_kwargs):
        raise IndexError("list index out of range")

    monkeypatch.setattr("onnxslim.slim", broken)
    model = shaped()
    assert reasons(simplify.run(model)) == "onnxslim: its result is not used (list index out of range)"
    assert "Shape" in ops(model)


def test_simplify_declines_what_fixes_an_open_dimension():
    """onnxslim reads [N, 4] + [3, 4] as N = 3, and an N of 1 would not fit any more."""
    model = graph(
        "g (float[N,4] x, float[3,4] w) => (float[M,4] y, int64[2] s) { a = Add(x, w) y = Relu(a) s = Shape(x) }",
        w=normal(3, 4),
    )
    infer_shapes(model)
    said = "onnxslim: its result is not used (it fixes the open dimension 'N' of input 'x' at 3)"
    assert reasons(simplify.run(model)) == said
    assert [node.op_type for node in model.graph] == ["Add", "Relu", "Shape"]


def test_simplify_declines_what_the_runtime_refuses():
    def check(_data):
        raise ValueError("no kernel")

    model = shaped()
    assert "its result is not used (no kernel)" in reasons(simplify.run(model, check))
    assert "Shape" in ops(model)


def test_simplify_works_without_the_large_weights(monkeypatch):
    monkeypatch.setattr(simplify, "EXTERNAL_BYTES", 0)
    monkeypatch.setattr(simplify, "_LARGE_WEIGHT_BYTES", 100)
    model = graph(
        SHAPED.replace("float[3,1] k", "float[3,1] k, float[12,20] w")
        .replace("y = Reshape(m, c)", "r = Reshape(m, c) y = MatMul(r, w)")
        .replace("[2,12] y", "[2,20] y"),
        one=np.array([-1]),
        k=np.abs(normal(3, 1)),
        w=normal(12, 20),
    )
    tensor = model.graph.initializers["w"].const_value
    after, _ = applied(simplify.run, model, {"x": normal(2, 3, 4)})
    assert ops(after) == ["Mul", "Reshape", "MatMul"]
    assert after.graph.initializers["w"].const_value is tensor


def test_simplify_declines_what_fixes_the_size_of_a_compress():
    """onnxslim gives its output the shape of its input, by which onnxruntime plans memory."""
    model = graph(
        "g (float[2, 4] x) => (float[6, 2, 4] y) <int64 depth = {6}, float[2] values = {0, 1}, bool[2] some = {1, 0}>"
        " { a = ArgMax <axis = -1> (x) h = OneHot <axis = 0> (a, depth, values)"
        " c = Compress <axis = 0> (x, some) y = Add (c, h) }"
    )
    assert "it fixes the size of 'c', which a Compress decides by its data" in reasons(simplify.run(model))
    infer_shapes(model)
    assert not isinstance(next(node for node in model.graph if node.op_type == "Compress").outputs[0].shape[0], int)


def test_simplify_forgets_the_sizes_that_onnxslim_computes_of_open_dimensions():
    """It takes the parts of a Split for equal, and onnxruntime gives tensors of one size one place in memory."""
    model = graph(
        "g (float[N,6] x) => (float[A,6] y, float[B,6] z)"
        " { a, b = Split <axis = 0, num_outputs = 2> (x) p = Neg(a) d = Neg(p) y = Sigmoid(a) z = Tanh(b) }"
    )
    infer_shapes(model)
    after, result = applied(simplify.run, model, {"x": normal(3, 6)})
    assert result.changed == ("Neg: 2 -> 0",)
    (split,) = (node for node in after.graph if node.op_type == "Split")
    assert [value.shape[0].value for value in split.outputs] == [None, None]
    assert [value.shape[0].value for value in (*after.graph.inputs, *after.graph.outputs)] == ["N", "A", "B"]


def test_simplify_declines_a_split_that_has_lost_a_part():
    """onnxslim computes the constant part that is read, and leaves a Split that does not run for the other one.

    Behind a Loop it does not see that shapes contradict each other, nor does the checker.
    """
    model = graph(
        "g (float[2,4] x, float[4,4] w) => (float[2,4] y, float[4,2] p, float[4,2] z)"
        " <int64 count = {2}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}> {"
        " y = Loop (count, , x) <body = b (int64 i, bool going, float[2,4] a) => (bool on, float[2,4] c) {"
        " c = Tanh(a) on = Identity(going) }> t = Transpose <perm = [1, 0]> (w)"
        " p, q = Split <axis = 1, num_outputs = 2> (t) z = Slice(q, zero, two, one, one) }",
        w=normal(4, 4),
    )
    infer_shapes(model)
    after, result = applied(simplify.run, model, {"x": normal(2, 4)})
    assert "Split" in ops(after)
    assert reasons(result) == "onnxslim: its result is not used (it takes 'q' out of what a Split gives)"


def test_simplify_keeps_onnxslim_from_installing_a_log_handler():
    simplify.run(shaped())
    assert {type(handler) for handler in logging.getLogger("onnxslim").handlers} == {logging.NullHandler}


# --- the bridge


def test_rewrite_refuses_a_lost_output():
    def drop(proto):
        del proto.graph.output[1]
        return proto

    model = graph("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Abs(x) }")
    with pytest.raises(ValueError, match=r"the outputs \['y', 'z'\] became \['y'\]"):
        rewrite(model, drop)


def test_rewrite_keeps_the_model():
    model = graph("g (float[1,64] x, float[64,64] w) => (float[1,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    before = run(model, {"x": normal(1, 64)})["y"]
    after = rewrite(model, lambda proto: proto)
    np.testing.assert_array_equal(run(after, {"x": normal(1, 64)})["y"], before)
    assert "w" in model.graph.initializers
    assert [value.name for value in model.graph.inputs] == ["x"]

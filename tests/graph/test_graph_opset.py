import numpy as np
import onnx
import pytest
from graph_models import assert_same, bn_parameters, graph, normal, ops, proto, run, session
from onnx import version_converter

from fewbits.graph.load import load_model
from fewbits.graph.opset import raise_opset

IMAGE = "g (float[1,4,6,6] x{more}) => (float[{out}] y) {{ y = {node} }}"
HALF, GROWN = np.array([1, 1, 0.5, 0.7], np.float32), np.array([1, 1, 1.5, 2.5], np.float32)

# operator as old opsets write it: name -> (node, output dims, opsets, constants)
OLD = {
    "softmax": ("Softmax <axis=1> (x)", "1,4,6,6", (7, 12, 13), {}),
    "batchnorm": ("BatchNormalization (x, g, b, m, v)", "1,4,6,6", (7, 8, 9, 14, 15), bn_parameters(4)),
    "reduce_mean": ("ReduceMean <axes=[2,3]> (x)", "1,4,1,1", (7, 13, 17), {}),
    "reduce_sum": ("ReduceSum <axes=[2,3]> (x)", "1,4,1,1", (7, 12), {}),
    "squeeze": ("Squeeze <axes=[0]> (x)", "4,6,6", (7, 12), {}),
    "clip": ("Clip <min=0.0, max=0.5> (x)", "1,4,6,6", (7, 10), {}),
    "pad": ("Pad <pads=[0,0,1,1,0,0,1,1], value=2.0> (x)", "1,4,8,8", (7, 10), {}),
    "slice": ("Slice <axes=[1], starts=[1], ends=[3]> (x)", "1,2,6,6", (7, 9), {}),
    "dropout": ("Dropout <ratio=0.4> (x)", "1,4,6,6", (7, 11), {}),
    "upsample_nearest": ('Upsample <scales=[1.0,1.0,2.0,2.0], mode="nearest"> (x)', "1,4,12,12", (7, 8), {}),
    "upsample_linear": ('Upsample <scales=[1.0,1.0,2.0,2.0], mode="linear"> (x)', "1,4,12,12", (7, 8), {}),
    "upsample_input": ('Upsample <mode="linear"> (x, s)', "1,4,9,15", (9,), {"s": GROWN}),
    "resize_linear": ('Resize <mode="linear"> (x, s)', "1,4,9,15", (10,), {"s": GROWN}),
    "resize_nearest": ('Resize <mode="nearest"> (x, s)', "1,4,9,15", (10,), {"s": GROWN}),
    "resize_shrink": ('Resize <mode="nearest"> (x, s)', "1,4,3,4", (10,), {"s": HALF}),
    "group_norm": ("GroupNormalization <num_groups=2> (x, g, b)", "1,4,6,6", (18, 20), bn_parameters(2)),
    "conv": ("Conv (x, w)", "1,5,4,4", (7, 11, 20), {"w": normal(5, 4, 3, 3)}),
}
CASES = [(name, opset) for name, row in OLD.items() for opset in row[2]]


def old(name: str, opset: int) -> onnx.ModelProto:
    node, out, _, constants = OLD[name]
    used = {key: array for key, array in constants.items() if f" {key}" in node}
    more = "".join(f", float[{','.join(map(str, array.shape))}] {key}" for key, array in used.items())
    return proto(IMAGE.format(node=node, out=out, more=more), opset=opset, **used)


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_raise_opset_keeps_outputs(name, opset):
    if name == "group_norm":
        pytest.importorskip("onnxscript")
    before = old(name, opset)
    after, result = raise_opset(load_model(before), check=session)
    assert after.opset_imports[""] == 21
    assert after.ir_version == 10
    assert result.changed[0].startswith(f"ai.onnx opset {opset} -> 21")
    assert not result.declined
    assert_same(before, after, {"x": normal(1, 4, 6, 6, seed=3)})


def test_raise_opset_rewrites_group_norm_without_a_check():
    """onnx's converter stamps 21 and leaves the scale per group; the ONNX checker accepts that, a runtime does not."""
    pytest.importorskip("onnxscript")
    before = old("group_norm", 18)
    assert_same(before, raise_opset(load_model(before))[0], {"x": normal(1, 4, 6, 6, seed=3)})


@pytest.mark.parametrize("opset", [11, 17, 20])
def test_raise_opset_reaches_into_branches(opset):
    before = proto(
        """g (bool c, float[2,3] x, float[3,200] w) => (float y) {
            a = If (c) <
                then_branch = t () => (float z) { k = MatMul(x, w) z = ReduceMean <keepdims=0> (k) },
                else_branch = e () => (float u) { u = ReduceSum <keepdims=0> (x) }>
            y = Neg(a) }""",
        opset=opset,
        w=normal(3, 200),
    )
    after, _ = raise_opset(load_model(before), check=session)
    for choice in (True, False):
        assert_same(before, after, {"c": np.array(choice), "x": normal(2, 3, seed=1)})


def test_raise_opset_keeps_names_and_weights():
    model = graph(
        "g (float[1,4,6,6] x, float[9,4,3,3] w) => (float[1,9,4,4] y) { [first] a = Conv(x, w) [last] y = Relu(a) }",
        opset=13,
        w=normal(9, 4, 3, 3),
    )
    after, _ = raise_opset(model)
    assert [node.name for node in after.graph] == ["first", "last"]
    assert [node.outputs[0].name for node in after.graph] == ["a", "y"]
    assert after.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    assert model.opset_imports[""] == 13


def test_raise_opset_leaves_newer_models():
    model = graph("g (float[2] x) => (float[2] y) { y = Neg(x) }", opset=22)
    model.ir_version = 10
    after, result = raise_opset(model)
    assert after is model
    assert not result.changed
    assert not result.declined


def test_raise_opset_lifts_the_ir_version():
    model = graph("g (float[2] x) => (float[2] y) { y = Neg(x) }", opset=21)
    model.ir_version = 9
    after, result = raise_opset(model)
    assert (after.ir_version, model.ir_version) == (10, 9)
    assert result.changed == ("ir_version 9 -> 10",)


def test_raise_opset_is_stable():
    once, _ = raise_opset(load_model(old("reduce_mean", 13)))
    twice, result = raise_opset(once)
    assert twice is once
    assert not result.changed


def test_raise_opset_leaves_custom_operators():
    model = graph("g (float[2] x) => (float[2] y) { a = vendor.Magic(x) y = Neg(a) }", opset=13, domains='"vendor": 1')
    after, _ = raise_opset(model)
    assert ops(after) == ["Magic", "Neg"]
    assert after.opset_imports == {"": 21, "vendor": 1}


def test_raise_opset_declines_with_both_reasons(monkeypatch):
    def broken(_proto, _target):
        raise RuntimeError("No Adapter From Version 8")

    monkeypatch.setattr(version_converter, "convert_version", broken)
    model = load_model(old("softmax", 12))
    after, result = raise_opset(model)
    assert after is model
    assert result.declined[0].name == "ai.onnx opset"
    assert "stays at 12" in result.declined[0].reason
    assert "onnx: No Adapter From Version 8" in result.declined[0].reason
    assert "onnxscript: it only stamps models older than opset 18" in result.declined[0].reason


def test_raise_opset_declines_what_the_runtime_refuses():
    def check(_data):
        raise ValueError("Unrecognized attribute: axes")

    _, result = raise_opset(load_model(old("reduce_mean", 17)), check=check)
    assert "Unrecognized attribute: axes" in result.declined[0].reason


def test_raise_opset_moves_attributes_to_inputs():
    after, _ = raise_opset(load_model(old("reduce_mean", 13)))
    node = next(node for node in after.graph if node.op_type == "ReduceMean")
    assert "axes" not in node.attributes
    assert len(node.inputs) == 2
    assert run(after, {"x": normal(1, 4, 6, 6)})["y"].shape == (1, 4, 1, 1)


@pytest.mark.parametrize("shared", [False, True])
def test_slopes_of_an_old_prelu_stay_along_the_channels(shared):
    """Before opset 7 they were one per channel; the last axis has the same size here, so nothing else would say."""
    second = "z = PRelu(y, s)" if shared else "z = Identity(y)"
    text = f"g (float[2,4,3,4] x, float[4] s) => (float[2,4,3,4] z) {{ y = PRelu(x, s) {second} }}"
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    after, result = raise_opset(graph(text, opset=6, s=slopes))
    assert result.changed == ("ai.onnx opset 6 -> 21 (onnx's converter)",)
    x = normal(2, 4, 3, 4)
    (given,) = run(after, {"x": x}).values()
    slope = slopes.reshape(4, 1, 1) ** (2 if shared else 1)
    np.testing.assert_allclose(given, np.where(x < 0, x * slope, x), rtol=1e-6)


def test_a_scan_with_a_batch_axis_stays_at_its_opset():
    text = """g (float[1,2] s, float[1,3,2] x) => (float[1,2] last, float[1,3,2] sums) {
        last, sums = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] t) => (float[2] n, float[2] o) {
            n = Add(a, t) o = Identity(n) }> (, s, x) }"""
    before = graph(text, opset=8)
    after, result = raise_opset(before)
    assert after.opset_imports[""] == 8
    assert "it does not rewrite Scan-8" in result.declined[0].reason
    assert_same(before, after, {"s": normal(1, 2), "x": normal(1, 3, 2)})

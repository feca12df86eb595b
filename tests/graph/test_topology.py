import numpy as np
import pytest
from graph_models import graph, normal

from fewbits.graph.shapes import infer_shapes
from fewbits.graph.topology import (
    captured,
    channel_axis,
    constant,
    data_positions,
    data_values,
    fusions,
    is_float32,
    op_rule,
)
from fewbits.spec.optable import OP_TABLE, Kind

FUSED = {"Conv": frozenset({"Relu", "Clip", "PRelu"})}


def built(text: str, **options):
    model = graph(text, **options)
    infer_shapes(model)
    return model


def by_output(model, name: str):
    return next(node for node in model.graph if any(v.name == name for v in node.outputs))


def test_constants_are_initializers_that_nobody_feeds():
    model = built("g (float[N, 2] x, float[2] w) => (float[N, 2] y) { y = Add (x, w) }", w=normal(2))
    node = by_output(model, "y")
    assert constant(node.inputs[0]) is None
    assert constant(node.inputs[1]).shape == (2,)
    assert constant(None) is None
    assert is_float32(node.inputs[1])
    assert not is_float32(None)


def test_data_flows_through_values_but_not_through_shapes():
    model = built("""g (float[N, 2] x) => (float[N, 2] y) {
        s = Shape (x) f = Cast <to = 1> (s) r = ReduceSum (f)
        p = ConstantOfShape (s) a = Add (x, p) y = Mul (a, r) }""")
    names = {v.name for v in data_values(model.graph)}
    assert names == {"x", "a", "y"}


BRANCHES = """g (float[N, 2] x, bool c) => (float[N, 2] y) {
    r = Relu (x)
    z = If (c) <then_branch = t () => (float[N, 2] t1) { t0 = Neg (r) t1 = Abs (t0) },
                else_branch = e () => (float[N, 2] e1) { e1 = Neg (x) }>
    y = Relu (z) }"""


def test_control_flow_carries_what_its_bodies_capture():
    model = built(BRANCHES)
    assert {v.name for v in captured(by_output(model, "z"))} == {"r", "x"}
    assert not captured(by_output(model, "y"))
    assert {"z", "y"} <= {v.name for v in data_values(model.graph)}


CHAIN = "g (float[N, 2, 4, 4] x, float[2, 2, 1, 1] w, float lo, float s) => ({outputs}) {{ {body} }}"
ARRAYS = {"w": normal(2, 2, 1, 1), "lo": np.float32(0), "s": np.float32(0.1)}


@pytest.mark.parametrize(
    ("body", "outputs", "found"),
    [
        ("c = Conv (x, w) y = Relu (c)", "float[N,2,4,4] y", {"y": "c"}),
        ("c = Conv (x, w) r = Relu (c) y = Clip (r, lo)", "float[N,2,4,4] y", {"r": "c"}),
        ("c = Conv (x, w) y = PRelu (c, s)", "float[N,2,4,4] y", {"y": "c"}),
        ("c = Conv (x, w) m = ReduceMax (x) y = Clip (c, m)", "float[N,2,4,4] y", {}),
        ("c = Conv (x, w) r = Relu (c) y = Add (r, c)", "float[N,2,4,4] y", {}),
        ("c = Conv (x, w) y = Relu (c)", "float[N,2,4,4] y, float[N,2,4,4] c", {}),
        ("c = Conv (x, w) y = PRelu (x, c)", "float[N,2,4,4] y", {}),
        ("c = Conv (x, w) y = LeakyRelu (c)", "float[N,2,4,4] y", {}),
    ],
)
def test_fusions_need_one_reader_with_constant_settings(body, outputs, found):
    model = built(CHAIN.format(body=body, outputs=outputs), **ARRAYS)
    pairs = {f.outputs[0].name: h.outputs[0].name for f, h in fusions(model.graph, FUSED).items()}
    assert pairs == found


def test_operators_left_float_neither_absorb_nor_are_absorbed():
    model = built(CHAIN.format(body="c = Conv (x, w) y = Relu (c)", outputs="float[N,2,4,4] y"), **ARRAYS)
    assert fusions(model.graph, FUSED)
    assert not fusions(model.graph, FUSED, {"Relu": "no"})
    assert not fusions(model.graph, FUSED, {"Conv": "no"})
    for node in model.graph:
        node.domain = "custom" if node.op_type == "Conv" else ""
    assert not fusions(model.graph, FUSED)


def test_readers_inside_bodies_prevent_a_fusion():
    model = built(BRANCHES.replace("r = Relu (x)", "q = Neg (x) r = Relu (q)").replace("Neg (r)", "Neg (q)"))
    assert not fusions(model.graph, {"Neg": frozenset({"Relu"})}).get(by_output(model, "r"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('y = Resize <mode = "nearest"> (x, , k)', Kind.PASS),
        ("y = Resize (x, , k)", Kind.PASS),
        ('y = Resize <mode = "cubic"> (x, , k)', Kind.COMPUTE),
        ("y = Pad (x, p)", Kind.PASS),
        ("y = Pad (x, p, zero)", Kind.PASS),
        ("y = Pad (x, p, one)", Kind.COMPUTE),
        ('y = Pad <mode = "edge"> (x, p, one)', Kind.PASS),
    ],
)
def test_rules_depend_on_attributes(text, kind):
    model = built(
        f"g (float[1,1,4,4] x, float[4] k, int64[8] p, float zero, float one) => (float[1,1,A,B] y) {{ {text} }}",
        k=np.float32([1, 1, 2, 2]), p=np.int64([0] * 8), zero=np.float32(0), one=np.float32(1),
    )  # fmt: skip
    assert op_rule(by_output(model, "y")).kind is kind


@pytest.mark.parametrize(
    ("text", "has_rule"),
    [
        ("y = AveragePool <kernel_shape = [2, 2]> (x)", True),
        ("y = AveragePool <kernel_shape = [2, 2], dilations = [1, 1]> (x)", True),
        ("y = AveragePool <kernel_shape = [2, 2], dilations = [1, 2]> (x)", False),
        ("y = Dropout (x, r)", True),
        ("y = Dropout (x, r, off)", True),
        ("y = Dropout (x, r, on)", False),
        ("y = Dropout (x, r, fed)", False),
    ],
)
def test_forms_without_integer_kernels_have_no_rule(text, has_rule):
    model = built(
        f"g (float[1,1,4,4] x, float r, bool on, bool off, bool fed) => (float[1,1,A,B] y) {{ {text} }}",
        r=np.float32(0.5), on=np.array(True), off=np.array(False),
    )  # fmt: skip
    assert (op_rule(by_output(model, "y")) is not None) is has_rule


def test_custom_domains_have_no_rule():
    model = built("g (float[2] x) => (float[2] y) { y = custom.Relu (x) }", domains='"custom": 1')
    assert op_rule(by_output(model, "y")) is None


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("y = Conv (x, w)", (0,)),
        ("y = Conv (x, f)", (0, 1)),
        ("y = Conv (x, f, d)", (0, 1, 2)),
        ("y = Where (c, x, w)", (1, 2)),
        ("y = Add (x, w)", (0, 1)),
        ("y = Clip (x, lo)", (0,)),
        ("y = Concat <axis = 0> (x, w, x)", (0, 1, 2)),
        ("y = InstanceNormalization (x, d, g)", (0, 1)),
    ],
)
def test_data_positions_are_the_values_and_computed_parameters(text, positions):
    model = built(
        f"""g (float[1,2,4,4] x, float[2,2,1,1] f, float[2] d, float[2,2,1,1] w, float[2] g, float lo, bool c)
        => (float[A,B,C,D] y) {{ {text} }}""",
        w=normal(2, 2, 1, 1), g=normal(2), lo=np.float32(0),
    )  # fmt: skip
    node = by_output(model, "y")
    assert data_positions(node, op_rule(node)) == positions


@pytest.mark.parametrize(
    ("text", "rank", "axis"),
    [
        ("y = Conv (x, x)", 4, 0),
        ("y = ConvTranspose (x, x)", 4, 1),
        ("y = Gemm (x, x)", 2, 1),
        ("y = Gemm <transB = 1> (x, x)", 2, 0),
        ("y = MatMul (x, x)", 2, 1),
        ("y = MatMul (x, x)", 3, 2),
    ],
)
def test_channel_axis_is_the_axis_of_outputs(text, rank, axis):
    model = graph(f"g (float[2, 2] x) => (float[A, B] y) {{ {text} }}")
    assert channel_axis(by_output(model, "y"), rank) == axis


def test_group_normalization_has_the_type_of_its_input():
    model = built(
        "g (float[1,4,2,2] x, float[4] s) => (float[A,B,C,D] y) "
        "{ n = GroupNormalization <num_groups = 2> (x, s, s) y = Relu (n) }",
        s=normal(4),
    )  # fmt: skip
    assert is_float32(by_output(model, "n").outputs[0])
    assert list(by_output(model, "n").outputs[0].shape) == [1, 4, 2, 2]
    assert by_output(model, "n").op_type == "GroupNormalization"


def test_table_positions_agree_with_the_schemas():
    import onnx

    for name, rule in OP_TABLE.items():
        schema = onnx.defs.get_schema(name) if onnx.defs.has(name) else None
        for position in (*(rule.data or ()), rule.weight, rule.bias):
            if position is not None and schema is not None:
                last = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
                assert position < len(schema.inputs) or last, name

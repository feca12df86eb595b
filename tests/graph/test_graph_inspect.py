import pytest
from graph_models import graph, normal

from fewbits.errors import SpecError
from fewbits.graph.inspect import TensorInfo, inspect_graph, node_macs
from fewbits.graph.shapes import infer_shapes

CASES = {  # node, inputs, weight shape, output dims, multiply-accumulates by hand
    "conv": ("Conv <group=2> (x, w)", "1,4,8,8", (6, 2, 3, 3), "1,6,6,6", 6 * 6 * 6 * 2 * 9),
    "conv_transpose": ("ConvTranspose <group=2> (x, w)", "1,4,8,8", (4, 3, 3, 3), "1,6,10,10", 4 * 8 * 8 * 3 * 9),
    "gemm": ("Gemm <transB=1> (x, w)", "1,10", (5, 10), "1,5", 50),
    "gemm_trans_a": ("Gemm <transA=1> (x, w)", "10,2", (10, 5), "2,5", 100),
    "matmul": ("MatMul (x, w)", "1,7,10", (10, 5), "1,7,5", 350),
}


@pytest.mark.parametrize("name", CASES)
def test_node_macs(name):
    node, dims, weight, out, expected = CASES[name]
    dims_w = ",".join(map(str, weight))
    model = graph(f"g (float[{dims}] x, float[{dims_w}] w) => (float[{out}] y) {{ y = {node} }}", w=normal(*weight))
    assert node_macs(model.graph[0]) == expected


def test_node_macs_of_other_operators():
    assert node_macs(graph("g (float[2] x) => (float[2] y) { y = Neg(x) }").graph[0]) == 0


def test_node_macs_takes_dims():
    model = graph("g (float[n,seq,10] x, float[10,5] w) => (float[n,seq,5] y) { y = MatMul(x, w) }", w=normal(10, 5))
    infer_shapes(model)
    assert node_macs(model.graph[0]) is None
    assert node_macs(model.graph[0], {"seq": 3}) == 150
    assert node_macs(model.graph[0], {"seq": 3, "n": 2}) == 300


def test_inspect_graph_counts():
    model = graph(
        "g (float[batch,3,8,8] x, float[4,3,3,3] w) => (float[batch,4,6,6] y) { a = Conv(x, w) b = Relu(a) "
        "y = Relu(b) }",
        w=normal(4, 3, 3, 3),
    )
    summary = inspect_graph(model)
    assert summary.inputs == (TensorInfo("x", "float", ("batch", 3, 8, 8)),)
    assert summary.outputs == (TensorInfo("y", "float", ("batch", 4, 6, 6)),)
    assert summary.operators == {"Relu": 2, "Conv": 1}
    assert (summary.parameters, summary.parameter_bytes) == (108, 432)
    assert summary.total_macs == 4 * 6 * 6 * 27
    assert summary.opsets == {"": 21}


def test_inspect_graph_says_which_dims_are_missing():
    text = "g (float[batch,3,h,w] x, float[4,3,3,3] k) => (float[batch,4,p,q] y) { y = Conv(x, k) }"
    model = graph(text, k=normal(4, 3, 3, 3))
    summary = inspect_graph(model)
    assert summary.total_macs is None
    assert summary.macs[0].reason == "the shapes of Conv 'Conv_0' are open: give h, w a size"
    assert inspect_graph(model, {"h": 8, "w": 8}).total_macs == 4 * 6 * 6 * 27
    with pytest.raises(SpecError, match="no open dimension 'z'"):
        inspect_graph(model, {"z": 8})

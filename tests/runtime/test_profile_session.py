import numpy as np
import onnx
import onnx.parser
import pytest

from fewbits.errors import ModelError, SpecError
from fewbits.runtime.profile_session import _without_overhead, profile_session, time_session
from fewbits.runtime.session import RunOptions, open_session

ONE = RunOptions(threads=1)
TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[8, 64] x, bool c) => (float y, float16 z)
    <float16[8, 64] half> {
    h = MatMul (x, x2) s = Softmax (h) half = Cast <to = 10> (s) z = Softmax (half)
    y = If (c) <then_branch = t () => (float t1) { t0 = Exp (s) t1 = Relu (t0) },
                else_branch = e () => (float e1) { e1 = Neg (s) }> }"""


@pytest.fixture
def model(tmp_path):
    proto = onnx.parser.parse_model(TEXT)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "x2"))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def feeds():
    return {"x": np.ones((8, 64), np.float32), "c": np.array(True)}


def test_nodes_are_those_of_the_optimized_graph_and_add_up_to_a_run(model, tmp_path):
    found = profile_session(model, feeds(), options=ONE)
    open_session(model, options=ONE, optimized_path=tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    assert [(n.op, n.outputs) for n in found.nodes] == [(n.op_type, tuple(n.output)) for n in graph.node]
    assert sum(node.us for node in found.nodes) == pytest.approx(found.total_us)
    assert all(node.us >= 0 for node in found.nodes)
    assert any(not node.name for node in found.nodes)  # float16 Softmax is split into operators without names
    assert [node.op for node in found.nodes].count("If") == 1  # with what is inside of it
    assert "Relu" not in {node.op for node in found.nodes}


def test_a_run_is_timed_without_the_profiler(model):
    found = time_session(model, feeds(), options=ONE)
    assert 0 < found < 1e5


def test_the_same_is_taken_off_every_node_until_the_sum_is_right():
    assert _without_overhead([5.0, 3.0, 1.0], 5.0) == pytest.approx([3.5, 1.5, 0.0])
    assert _without_overhead([5.0, 3.0], 10.0) == pytest.approx([6.0, 4.0])
    assert _without_overhead([], 10.0) == []


def test_what_onnxruntime_does_not_run_is_refused(model, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"onnxruntime could not time the model: .*\. Choose another cost\."):
        time_session(tmp_path / "bad.onnx", {}, options=ONE)
    with pytest.raises(ModelError, match="onnxruntime could not time the model"):
        profile_session(model, {"x": np.ones((8, 63), np.float32), "c": np.array(True)}, options=ONE)
    with pytest.raises(SpecError, match="no provider 'abacus'"):
        time_session(model, feeds(), options=RunOptions(provider="abacus"))

"""The torch executor: onnxruntime's outputs, ONNX names, gradients, hooks, and what it refuses."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from fewbits.errors import DataError, ModelError
from fewbits.graph.load import load_model
from fewbits.graph.prepare import prepare
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session

torch = pytest.importorskip("torch")

from fewbits.runtime.torch_graph import TorchGraph, channels_last, feeds_to_torch  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
SHAPES = """g (float[N, 2, 3] x) => (float[N, 6] y, float[N, 6] z, int64[2] told) {
    s = Shape (x)  first = Gather (s, zero)  rest = Constant <value = int64[1] {-1}> ()
    told = Concat <axis = 0> (first, rest)
    y = Reshape (x, told)
    c = Clip (y, , top)
    z, mask = Dropout (c)
}"""
"""Shapes that come from the feeds, an output that is read again, an input and an output that are left out."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return prepare(load_model(DIGITS / "digits.onnx")).model


@pytest.fixture(scope="module")
def graph(digits):
    return TorchGraph(digits).eval()


def images(count):
    return np.load(DIGITS / "calib.npz")["image"][:count]


def parsed(text, **weights):
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21, "my.ops": 1]> ' + text)
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return proto


def as_graph(text, **weights):
    proto = parsed(text, **weights)
    for node in proto.graph.node:
        node.name = f"{node.op_type} of {node.output[0]}"
    return TorchGraph(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))


class Notes:
    """A hook that remembers what it was shown."""

    def __init__(self):
        self.reads, self.writes, self.given = [], [], {}

    def read(self, step, position, value):
        self.reads.append((step.name, position))
        return value

    def wrote(self, step, inputs, outputs):
        self.writes.append(step.name)
        self.given[step.name] = len(inputs), len(outputs)
        return outputs


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_those_of_onnxruntime(graph, batch):
    feeds = {"image": images(batch)}
    runner = open_session(DIGITS / "digits.onnx", policy=SessionPolicy.EXACT, options=RunOptions(threads=1))
    with torch.no_grad():
        found = graph(feeds_to_torch(feeds))
    assert list(found) == ["logits"]
    assert found["logits"].shape == (batch, 10)
    assert sqnr_db(runner(feeds)["logits"], found["logits"].numpy()) >= 80


def test_shapes_come_from_the_feeds():
    graph = as_graph(SHAPES, zero=[0], top=np.float32(1))
    for batch in (1, 3):
        x = torch.arange(6.0 * batch).reshape(batch, 2, 3) / 4
        found = graph({"x": x})
        assert list(found) == ["y", "z", "told"]
        assert torch.equal(found["y"], x.reshape(batch, 6))
        assert torch.equal(found["z"], x.reshape(batch, 6).clamp(max=1))
        assert found["told"].tolist() == [batch, -1]


def test_outputs_may_be_inputs_and_constants():
    graph = as_graph("g (float[2] x) => (float[2] x, float[2] w, float[2] y) { y = Add (x, w) }", w=np.float32([1, 2]))
    x = torch.tensor([3.0, 4.0])
    assert {name: value.tolist() for name, value in graph({"x": x}).items()} == {"x": [3, 4], "w": [1, 2], "y": [4, 6]}


def test_parameters_have_their_onnx_names_and_values(digits, graph):
    state, stored = graph.state_dict(), digits.graph.initializers
    steering = {"min_val_cast", "max_val_cast", "val_367"}  # bounds of Clip, axes of ReduceMean
    assert set(state) == set(stored) - steering
    assert "blocks.0.body.0.weight" in state
    for name, value in state.items():
        assert np.array_equal(value.numpy(), stored[name].const_value.numpy()), name


def test_parameters_of_layers_are_trained_and_other_constants_are_not():
    graph = as_graph(
        """g (float[N, 2] x) => (float[N, 2] y) {
            a = Gemm (x, w, b)  n = LayerNormalization (a, gamma, beta)  y = Mul (n, k)
        }""",
        w=np.eye(2, dtype=np.float32), b=np.ones(2, np.float32), gamma=np.ones(2, np.float32),
        beta=np.ones(2, np.float32), k=np.float32(2),
    )  # fmt: skip
    trained = {name for name, value in graph.named_parameters() if value.requires_grad}
    assert set(graph.state_dict()) == {"w", "b", "gamma", "beta", "k"}
    assert trained == {"w", "b", "gamma", "beta"}


def test_state_can_be_loaded_again(digits, graph):
    feeds, other = feeds_to_torch({"image": images(2)}), TorchGraph(digits)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(0.5)
        wanted = other(feeds)["logits"]
        assert not torch.equal(wanted, graph(feeds)["logits"])
        again = TorchGraph(digits)
        assert again.load_state_dict(other.state_dict()).missing_keys == []
        assert torch.equal(again(feeds)["logits"], wanted)


def test_the_model_is_left_as_it_was(digits):
    before = {name: value.const_value.numpy().copy() for name, value in digits.graph.initializers.items()}
    with torch.no_grad():
        for value in TorchGraph(digits).parameters():
            value.zero_()
    for name, value in digits.graph.initializers.items():
        assert np.array_equal(value.const_value.numpy(), before[name]), name


def test_gradients_reach_parameters_and_inputs(digits):
    graph, image = TorchGraph(digits), torch.from_numpy(images(3)).requires_grad_()
    graph({"image": image})["logits"].square().sum().backward()
    trained = [(name, value) for name, value in graph.named_parameters() if value.requires_grad]
    assert len(trained) == 66  # 32 convolutions and the head, each with weight and bias
    for name, value in [*trained, ("image", image)]:
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert value.grad.any(), name


def test_gradients_are_the_slope_of_the_network(digits):
    graph = TorchGraph(digits).double()
    generator = torch.Generator().manual_seed(1)
    image = torch.from_numpy(images(2)).double()
    step = torch.randn(image.shape, generator=generator, dtype=torch.float64)

    def value(at):
        return graph({"image": at})["logits"].square().sum()

    start = image.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(start), start)
    with torch.no_grad():
        measured = (value(image + 1e-6 * step) - value(image - 1e-6 * step)) / 2e-6
    assert float((slope * step).sum()) == pytest.approx(float(measured), rel=1e-5)


def test_hooks_see_every_node_and_every_input(digits, graph):
    notes = Notes()
    with torch.no_grad():
        graph(feeds_to_torch({"image": images(1)}), notes)
    nodes = list(digits.graph)
    assert notes.writes == [node.name for node in nodes]
    assert notes.reads == [(n.name, i) for n in nodes for i, value in enumerate(n.inputs) if value is not None]
    assert notes.given == {n.name: (len(n.inputs), len(n.outputs)) for n in nodes}


def test_hooks_may_replace_what_a_node_reads_and_writes():
    class Changing(Notes):
        def read(self, step, position, value):
            return value + 10 if (step.name, position) == ("Neg of b", 0) else value

        def wrote(self, step, inputs, outputs):
            return tuple(value * 2 for value in outputs) if step.name == "Relu of a" else outputs

    graph = as_graph("g (float[2] x) => (float[2] b, float[2] c) { a = Relu (x) b = Neg (a) c = Identity (a) }")
    found = graph({"x": torch.tensor([1.0, -1.0])}, Changing())
    assert found["c"].tolist() == [2, 0]
    assert found["b"].tolist() == [-12, -10]


def test_every_tensor_is_freed_after_its_last_reader(digits, graph):
    freed = [name for step in graph.steps for name in step.frees]
    made = [str(value.name) for node in digits.graph for value in node.outputs]
    assert sorted(freed) == sorted({"image", *made} - {"logits"})
    for i, step in enumerate(graph.steps):
        later = {name for after in graph.steps[i + 1 :] for name in after.reads}
        assert not later & set(step.frees), step.name


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("y = Det (x)", "no operator Det, which node 'Det of y' needs"),
        ("y = my.ops.Relu (x)", "no operator my.ops::Relu, which node 'Relu of y' needs"),
    ],
)
def test_an_operator_that_is_not_listed_is_named_with_its_node(node, said):
    with pytest.raises(ModelError, match=said):
        as_graph(f"g (float[2, 2] x) => (float y) {{ {node} }}")


def test_a_missing_feed_is_named(graph):
    with pytest.raises(DataError, match="lack the input 'image': the model reads image"):
        graph({"picture": torch.zeros(1, 1, 8, 8)})


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (8, 8, 8, 8, 8, 8)])
def test_a_wrong_shape_is_told_with_the_node(graph, shape):
    with pytest.raises(ModelError, match="node_Conv_472") as caught:
        graph({"image": torch.zeros(shape)})
    assert len(str(caught.value).splitlines()) == 1


def test_what_torch_refuses_is_told_with_node_and_shapes():
    graph = as_graph("g (float[N, K] x) => (float[N, 2] y) { y = MatMul (x, w) }", w=np.ones((3, 2), np.float32))
    with pytest.raises(ModelError, match=r"torch cannot compute MatMul 'MatMul of y' on torch\.float32\[2, 4\], "):
        graph({"x": torch.zeros(2, 4)})


def test_bfloat16_initializers_keep_their_values():
    proto = parsed("g (bfloat16[2] x) => (bfloat16[2] y) { y = Add (x, w) }")
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [2], [1.5, -0.25]))
    (step,) = (graph := TorchGraph(ir.from_proto(proto))).steps
    values = {"x": torch.zeros(2, dtype=torch.bfloat16), "w": graph._constants.get("w", graph._parameters.get("w"))}
    assert graph.compute(step, values)[0].tolist() == [1.5, -0.25]


def test_types_that_torch_lacks_are_named():
    proto = parsed("g (float[2] x) => (float[2] y) { y = Cast <to = 1> (w) }")
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.STRING, [2], [b"a", b"b"]))
    with pytest.raises(ModelError, match="no tensors of type STRING, as the initializer 'w' is"):
        TorchGraph(ir.from_proto(proto))


def test_an_initializer_without_its_data_is_named():
    value = ir.Value(name="w", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(np.ones(2, np.float32))
    node = ir.node("Add", [x, value])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 21})
    model = ir.Model(graph, ir_version=10)
    value.const_value = None
    with pytest.raises(ModelError, match="The initializer 'w' has no value"):
        TorchGraph(model)


def test_feeds_are_the_arrays_in_an_order_that_convolutions_like():
    array = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    found = feeds_to_torch({"image": array[:, :, ::-1], "ids": np.arange(3)})
    assert np.array_equal(found["image"].numpy(), array[:, :, ::-1])
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    assert found["ids"].tolist() == [0, 1, 2]
    assert channels_last(found["ids"]) is found["ids"]


def test_the_device_is_that_of_the_parameters(digits):
    assert TorchGraph(digits).device == torch.device("cpu")
    assert TorchGraph(digits).to("meta").device == torch.device("meta")
    assert as_graph("g (float[2] x) => (float[2] y) { y = Relu (x) }").device == torch.device("cpu")

"""RNN, GRU and LSTM of the torch executor against onnxruntime, which computes them in float32, too."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from operator_cases import run, to_numpy

from fewbits.errors import ModelError
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.runtime.torch_graph import TorchGraph

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, INPUTS, HIDDEN = 7, 3, 4, 5


def model(op, direction="forward", *, lengths=False, begin=False, peepholes=False, **attributes):
    """Return a layer with weights of its own, whose outputs are those of the model."""
    rng, ways = np.random.default_rng(3), 2 if direction == "bidirectional" else 1
    rows = GATES[op] * HIDDEN
    arrays = {
        "w": rng.standard_normal((ways, rows, INPUTS)),
        "r": rng.standard_normal((ways, rows, HIDDEN)),
        "b": rng.standard_normal((ways, 2 * rows)),
    }
    names = ["x", "w", "r", "b", "lengths" if lengths else "", "h" if begin else ""]
    if begin:
        arrays["h"] = rng.standard_normal((ways, BATCH, HIDDEN))
    if op == "LSTM":
        names += ["c" if begin else "", "p" if peepholes else ""]
        if begin:
            arrays["c"] = rng.standard_normal((ways, BATCH, HIDDEN))
        if peepholes:
            arrays["p"] = rng.standard_normal((ways, 3 * HIDDEN))
    outputs = ["y", "y_h"] + ["y_c"] * (op == "LSTM")
    node = onnx.helper.make_node(op, names, outputs, name="cell", direction=direction, hidden_size=HIDDEN, **attributes)
    stored = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    if lengths:
        stored.append(onnx.numpy_helper.from_array(np.array([7, 2, 5], np.int32), "lengths"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", 1, [STEPS, BATCH, INPUTS])], [info(name, 1, None) for name in outputs], stored
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("RNN", {}),
        ("RNN", {"lengths": True, "begin": True}),
        ("GRU", {"begin": True}),
        ("GRU", {"linear_before_reset": 1, "lengths": True}),
        ("LSTM", {"begin": True}),
        ("LSTM", {"lengths": True, "peepholes": True}),
    ],
)
def test_outputs_are_those_of_onnxruntime(op, direction, options):
    made = model(op, direction, **options)
    feeds = {"x": np.random.default_rng(4).standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)}
    expected = open_session(made.SerializeToString(), policy=SessionPolicy.PLAIN)(feeds)
    found = run(made, {"x": torch.from_numpy(feeds["x"])})
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(to_numpy(value), expected[name], atol=1e-5)  # sums of 9 products, 7 times over


def test_activations_are_those_that_are_named():
    made = model("RNN", "bidirectional", activations=["Relu", "Sigmoid"])
    feeds = {"x": np.random.default_rng(4).standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)}
    expected = open_session(made.SerializeToString(), policy=SessionPolicy.PLAIN)(feeds)["y"]
    np.testing.assert_allclose(to_numpy(run(made, {"x": torch.from_numpy(feeds["x"])})["y"]), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"clip": 1.0}, "does not support clip"),
        ({"input_forget": 1}, "does not support input_forget"),
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "does not support the activation 'affine'"),
    ],
)
def test_what_is_not_computed_is_refused(options, what):
    with pytest.raises(ModelError, match=what):
        run(model("LSTM", **options), {"x": torch.zeros(STEPS, BATCH, INPUTS)})


@pytest.mark.parametrize("op", GATES)
def test_gradients_pass_through_every_step(op):
    graph = TorchGraph(ir.from_proto(model(op)))
    x = torch.randn(STEPS, BATCH, INPUTS, requires_grad=True)
    graph({"x": x})["y_h"].sum().backward()
    assert (x.grad.abs().sum((1, 2)) > 0).all()

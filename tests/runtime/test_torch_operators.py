"""Torch operators: ONNX's own node models, ONNX Runtime, gradients, devices, and what is refused."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from operator_cases import SKIPPED, cases, difference, feeds_of, has_type, run, skipped, to_torch
from operator_nodes import GROUPS, build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewbits.errors import ModelError
from fewbits.runtime.torch_operators.call import Call
from fewbits.runtime.torch_operators.table import OPERATORS, attributes_of, call_of
from fewbits.spec.optable import OP_TABLE

CHUNKS = 8
Inputs = list[torch.Tensor | None]


def call(op: str, opset: int = 21, outputs: int = 1, **attributes: Any) -> Call:
    return Call(op.lower(), op, "", opset, attributes, (True,) * outputs)


def single_nodes() -> list[Any]:
    """Return the cases of one node that are compared."""
    return [case for case in cases() if len(case.model.graph.node) == 1 and not skipped(case)]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_operators_compute_what_the_onnx_reference_does(chunk):
    flaws, compared = [], [case for case in cases()[chunk::CHUNKS] if not skipped(case)]
    assert len(compared) > 100
    for case in compared:
        given = run(case.model, feeds_of(case))
        pairs = zip(given.items(), case.data_sets[0][1], strict=True)
        found = [(name, difference(tensor, wanted, case.rtol, case.atol)) for (name, tensor), wanted in pairs]
        flaws += [f"{case.name} {name}: {flaw}" for name, flaw in found if flaw]
    assert flaws == []


@pytest.mark.parametrize("group", GROUPS)
def test_operators_compute_what_onnxruntime_does(group):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    flaws = []
    for node in GROUPS[group]():
        model, feeds = build(node)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = session.run(None, feeds)
        given = run(model, {name: to_torch(array) for name, array in feeds.items()})
        found = [difference(g, w, rtol=1e-4, atol=1e-5) for g, w in zip(given.values(), wanted, strict=True)]
        flaws += [f"{node}: {flaw}" for flaw in found if flaw]
    assert flaws == []


def test_few_cases_are_skipped_and_each_for_a_reason_in_the_table():
    found = Counter(skipped(case) for case in cases())
    assert set(found) == {None, *SKIPPED.values()}
    assert found[None] > 1000
    assert sum(found.values()) - found[None] < 60


def test_every_operator_is_compared_with_a_reference():
    counted = Counter(op for case in cases() if not skipped(case) for op in {n.op_type for n in case.model.graph.node})
    counted.update(node.op for group in GROUPS.values() for node in group())
    assert sorted(set(OPERATORS) - set(counted)) == []
    assert len(OPERATORS) > 140


def test_every_operator_that_is_quantized_has_its_torch_form():
    assert sorted(set(OP_TABLE) - set(OPERATORS)) == []


NO_GRADIENT = {"Hardmax", "Range"}
"""Operators with float outputs that do not depend on their inputs smoothly anywhere."""

NOT_DATA = {"BatchNormalization": (3, 4), "Resize": (1, 2), "Upsample": (1,), "Pad": (2,), "OneHot": (0, 1),
            "Dropout": (1,), "CastLike": (1,)}  # fmt: skip
"""Positions of float inputs that say how, not what."""


def test_gradients_flow_through_every_operator():
    reached = set()
    for case in single_nodes():
        (node,) = case.model.graph.node
        feeds, told = feeds_of(case), NOT_DATA.get(node.op_type, ())
        data = [feeds[name] for place, name in enumerate(node.input) if name and place not in told]
        data = [tensor.requires_grad_() for tensor in data if tensor.dtype in (torch.float32, torch.float64)]
        outputs = [tensor for tensor in run(case.model, feeds).values() if tensor.is_floating_point()]
        if not data or not outputs or node.op_type in NO_GRADIENT or not all(t.numel() for t in data):
            continue
        if node.op_type in ("Cast", "CastLike") and outputs[0].dtype not in (torch.float32, torch.float64):
            continue
        sum(tensor.sum() for tensor in outputs).backward()
        assert all(tensor.grad is not None for tensor in data), case.name
        reached.add(node.op_type)
    assert len(reached) > 95
    assert "Reshape" in reached


CHECKED: dict[str, tuple[Call, list[Any]]] = {
    "Conv": (call("Conv", pads=(0, 1, 1, 0), strides=(2, 1)), [(1, 2, 4, 4), (2, 2, 3, 2), (2,)]),
    "ConvTranspose": (call("ConvTranspose", strides=(2, 2), output_shape=(5, 6)), [(1, 2, 2, 3), (2, 2, 3, 2), (2,)]),
    "Gemm": (call("Gemm", transB=1, alpha=0.5), [(2, 3), (4, 3), (4,)]),
    "MatMul": (call("MatMul"), [(2, 2, 3), (3, 2)]),
    "LayerNormalization": (call("LayerNormalization"), [(2, 4), (4,), (4,)]),
    "LayerNormalization with mean": (call("LayerNormalization", outputs=3, axis=1), [(2, 2, 3), (3,), (3,)]),
    "RMSNormalization": (call("RMSNormalization"), [(2, 4), (4,)]),
    "Softmax": (call("Softmax", 11, axis=1), [(2, 2, 3)]),
    "Gelu": (call("Gelu"), [(5,)]),
    "Gelu by tanh": (call("Gelu", approximate="tanh"), [(5,)]),
    "Resize linear": (call("Resize", mode="linear"), [(1, 1, 3, 4), None, torch.tensor([1, 1, 2, 1.5])]),
    "Resize cubic": (call("Resize", mode="cubic"), [(1, 1, 3, 4), None, torch.tensor([1, 1, 2, 1.5])]),
    "Resize antialias": (
        call("Resize", mode="linear", antialias=1), [(1, 1, 5, 6), None, torch.tensor([1, 1, 0.4, 0.5])]
    ),
    "Resize nearest": (call("Resize"), [(1, 1, 3, 4), None, torch.tensor([1, 1, 2, 2.0])]),
    "AveragePool": (call("AveragePool", kernel_shape=(2, 2), pads=(1, 0, 0, 1)), [(1, 2, 4, 4)]),
    "MaxPool": (call("MaxPool", kernel_shape=(2, 2), pads=(1, 0, 0, 1)), [(1, 2, 4, 4)]),
    "Gather": (call("Gather", axis=1), [(2, 3), torch.tensor([[0, -1], [2, 0]])]),
    "GatherND": (call("GatherND"), [(2, 3), torch.tensor([[0, -1], [1, 0]])]),
    "ScatterND": (call("ScatterND", reduction="add"), [(3, 2), torch.tensor([[0], [0]]), (2, 2)]),
    "Slice": (
        call("Slice"),
        [(3, 4), torch.tensor([3, 0]), torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([-2, 1])],
    ),
    "Pad": (call("Pad", mode="reflect"), [(2, 4), torch.tensor([0, 2, 1, 1])]),
    "ReduceMean": (call("ReduceMean"), [(2, 3, 2), torch.tensor([0, 2])]),
    "ReduceL2": (call("ReduceL2"), [(2, 3, 2), torch.tensor([1])]),
    "Pow": (call("Pow"), [torch.tensor([0.5, 1.5], dtype=torch.float64), torch.tensor(2.5)]),
    "Clip": (call("Clip"), [(4,), torch.tensor(-0.2), torch.tensor(0.7)]),
    "Clip by what is computed": (call("Clip"), [(4,), (), None]),
    "Where": (call("Where"), [torch.tensor([True, False]), (3, 2), (2,)]),
    "Split": (call("Split", 18, 2, num_outputs=2, axis=1), [(2, 3)]),
    "Attention": (call("Attention", 24, is_causal=1), [(1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 2)]),
    "GridSample": (call("GridSample"), [(1, 1, 3, 3), (1, 2, 2, 2)]),
}  # fmt: skip
"""Call, and shapes of what gradients are for, or tensors as they are."""


@pytest.mark.parametrize("name", CHECKED)
def test_gradients_are_those_of_the_function(name):
    made, given = CHECKED[name]
    generator = torch.Generator().manual_seed(5)
    tensors = [
        torch.randn(one, dtype=torch.float64, generator=generator) if isinstance(one, tuple) else one for one in given
    ]
    places = [p for p, t in enumerate(tensors) if t is not None and t.dtype == torch.float64]

    def function(*parts: torch.Tensor) -> Any:
        inputs: Inputs = list(tensors)
        for place, part in zip(places, parts, strict=True):
            inputs[place] = part
        return OPERATORS[made.op](made, inputs)

    assert torch.autograd.gradcheck(function, [tensors[place].clone().requires_grad_() for place in places])


READ_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "Range", "Upsample"}
"""Operators whose output has a shape that depends on the values of what lies on the device."""


class OneDevice(TorchDispatchMode):
    """Refuses what an accelerator refuses: kernels that mix devices, but for numbers and copies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.ndim]
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        assert is_copy or len({tensor.device for tensor in tensors}) < 2, f"{func} mixes devices"
        return func(*args, **(kwargs or {}))


def test_floats_may_be_on_a_device_and_what_indexes_them_on_the_cpu():
    """The meta device stands for an accelerator."""
    reached = set()
    for case in single_nodes():
        (node,), feeds, rule = case.model.graph.node, feeds_of(case), OP_TABLE.get(case.model.graph.node[0].op_type)
        if node.op_type in READ_VALUES:
            continue
        wanted = run(case.model, feeds)
        for place, name in enumerate(node.input):
            is_data = rule is None or rule.data is None or place in (*rule.data, rule.weight, rule.bias)
            if node.op_type == "OneHot":
                is_data = place == 2
            if name and is_data and feeds[name].is_floating_point():
                feeds[name] = feeds[name].to("meta")
        with OneDevice():
            given = run(case.model, feeds)
        described = [(name, tensor.dtype, tensor.shape) for name, tensor in given.items()]
        assert described == [(name, tensor.dtype, tensor.shape) for name, tensor in wanted.items()], case.name
        if any(tensor.device.type == "meta" for tensor in feeds.values()):
            floats = [tensor for tensor in given.values() if tensor.is_floating_point()]
            assert all(tensor.device.type == "meta" for tensor in floats), case.name
            reached.add(node.op_type)
    assert len(reached) > 100


REFUSED: dict[str, tuple[Call, list[Any], str]] = {
    "training": (call("BatchNormalization", training_mode=1), [(1, 2), (2,), (2,), (2,), (2,)], "training mode"),
    "dropout": (call("Dropout"), [(2,), torch.tensor(0.5), torch.tensor(True)], "training mode"),
    "elements": (call("BatchNormalization", 7, spatial=0), [(1, 2), (2,), (2,), (2,), (2,)], "spatial 0"),
    "rank": (call("Conv"), [(1, 2, 1, 1, 1, 1), (1, 2, 1, 1, 1, 1)], "inputs of 6 axes"),
    "type": (call("Cast", to=int(ir.DataType.FLOAT8E4M3FN)), [(2,)], "the type FLOAT8E4M3FN"),
    "text": (call("Constant", value_string="a"), [], "value_string"),
    "volume": (call("GridSample", mode="cubic"), [(1, 1, 2, 2, 2), (1, 2, 2, 2, 3)], "mode 'bicubic' for inputs"),
    "integers": (
        call("Resize", mode="linear"), [torch.ones(2, 2, dtype=torch.uint8), None, torch.tensor([2.0, 2.0])],
        "linear interpolation of torch.uint8",
    ),
    "upsample": (call("Upsample", 9, mode="cubic"), [(2,), torch.tensor([2.0])], "the mode 'cubic'"),
    "axis": (call("Softmax", axis=3), [(2, 2)], "has axis 3, but its tensor has 2 axes"),
    "input": (call("Add"), [(2,), None], "has no input 1"),
    "squeeze": (call("Squeeze"), [(2, 3), torch.tensor([0])], "they need one element each"),
    "pad": (call("Pad", mode="mirror"), [(2,), torch.tensor([1, 1])], "the mode 'mirror'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_operator_cannot_do_is_said_with_the_name_of_the_node(name):
    made, given, message = REFUSED[name]
    inputs = [torch.zeros(one) if isinstance(one, tuple) else one for one in given]
    with pytest.raises(ModelError, match=message) as caught:
        OPERATORS[made.op](made, inputs)
    assert repr(made.name) in str(caught.value)


def test_call_of_reads_every_kind_of_attribute():
    tensor = helper.make_tensor("t", 1, [2], [0.5, 1.5])
    node = helper.make_node(
        "Op", ["a", ""], ["b", ""], i=3, f=0.5, s="text", many=[1, 2], reals=[0.5], words=["x", "y"], t=tensor
    )
    made = call_of(ir.from_proto(node), 13)
    values = dict(made.attributes)
    assert np.array_equal(values.pop("t"), np.array([0.5, 1.5], np.float32))
    assert values == {"i": 3, "f": 0.5, "s": "text", "many": (1, 2), "reals": (0.5,), "words": ("x", "y")}
    assert (made.op, made.opset, made.domain, made.outputs) == ("Op", 13, "", (True, False))
    assert made.name == "Op without a name"


def test_attributes_of_refuses_control_flow():
    graph = helper.make_graph([], "body", [], [])
    node = helper.make_node("Loop", ["n", ""], ["y"], name="again", body=graph)
    with pytest.raises(ModelError, match="'body' of Loop 'again'"):
        attributes_of(ir.from_proto(node))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_operators_keep_the_type_of_floats(dtype: torch.dtype):
    tried: list[tuple[Call, Callable[[], Inputs]]] = [
        (call("Conv", pads=(1, 1, 1, 1)), lambda: [torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3), torch.ones(2)]),
        (call("Gemm"), lambda: [torch.ones(2, 3), torch.ones(3, 2), torch.ones(2)]),
        (call("LayerNormalization"), lambda: [torch.ones(2, 3), torch.ones(3), torch.ones(3)]),
        (call("RMSNormalization"), lambda: [torch.ones(2, 3), torch.ones(3)]),
        (call("GroupNormalization", num_groups=1), lambda: [torch.ones(2, 2, 3), torch.ones(2), torch.ones(2)]),
        (call("MaxPool", kernel_shape=(2, 2), pads=(1, 0, 0, 1)), lambda: [torch.ones(1, 2, 4, 4)]),
        (call("AveragePool", kernel_shape=(2, 2), pads=(1, 0, 0, 1)), lambda: [torch.ones(1, 2, 4, 4)]),
        (call("ReduceMean"), lambda: [torch.ones(2, 3)]),
        (call("Softmax"), lambda: [torch.ones(2, 3)]),
        (call("HardSwish"), lambda: [torch.ones(2, 3)]),
        (call("Selu"), lambda: [torch.ones(2, 3)]),
        (call("LRN", size=3), lambda: [torch.ones(1, 4, 2)]),
    ]
    for made, arguments in tried:
        found = OPERATORS[made.op](made, [None if one is None else one.to(dtype) for one in arguments()])
        assert isinstance(found, torch.Tensor)
        assert found.dtype == dtype, made.op
    scaled = OPERATORS["Resize"](
        call("Resize", mode="linear"), [torch.ones(1, 1, 3, 3, dtype=dtype), None, torch.tensor([1, 1, 2, 1.5])]
    )
    assert isinstance(scaled, torch.Tensor)
    assert scaled.dtype == dtype


def test_shape_is_int64_on_the_cpu_whatever_the_device():
    (found,) = [OPERATORS["Shape"](call("Shape", start=1), [torch.zeros(2, 3, 4, device="meta")])]
    assert isinstance(found, torch.Tensor)
    assert (found.tolist(), found.dtype, found.device.type) == ([3, 4], torch.int64, "cpu")


def test_scores_that_tie_are_taken_in_their_order():
    scores = to_torch(np.array([1, 3, 3, 2, 3], np.float32))
    found = OPERATORS["TopK"](call("TopK", outputs=2), [scores, torch.tensor([2])])
    assert isinstance(found, tuple)
    assert found[1] is not None
    assert found[1].tolist() == [1, 2]


def test_types_that_torch_lacks_are_left_out_of_the_cases():
    assert has_type(int(ir.DataType.BFLOAT16))
    assert not has_type(int(ir.DataType.STRING))
    assert not has_type(int(ir.DataType.INT4))

"""Hostile ONNX files: the protocol buffer stays whole, what it says is wrong, too large, or without an end."""

import random
from collections.abc import Callable

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

Edit = Callable[[onnx.ModelProto, random.Random], None]

_SIZES = (-1, 0, 1, 2, 7, 2**31, 2**40, 2**62, 2**63 - 1)
_LOCATIONS = (
    "../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "",
    ".",
    "..",
    "a/../../b",
    "missing.data",
    "weights.data",
    "link.data",
    "w\x00.data",
    "\u2028",
    "x" * 300,
    "C:\\x",
    "https://example.com/w",
    "model.onnx",
)
_OPS = (
    "If",
    "Loop",
    "Scan",
    "Reshape",
    "ConstantOfShape",
    "Conv",
    "Gemm",
    "Nothing",
    "",
    "Cast",
    "QuantizeLinear",
    "Split",
)


def damaged_onnx(data: bytes, rng: random.Random) -> bytes:
    """Return a model after one to three edits."""
    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_EDITS)(model, rng)
    return model.SerializeToString()


def _dims(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    dims = list(tensor.dims) or [1]
    dims[rng.randrange(len(dims))] = rng.choice(_SIZES)
    del tensor.dims[:]
    tensor.dims.extend(dims if rng.random() < 0.8 else dims * 20)


def _type(model: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(model.graph.initializer).data_type = rng.choice(
        (0, 1, 2, 7, 8, 9, 10, 14, 16, 17, 22, 23, 99, 2**31 - 1)
    )


def _short(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.raw_data = tensor.raw_data[: rng.choice((0, 1, 8))]


def _outside(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {
        "location": rng.choice(_LOCATIONS),
        "offset": str(rng.choice(_SIZES)),
        "length": rng.choice(("8", "-1", "x", str(2**62))),
    }
    for key in rng.sample(sorted(entries), rng.choice((1, 3, 3))):
        tensor.external_data.add(key=key, value=entries[key])


def _moved(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change what the model says of external data, where it has any."""
    tensor = rng.choice(model.graph.initializer)
    for entry in tensor.external_data:
        choices = {"location": _LOCATIONS, "offset": _SIZES, "length": _SIZES}
        if rng.random() < 0.5:
            entry.value = str(rng.choice(choices.get(entry.key, ("x",))))


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    match rng.randrange(7):
        case 0:
            node.op_type = rng.choice(_OPS)
        case 1:
            node.domain = rng.choice(("my.ops", "com.microsoft", "ai.onnx.ml", "\x00"))
        case 2 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(
                ("", "nothing", node.output[0], model.graph.node[-1].output[0])
            )
        case 3:
            node.output[0] = rng.choice(("", "logits", node.input[0] if node.input else ""))
        case 4:
            node.input.extend(["x"] * rng.choice((1, 500)))
        case 5:
            model.graph.node.append(node)
        case _:
            del model.graph.node[rng.randrange(len(model.graph.node))]
            if not model.graph.node:
                model.graph.node.add(op_type="Identity", input=["x"], output=["y"])


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    if not node.attribute:
        node.attribute.add(name="axis", type=rng.choice((0, 1, 2, 7, 14)), i=2**62)
        return
    attribute = rng.choice(node.attribute)
    match rng.randrange(4):
        case 0:
            attribute.type = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 11, 14))
        case 1:
            del attribute.ints[:]
            attribute.ints.extend([rng.choice(_SIZES)] * rng.choice((1, 2, 4)))
        case 2:
            attribute.i = rng.choice(_SIZES)
        case _:
            attribute.name = rng.choice(("", "pads", "axis", "body", "\x00"))


def _shape(model: onnx.ModelProto, rng: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    tensor = rng.choice(values).type.tensor_type
    if rng.random() < 0.3:
        tensor.elem_type = rng.choice((0, 2, 8, 10, 16, 99))
    elif tensor.shape.dim:
        rng.choice(tensor.shape.dim).dim_value = rng.choice(_SIZES)
    else:
        tensor.ClearField("shape")


def _versions(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5 or not model.opset_import:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**62, -1))
    else:
        model.opset_import[0].version = rng.choice((0, 1, 6, 7, 27, 999, -1, 2**62))


def _names(model: onnx.ModelProto, rng: random.Random) -> None:
    target = rng.choice([*model.graph.node, *model.graph.initializer])
    target.name = rng.choice(
        ("", "\x00", "a\nb", "x" * 100_000, "<script>", "\u2028", "../x", model.graph.node[0].name)
    )


def _functions(model: onnx.ModelProto, rng: random.Random) -> None:
    """Add functions of which each calls the next one twice: what is inlined doubles at every level."""
    deep = rng.choice((2, 9, 60))
    for level in range(deep):
        name, last = f"f{level}", level == deep - 1
        body = (
            [helper.make_node("Relu", ["a"], ["b"])]
            if last
            else [helper.make_node(f"f{level + 1}", [x], [y], domain="bomb") for x, y in (("a", "m"), ("m", "b"))]
        )
        sets = [helper.make_opsetid("", 21), helper.make_opsetid("bomb", 1)]
        model.functions.append(helper.make_function("bomb", name, ["a"], ["b"], body, sets))
    if rng.random() < 0.3:
        model.functions[-1].node[0].op_type, model.functions[-1].node[0].domain = "f0", "bomb"
    model.opset_import.add(domain="bomb", version=1)
    first = model.graph.node[0]
    model.graph.node.append(helper.make_node("f0", [first.output[0]], ["bombed"], domain="bomb"))


def _nested(model: onnx.ModelProto, rng: random.Random) -> None:
    """Put If into If, as deep as the protocol buffer allows."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["deep"])], "g", [], [helper.make_empty_tensor_value_info("deep")]
    )
    for _ in range(rng.choice((3, 10, 30))):
        try:
            node = helper.make_node("If", ["cond"], ["deep"], then_branch=graph, else_branch=graph)
        except DecodeError:  # that was the limit
            break
        graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("deep")])
        if graph.ByteSize() > 100_000:
            break
    model.graph.initializer.append(helper.make_tensor("cond", TensorProto.BOOL, [], [True]))
    model.graph.node.extend(graph.node)


def _huge(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let the graph compute a tensor that fits into no memory, from a few bytes."""
    size = rng.choice((2**34, 2**40, 2**62))
    model.graph.initializer.append(helper.make_tensor("huge_shape", TensorProto.INT64, [1], [size]))
    op = rng.choice(("ConstantOfShape", "Expand"))
    inputs = ["huge_shape"] if op == "ConstantOfShape" else ["huge_one", "huge_shape"]
    model.graph.initializer.append(helper.make_tensor("huge_one", TensorProto.FLOAT, [1], [1.0]))
    model.graph.node.append(helper.make_node(op, inputs, ["huge"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["huge"], ["huge_max"]))
    model.graph.output.append(helper.make_tensor_value_info("huge_max", TensorProto.FLOAT, None))


def _sparse(model: onnx.ModelProto, rng: random.Random) -> None:
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [rng.choice((0, -1, 2**62))])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [rng.choice((4, 2**40))]))


_EDITS: tuple[Edit, ...] = (
    _dims,
    _dims,
    _type,
    _short,
    _outside,
    _moved,
    _moved,
    _node,
    _node,
    _node,
    _attribute,
    _attribute,
    _shape,
    _versions,
    _names,
    _functions,
    _nested,
    _huge,
    _sparse,
)

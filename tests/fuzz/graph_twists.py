"""Makers of what networks do rarely and tools forget: tied weights, repeated nodes, islands of other types."""

import numpy as np
import onnx
from graph_draft import DOUBLE, FLOAT, HALF, Draft, Tensor


def tied_product(d: Draft) -> None:
    """One weight as it is for one reader and turned by a Transpose for another."""
    source = d.pick(lambda t: t.rank in (2, 3), (d.batch, 4), (d.batch, 3, 6))
    inner = source.shape[-1]
    weight = d.normal(inner, d.one_of(inner, 3), scale=inner**-0.5)
    first = d.node("MatMul", [source, weight], source.size * 3)
    turned = d.node("Transpose", [weight], perm=[1, 0])
    d.node("MatMul", [first, turned], first.size * 3)


def tied_linear(d: Draft) -> None:
    """One weight, and perhaps one bias, for two layers."""
    source = d.pick(lambda t: t.rank == 2, (d.batch, 4))
    inner = source.shape[-1]
    weight, bias = d.normal(inner, inner, scale=inner**-0.5), d.normal(inner, stem="b")
    first = d.node("Gemm", [source, weight, bias], source.size * 3 + 3, transB=d.one_of(0, 1))
    middle = d.node("Relu", [first])
    other = bias if d.maybe() else d.normal(inner, stem="b")
    d.node("Gemm", [middle, weight, other], first.size * 3 + 3, transB=d.one_of(0, 1))


def tied_embedding(d: Draft) -> None:
    """A table that is looked up, and is the weight of a layer, too."""
    table = d.normal(5, 4, scale=0.5)
    looked = d.node("Gather", [table, d.ints(*(0, 3, 1)[: d.batch])], axis=0)
    if d.maybe():
        source = d.pick(lambda t: t.rank == 2 and t.shape[-1] == 4, (d.batch, 4))
        d.node("Gemm", [source, table], source.size * 3, transB=1)
        d.node("Add", [source, d.node("ReduceMean", [looked], keepdims=1)], source.size + 1)


def residual(d: Draft) -> None:
    """A layer around which its input is added again."""
    source = d.tamed(d.pick(lambda t: t.rank == 4, (d.batch, 3, 5, 5)))
    channels = source.shape[1]
    weight = d.normal(channels, channels, 3, 3, scale=(9 * channels) ** -0.5)
    inner = d.node("Conv", [source, weight, d.normal(channels, stem="b")], source.size * 3, pads=[1, 1, 1, 1])
    if d.maybe():
        inner = d.node("Relu", [inner])
    total = d.node("Add", [inner, source] if d.maybe() else [source, inner], inner.size + source.size)
    if d.maybe():
        d.node("Relu", [total])


def repeated(d: Draft) -> None:
    """The last node once more, under another name."""
    if not d.nodes:
        return
    known = {t.name: t for t in (*d.values, *d.sides)}
    node = onnx.NodeProto()
    node.CopyFrom(d.nodes[-1])
    for i, name in enumerate(node.output):
        made = Tensor(d.namer(), known[name].shape, known[name].size, known[name].kind)
        node.output[i] = made.name
        (d.values if made.kind == FLOAT else d.sides).append(made)
    d.nodes.append(node)


def island(d: Draft) -> None:
    """A few nodes in float16 or double between Casts."""
    source = d.tamed(d.pick())
    kind = d.one_of(HALF, DOUBLE)
    inside = d.node("Cast", [source], to=kind)
    if d.maybe():
        number = np.float16(0.5) if kind == HALF else np.float64(0.5)
        inside = d.node("Mul", [inside, d.constant(number)], source.size)
    inside = d.node(d.one_of("Relu", "Sigmoid", "Neg"), [inside], source.size)
    d.node("Cast", [inside], source.size, to=FLOAT)


def branch(d: Draft) -> None:
    """A Relu or a Tanh of an outer tensor, chosen inside an If by the sign of an input's maximum."""
    source, judged = d.pick(), d.pick(lambda t: t.is_fed)
    top = d.node("ReduceMax", [judged], keepdims=0)
    condition = d.node("Greater", [top, d.constant(np.float32(0))])
    bodies = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Tanh")):
        out = d.namer("inner")
        value = onnx.helper.make_tensor_value_info(out, FLOAT, source.shape)
        node = onnx.helper.make_node(op, [source.name], [out])
        bodies[name] = onnx.helper.make_graph([node], name, [], [value])
    d.node("If", [condition], source.size, like=source, **bodies)

"""Makers of operators that move values without computing new ones, and of those that join them."""

import math

import numpy as np
from graph_draft import INT64, Draft, Tensor
from graph_layers import images


def reshape(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0)
    if d.rarely():
        _reshape_by_shape(d, source)
        return
    total, first = math.prod(source.shape), source.shape[0]
    rest = total // first
    shapes = [(first, -1), (-1, source.shape[-1]), (0, -1), (-1,), (first, 1, rest), (1, *source.shape)]
    shapes += [(first, 2, -1)] if rest % 2 == 0 else []
    d.node("Reshape", [source, d.ints(*d.one_of(*shapes))])


def _reshape_by_shape(d: Draft, source: Tensor) -> None:
    """The new shape is computed from that of the tensor, as exporters write it."""
    if source.rank < 2:
        return
    shape = d.node("Shape", [source])
    first = d.node("Gather", [shape, d.ints(0)], axis=0)
    rest = d.ints(math.prod(source.shape[1:]))
    target = d.node("Concat", [first, rest], axis=0)
    d.node("Reshape", [source, target], like=Tensor("", (source.shape[0], math.prod(source.shape[1:]))))


def transpose(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 1)
    if d.rarely():
        d.node("Transpose", [source])
    else:
        d.node("Transpose", [source], perm=d.one_of([0, *range(source.rank - 1, 0, -1)], [*range(1, source.rank), 0]))


def squeeze(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0)
    ones = [i for i, n in enumerate(source.shape) if n == 1]
    op = d.one_of("Squeeze", "Unsqueeze", "Flatten")
    if op == "Flatten":
        d.node(op, [source], axis=d.one_of(*range(source.rank + 1)))
    elif op == "Squeeze" and ones:
        d.node(op, [source, d.ints(d.one_of(*ones))])
    elif source.rank < 5:
        d.node("Unsqueeze", [source, d.ints(d.one_of(0, -1, 1))])


def part(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0)
    op = d.one_of("Slice", "Gather", "GatherElements", "GatherND")
    axis = d.one_of(*range(source.rank))
    length = source.shape[axis]
    if op == "Slice":
        start, step = d.one_of((0, 1), (0, 2), (-1, -1))
        end = length if step > 0 else -length - 1
        optional = [d.ints(axis), d.ints(step)]
        d.node(op, [source, d.ints(start), d.ints(end), *optional])
    elif op == "Gather":
        index = d.one_of(np.int64(0), np.int64([length - 1]), np.int64([[0, -1]]))
        d.node(op, [source, d.constant(index, "i")], axis=axis)
    elif op == "GatherND":
        d.node(op, [source, d.constant(np.int64([[0], [source.shape[0] - 1]]), "i")])
    else:
        index = d.constant(np.zeros(source.shape, np.int64), "i")
        d.node(op, [source, index], axis=axis)


def split(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0 and max(t.shape) > 1)
    axis = d.one_of(*(i for i, n in enumerate(source.shape) if n > 1))
    length = source.shape[axis]
    if d.opset >= 18 and d.maybe():
        parts = d.several("Split", [source], 2, num_outputs=2, axis=axis)
    else:
        parts = d.several("Split", [source, d.ints(1, length - 1)], 2, axis=axis)
    if d.maybe():
        d.node("Relu", [parts[0]])
        d.node("Sigmoid", [parts[0]], 1.0)


def concat(d: Draft) -> None:
    first = d.pick(lambda t: t.rank > 0)
    axis = d.one_of(*range(first.rank))

    def fits(t: Tensor) -> bool:
        return t.rank == first.rank and all(a == b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True))
                                            if i != axis)  # fmt: skip

    parts = [first, d.pick(fits)]
    if d.rarely():
        parts.append(d.one_of(first, d.normal(*first.shape)))
    if sum(math.prod(t.shape) for t in parts) <= 4096:
        d.node("Concat", parts, axis=axis)


def spread(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0 and math.prod(t.shape) <= 512)
    op = d.one_of("Expand", "Tile", "Pad", "CumSum")
    if op == "Expand":
        d.node(op, [source, d.ints(*d.one_of((2, *source.shape), (1,) * source.rank))])
    elif op == "Tile":
        d.node(op, [source, d.ints(*(1,) * (source.rank - 1), 2)])
    elif op == "CumSum":
        source = d.tamed(source)
        d.node(op, [source, d.constant(np.int64(0), "i")], source.size * source.shape[0])
    else:
        mode = d.one_of("constant", "constant", "edge")
        pads = (*(0,) * (source.rank - 1), 1) * 2
        value = [d.constant(np.float32(d.one_of(0.0, 1.0)))] if mode == "constant" and d.maybe() else []
        d.node(op, [source, d.ints(*pads), *value], mode=mode)


def resample(d: Draft) -> None:
    source = images(d)
    op = d.one_of("Resize", "DepthToSpace", "SpaceToDepth", "GridSample")
    channels, height, width = source.shape[1:]
    if op == "Resize" and height * width <= 144:
        scales = d.constant(np.float32([1, 1, 2, 2]))
        d.node(op, [source, None, scales], mode=d.one_of("nearest", "linear"))
    elif op == "DepthToSpace" and channels % 4 == 0:
        d.node(op, [source], blocksize=2, mode=d.one_of("DCR", "CRD"))
    elif op == "SpaceToDepth" and height % 2 == width % 2 == 0:
        d.node(op, [source], blocksize=2)
    elif op == "GridSample" and d.opset >= 16:
        grid = d.constant(d.rng.uniform(-0.9, 0.9, (source.shape[0], 2, 3, 2)).astype(np.float32))
        d.node(op, [source, grid])


def empty(d: Draft) -> None:
    """A part without elements, computed with and joined again."""
    source = d.pick(lambda t: t.rank > 0)
    axis = source.rank - 1
    none = d.node("Slice", [source, d.ints(0), d.ints(0), d.ints(axis)])
    changed = d.node(d.one_of("Relu", "Neg", "Identity"), [none])
    d.node("Concat", [source, changed] if d.maybe() else [changed, source], axis=axis)


def indices(d: Draft) -> None:
    """Integers beside the floats; what compares floats reads an input, so that no rounding can tip it."""
    op = d.one_of("Shape", "ArgMax", "TopK", "ConstantOfShape", "Size")
    source = d.pick(lambda t: t.is_fed and t.rank > 0)
    if op in ("Shape", "Size"):
        d.node(op, [source])
    elif op == "ArgMax":
        found = d.node(op, [source], axis=-1, keepdims=0)
        assert found.kind == INT64
    elif op == "TopK":
        d.several(op, [source, d.ints(1)], 2, source.size, axis=-1)
    else:
        shape = d.node("Shape", [source])
        ones = d.node(op, [shape], 1.0, like=source)
        d.node("Add", [source, ones], source.size + 1)

"""Makers of operators that stay in float, and of forms that networks seldom have, each as a row of one table.

What jumps (a sign, a comparison, an index) reads an input or a constant, so that no rounding before it can tip it over.
"""

from collections.abc import Callable

import numpy as np
import onnx
from graph_draft import DOUBLE, FLOAT, HALF, INT64, Draft, Tensor
from graph_layers import images
from onnx import helper

SMOOTH = {"Asin": 2.0, "Acos": 4.0, "Atanh": 2.0, "Tan": 2.0, "Asinh": 1.0, "Atan": 1.0, "Sinh": 2.0, "Cosh": 2.0}
"""Operator -> about how large its results are for arguments between -0.9 and 0.9."""
CUBES = ((2, 3, 4), (1, 3, 6))


def rare(d: Draft) -> None:
    """One row of the table."""
    name = d.one_of(*(name for name, (since, _) in RARE.items() if since <= d.opset))
    RARE[name][1](d)


def _smooth(d: Draft) -> None:
    inside = d.node("Mul", [d.node("Tanh", [d.pick()], 1.0), d.constant(np.float32(0.9))], 0.9)
    op = d.one_of(*SMOOTH)
    d.node(op, [inside], SMOOTH[op])


def _jump(d: Draft) -> None:
    source = d.pick(lambda t: t.is_fed and t.rank > 0)
    op = d.one_of("Sign", "Hardmax", "Mod", "Cast")
    if op == "Mod":
        d.node(op, [source, d.constant(np.float32(0.7))], 0.7, fmod=1)
    elif op == "Cast":
        whole = d.node(op, [source], to=INT64)
        d.node(op, [whole], to=FLOAT)
    else:
        d.node(op, [source], 1.0)


def _shrink(d: Draft) -> None:
    d.node("Shrink", [d.pick()], lambd=0.3, bias=0.3)


def _logic(d: Draft) -> None:
    source = d.pick(lambda t: t.is_fed)
    above = d.node(d.one_of("Greater", "Less", "Equal"), [source, d.constant(np.float32(0.1))])
    unknown = d.node("IsNaN", [d.pick(lambda t: t.shape == source.shape)])
    both = d.node(d.one_of("And", "Or", "Xor"), [above, d.node("Not", [unknown])])
    if d.maybe():
        d.node("Cast", [both], 1.0, to=FLOAT)
    else:
        d.node("Where", [both, source, d.constant(np.float32(-1.0))])


def _cast_like(d: Draft) -> None:
    d.node("CastLike", [d.node("Shape", [d.pick(lambda t: t.rank > 0)]), d.pick()], 8.0)


def _trilu(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 1, (d.batch, 3, 3))
    d.node(
        "Trilu", [source, *([d.constant(np.int64(d.one_of(-1, 0, 1)), "i")] if d.maybe() else [])], upper=d.one_of(0, 1)
    )


def _reduction(d: Draft) -> None:
    op = d.one_of("ReduceProd", "ReduceLogSum")
    source = d.pick(lambda t: t.rank > 0 and t.shape[-1] <= 6, (d.batch, 3, 4))
    source = d.node("Tanh", [source], 1.0) if op == "ReduceProd" else d.positive(d.tamed(source))
    size = 1.0 if op == "ReduceProd" else 10.0
    keep = {"keepdims": int(d.maybe())}
    if d.opset >= 18:
        d.node(op, [source, d.ints(-1)], size, **keep)
    else:
        d.node(op, [source], size, axes=[-1], **keep)


def _cumulative(d: Draft) -> None:
    source = d.tamed(d.pick(lambda t: t.rank > 0))
    axis = d.one_of(*range(-source.rank, source.rank))
    more = {"exclusive": d.one_of(0, 1), "reverse": d.one_of(0, 1)}
    d.node("CumSum", [source, d.constant(np.int64(axis), "i")], source.size * source.shape[axis], **more)


def _gather(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 2, (d.batch, 3, 6))
    index = np.zeros((source.shape[0], 2, 1), np.int64)
    index[:, 1] = source.shape[1] - 1
    d.node("GatherND", [source, d.constant(index, "i")], batch_dims=1)


def _scatter(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0)
    how = {"reduction": d.one_of("none", "add", "mul", "max", "min")} if d.opset >= 18 else {}
    if d.maybe():
        index, rest = d.constant(np.int64([[0]]), "i"), (1, *source.shape[1:])
        d.node("ScatterND", [source, index, _update(d, rest)], source.size * 3, **how)
    else:
        axis = d.one_of(*range(source.rank))
        shape = tuple(1 if i == axis else n for i, n in enumerate(source.shape))
        index = d.constant(np.full(shape, source.shape[axis] - 1, np.int64), "i")
        d.node("ScatterElements", [source, index, _update(d, shape)], source.size * 3, axis=axis, **how)


def _update(d: Draft, shape: tuple[int, ...]) -> Tensor:
    fitting = [t for t in d.values if t.shape == shape and t.size <= 3]
    return d.one_of(*fitting) if fitting and d.maybe() else d.normal(*shape, stem="u")


def _compress(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0 and t.shape[0] > 1)
    chosen = np.arange(source.shape[0]) % 2 == 0
    like = Tensor("", (int(chosen.sum()), *source.shape[1:]))
    d.node("Compress", [source, d.constant(chosen)], axis=0, like=like)


def _one_hot(d: Draft) -> None:
    judged = d.pick(lambda t: t.is_fed and t.rank > 0)
    index = d.node(d.one_of("ArgMax", "ArgMin"), [judged], axis=d.one_of(0, -1), keepdims=d.one_of(0, 1))
    off_on = d.constant(np.float32([d.one_of(0.0, -1.0), 1.0]))
    axis = d.one_of(-1, 0)
    like = Tensor("", (*index.shape, 6) if axis else (6, *index.shape))
    d.node("OneHot", [index, d.constant(np.int64(6), "i"), off_on], 1.0, axis=axis, like=like)


def _non_zero(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0)
    full = d.node(
        "ConstantOfShape",
        [d.node("Shape", [source])],
        1.0,
        like=source,
        value=helper.make_tensor("v", FLOAT, [1], [2.0]),
    )
    count = int(np.prod(source.shape))
    where = d.node("NonZero", [full], like=Tensor("", (source.rank, count), kind=INT64))
    turned = d.node("Transpose", [where], perm=[1, 0])
    d.node("GatherND", [source, turned])


def _top(d: Draft) -> None:
    source = d.pick(lambda t: t.is_fed and t.rank > 0)
    axis = d.one_of(*range(-source.rank, source.rank))
    count = d.ints(d.one_of(1, source.shape[axis]))
    best, _ = d.several("TopK", [source, count], 2, source.size, axis=axis, largest=d.one_of(0, 1), sorted=1)
    if d.maybe():
        d.node("Relu", [best])


def _einsum(d: Draft) -> None:
    source = d.tamed(d.pick(lambda t: t.rank == 3, *CUBES))
    form = d.one_of("product", "turned", "sum", "weight")
    if form == "product":
        d.node("Einsum", [source, source], source.size**2 * source.shape[-1], equation="bij,bkj->bik")
    elif form == "weight":
        weight = d.normal(source.shape[-1], 3, scale=source.shape[-1] ** -0.5)
        d.node("Einsum", [source, weight], source.size * 3, equation="bij,jk->bik")
    else:
        d.node("Einsum", [source], source.size * 9, equation="bij->bji" if form == "turned" else "bij->bi")


def _pad(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 1 and t.shape[-1] > 2, (d.batch, 3, 5))
    mode = d.one_of("constant", "reflect", "edge", *(("wrap",) if d.opset >= 19 else ()))
    pads = d.one_of((1, 2), (2, 0), (0, 1), (-1, 1)) if mode != "wrap" else (1, 1)
    if d.opset >= 18 and d.maybe():
        inputs = [source, d.ints(*pads), None, d.ints(source.rank - 1)]
        last = source.shape[-1] + sum(pads)
        d.node("Pad", inputs, mode=mode, like=Tensor("", (*source.shape[:-1], last)))
    else:
        none = (0,) * (source.rank - 1)
        d.node("Pad", [source, d.ints(*none, pads[0], *none, pads[1])], mode=mode)


def _resize(d: Draft) -> None:
    source = images(d)
    mode = d.one_of("nearest", "linear", "cubic")
    how = {
        "coordinate_transformation_mode": d.one_of("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    }
    if mode == "nearest":
        how["nearest_mode"] = d.one_of("floor", "ceil", "round_prefer_floor")
    elif d.opset >= 18 and d.rarely():
        how["antialias"] = 1
    if mode == "cubic":
        how |= {"cubic_coeff_a": d.one_of(-0.5, -0.75), "exclude_outside": d.one_of(0, 1)}
    sizes = d.ints(*source.shape[:2], d.one_of(3, 7), d.one_of(4, 5))
    d.node("Resize", [source, None, None, sizes], source.size * 1.5, mode=mode, **how)


def _pool(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 4 and min(t.shape[2:]) > 3, (d.batch, 3, 6, 6))
    form = d.one_of("ceil", "same", "dilated")
    how = {
        "ceil": {"strides": [2, 2], "ceil_mode": 1},
        "same": {"auto_pad": "SAME_UPPER"},
        "dilated": {"dilations": [2, 2]},
    }
    op = "MaxPool" if d.opset < 19 else d.one_of("MaxPool", "AveragePool")
    d.node(op, [source], kernel_shape=[2, 2], **how[form])


def _unpool(d: Draft) -> None:
    source = d.pick(lambda t: t.is_fed and t.rank == 4 and t.shape[2:] == (6, 6), (d.batch, 3, 6, 6))
    best, where = d.several("MaxPool", [source], 2, kernel_shape=[2, 2], strides=[2, 2])
    d.node("MaxUnpool", [best, where], kernel_shape=[2, 2], strides=[2, 2])


def _regions(d: Draft) -> None:
    if d.opset >= 22:  # which onnxruntime 1.32 lacks
        return
    source = images(d)
    boxes = d.constant(np.float32([[0, 0, 2, 2], [1, 1, 3, 3]]))
    batch = d.ints(0, source.shape[0] - 1)
    d.node("RoiAlign", [source, boxes, batch], output_height=2, output_width=2, sampling_ratio=2)


def _sample(d: Draft) -> None:
    source = images(d)
    known = ("bilinear", "nearest", "bicubic") if d.opset < 20 else ("linear", "nearest", "cubic")
    grid = d.constant(d.rng.uniform(-1.2, 1.2, (source.shape[0], 2, 3, 2)).astype(np.float32))
    how = {
        "mode": d.one_of(*known),
        "padding_mode": d.one_of("zeros", "border", "reflection"),
        "align_corners": d.one_of(0, 1),
    }
    d.node("GridSample", [source, grid], source.size * 2, **how)


def _recurrent(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 3, *CUBES)
    op = d.one_of("LSTM", "GRU", "RNN")
    gates, hidden, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2, d.one_of(1, 2)
    weights = [d.normal(ways, gates * hidden, n, scale=0.5) for n in (source.shape[-1], hidden)]
    biases = [d.normal(ways, 2 * gates * hidden, stem="b")] if d.maybe() else []
    how = {"hidden_size": hidden, "direction": "forward" if ways == 1 else "bidirectional"}
    d.several(op, [source, *weights, *biases], 3 if op == "LSTM" else 2, 1.0, **how)


def _loop(d: Draft) -> None:
    """Tanh of what is carried plus an outer tensor, twice."""
    source = d.pick(lambda t: t.rank > 0)
    names = [d.namer("loop") for _ in range(6)]
    count, going, carried, total, gone, made = names
    value, flag = helper.make_tensor_value_info, onnx.TensorProto.BOOL
    nodes = [
        helper.make_node("Add", [carried, source.name], [total]), helper.make_node("Tanh", [total], [made]),
        helper.make_node("Identity", [going], [gone]),
    ]  # fmt: skip
    body = helper.make_graph(
        nodes, "loop_body", [value(count, INT64, []), value(going, flag, []), value(carried, FLOAT, source.shape)],
        [value(gone, flag, []), value(made, FLOAT, source.shape)],
    )  # fmt: skip
    d.node("Loop", [d.constant(np.int64(2), "i"), None, source], 1.0, body=body, like=source)


def _scan(d: Draft) -> None:
    """Running sums along the first axis."""
    source = d.tamed(d.pick(lambda t: t.rank > 1))
    row = source.shape[1:]
    state, part, total, kept = (d.namer("scan") for _ in range(4))
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", [state, part], [total]), helper.make_node("Identity", [total], [kept])]
    body = helper.make_graph(
        nodes, "scan_body", [value(state, FLOAT, row), value(part, FLOAT, row)],
        [value(total, FLOAT, row), value(kept, FLOAT, row)],
    )  # fmt: skip
    begin = d.constant(np.zeros(row, np.float32))
    d.several("Scan", [begin, source], 2, source.size * source.shape[0], body=body, num_scan_inputs=1)


def _sequence(d: Draft) -> None:
    """Cut into a sequence and joined again, as torch's chunk and cat are written."""
    source = d.pick(lambda t: t.rank > 1)
    parts = d.namer("sequence")
    d.nodes.append(helper.make_node("SplitToSequence", [source.name], [parts], axis=0, keepdims=1))
    d.node("ConcatFromSequence", [Tensor(parts, ())], source.size, axis=0, like=source)


def _attention(d: Draft) -> None:
    source = d.tamed(d.pick(lambda t: t.rank == 4, (d.batch, 2, 3, 4)), 4.0)
    masked = {"is_causal": 1} if d.maybe() else {}
    d.node("Attention", [source, source, source], source.size, **masked, like=source)


def _layer_norm(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 1, (d.batch, 3, 6))
    d.several("LayerNormalization", [source, d.normal(source.shape[-1])], 3, 6.0, axis=-1)


def _mean_variance(d: Draft) -> None:
    """Of a channel that varies: onnxruntime divides by its deviation, and of what is constant even floats are noise."""
    source = d.pick(lambda t: t.rank == 4 and t.shape[0] * t.shape[2] * t.shape[3] > 3, (d.batch, 3, 6, 6))
    noise = d.normal(*source.shape, scale=max(source.size, 1.0))
    varied = d.node("Add", [source, noise], source.size + noise.size)
    form = d.one_of("plain", "conv", "turned")
    if form == "conv":
        channels = source.shape[1]
        varied = d.node("Conv", [varied, d.normal(2, channels, 1, 1, scale=channels**-0.5)], varied.size * 3)
    elif form == "turned":
        varied = d.node("Transpose", [varied], perm=[0, 1, 3, 2])
    d.node("MeanVarianceNormalization", [varied], 4.0, axes=[0, 2, 3], like=varied)


def _reverse(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 1)
    lengths = d.ints(*(1 + i % source.shape[1] for i in range(source.shape[0])))
    d.node("ReverseSequence", [source, lengths], batch_axis=0, time_axis=1)


def _crop(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 1)
    d.node("CenterCropPad", [source, d.ints(5)], axes=[source.rank - 1], like=Tensor("", (*source.shape[:-1], 5)))


def _columns(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 3 and t.shape[1:] == (4, 9), (d.batch, 4, 9))
    d.node("Col2Im", [source, d.ints(4, 4), d.ints(2, 2)], source.size * 4, like=Tensor("", (source.shape[0], 1, 4, 4)))


def _fourier(d: Draft) -> None:
    source = d.tamed(d.pick(lambda t: t.rank == 3 and t.shape[-1] == 1, (d.batch, 6, 1)))
    size = source.size * source.shape[1]
    if d.opset >= 20:
        d.node("DFT", [source, None, d.constant(np.int64(1), "i")], size, like=Tensor("", (*source.shape[:-1], 2)))
    else:
        d.node("DFT", [source], size, axis=1, like=Tensor("", (*source.shape[:-1], 2)))


def _loss(d: Draft) -> None:
    source = d.tamed(d.pick(lambda t: t.rank == 2, (d.batch, 4)))
    labels = d.ints(*(i % source.shape[1] for i in range(source.shape[0])))
    d.node("SoftmaxCrossEntropyLoss", [source, labels], source.size * 2 + 5, reduction=d.one_of("mean", "none"))


def _deformed(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 4 and min(t.shape[2:]) > 1, (d.batch, 3, 6, 6))
    channels, height, width = source.shape[1:]
    weight = d.normal(2, channels, 2, 2, scale=(4 * channels) ** -0.5)
    offset = d.normal(source.shape[0], 8, height - 1, width - 1, scale=0.3)
    d.node("DeformConv", [source, weight, offset], source.size * 3, kernel_shape=[2, 2])


def _rotary(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 4 and t.shape[-1] % 2 == 0, (d.batch, 2, 3, 4))
    angles = d.rng.uniform(0, 3, (source.shape[0], source.shape[2], source.shape[3] // 2)).astype(np.float32)
    d.node(
        "RotaryEmbedding",
        [source, d.constant(np.cos(angles)), d.constant(np.sin(angles))],
        source.size * 2,
        like=source,
    )


def _range(d: Draft) -> None:
    steps = d.node("Range", [d.constant(np.float32(n)) for n in (0.0, 4.0, 1.0)], 4.0, like=Tensor("", (4,)))
    source = d.pick(lambda t: t.shape[-1:] == (4,), (d.batch, 4))
    d.node("Add", [source, steps], source.size + 4)


def _eye(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 2, (d.batch, 4))
    one = d.node("EyeLike", [source], 1.0, dtype=FLOAT)
    d.node("Add", [source, one], source.size + 1)


def _ends(d: Draft) -> None:
    """An input, or an output, in float16 or double."""
    kind = d.one_of(HALF, DOUBLE)
    if d.maybe():
        d.node("Cast", [d.tamed(d.pick())], to=kind)
    else:
        d.node("Cast", [d.new_input(d.batch, 4, kind=kind)], 4.0, to=FLOAT)


RARE: dict[str, tuple[int, Callable[[Draft], None]]] = {
    "smooth": (13, _smooth), "jump": (13, _jump), "shrink": (13, _shrink), "logic": (13, _logic),
    "cast like": (15, _cast_like), "trilu": (14, _trilu), "reduction": (13, _reduction),
    "cumulative": (13, _cumulative), "gather": (13, _gather), "scatter": (13, _scatter), "compress": (13, _compress),
    "one hot": (13, _one_hot), "non zero": (13, _non_zero), "top": (13, _top), "einsum": (13, _einsum),
    "pad": (13, _pad), "resize": (13, _resize), "pool": (13, _pool), "unpool": (13, _unpool),
    "regions": (16, _regions), "sample": (16, _sample), "recurrent": (14, _recurrent), "loop": (13, _loop),
    "scan": (13, _scan), "sequence": (13, _sequence), "attention": (23, _attention), "layer norm": (17, _layer_norm),
    "mean variance": (13, _mean_variance), "reverse": (13, _reverse), "crop": (18, _crop), "columns": (18, _columns),
    "fourier": (17, _fourier), "loss": (13, _loss), "deformed": (19, _deformed), "rotary": (23, _rotary),
    "range": (13, _range), "eye": (13, _eye), "ends": (13, _ends),
}  # fmt: skip
"""What is drawn -> the first opset that has it, and its maker."""

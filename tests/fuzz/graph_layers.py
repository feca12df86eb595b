"""Makers of layers: convolutions, products, normalizations, pools and reductions."""

import math

import numpy as np
from graph_draft import Draft, Tensor


def images(d: Draft) -> Tensor:
    return d.pick(lambda t: t.rank == 4, (d.batch, 3, 6, 6), (d.batch, 4, 5, 5), (d.batch, 1, 4, 6))


def _bias(d: Draft, channels: int) -> list[Tensor]:
    if d.rarely():
        return []
    kept = [name for name, array in d.constants.items() if array.shape == (channels,) and array.dtype == np.float32]
    if kept and d.rarely():
        name = d.one_of(*kept)
        return [Tensor(name, (channels,))]
    return [d.normal(channels, stem="b")]


def _windows(d: Draft, source: Tensor, kernel: tuple[int, ...]) -> dict:
    """Return attributes of windows that fit into the image."""
    rank = len(kernel)
    form = d.one_of("plain", "same", "strides", "dilations", "upper", "lower", "valid")
    made: dict = {}
    if form == "same":
        made["pads"] = [k // 2 for k in kernel] * 2
    elif form == "strides":
        made["strides"] = [2] * rank
        made["pads"] = [k // 2 for k in kernel] * 2
    elif form == "dilations" and all((k - 1) * 2 < n for k, n in zip(kernel, source.shape[2:], strict=True)):
        made["dilations"] = [2] * rank
    elif form in ("upper", "lower", "valid"):
        made["auto_pad"] = {"upper": "SAME_UPPER", "lower": "SAME_LOWER", "valid": "VALID"}[form]
    return made


def _kernel(d: Draft, source: Tensor) -> tuple[int, ...]:
    return tuple(min(d.one_of(1, 2, 3), n) for n in source.shape[2:])


def conv(d: Draft) -> None:
    is_line = d.rarely()
    source = d.pick(lambda t: t.rank == 3, (d.batch, 3, 8)) if is_line else images(d)
    _conv(d, source, _kernel(d, source))


def mixing_conv(d: Draft) -> None:
    """A Conv whose kernel has one position."""
    source = d.pick(lambda t: t.rank == 4 and t.shape[1] > 3, (d.batch, 6, 4, 4), (d.batch, 8, 3, 3))
    _conv(d, source, (1, 1))


def _conv(d: Draft, source: Tensor, kernel: tuple[int, ...]) -> None:
    channels = source.shape[1]
    groups = d.one_of(1, 1, channels, *(g for g in (2, 3) if channels % g == 0))
    outputs = groups * d.one_of(1, 2, 3)
    shape = (outputs, channels // groups, *kernel)
    fan = math.prod(shape[1:])
    kept = [n for n, a in d.constants.items() if a.shape == shape and a.dtype == np.float32]
    weight = Tensor(d.one_of(*kept), shape) if kept and d.maybe() else d.normal(*shape, scale=fan**-0.5)
    if d.rarely():  # computed: an activation like any other
        weight = d.node("Mul", [weight, d.constant(np.float32(0.5))]) if d.maybe() else _computed(d, shape)
    inputs = [source, weight, *_bias(d, outputs)]
    attributes = _windows(d, source, kernel)
    if groups > 1:
        attributes["group"] = groups
    follow(d, d.node("Conv", inputs, source.size * 3 + 3, **attributes))


def _computed(d: Draft, shape: tuple[int, ...]) -> Tensor:
    fed = d.new_input(*shape)
    return d.node("Tanh", [fed], 1.0)


def follow(d: Draft, tensor: Tensor) -> None:
    """Put an activation behind a layer, as networks do."""
    op = d.one_of("", "Relu", "Clip", "Sigmoid", "BatchNormalization", "HardSwish", "PRelu", "LeakyRelu")
    if op == "Clip":
        d.node(op, [tensor, d.constant(np.float32(0)), d.constant(np.float32(6))], 6.0)
    elif op == "BatchNormalization" and tensor.rank > 1:
        batch_norm(d, tensor)
    elif op == "PRelu":
        d.node(op, [tensor, d.normal(1, scale=0.3)])
    elif op in ("Relu", "Sigmoid", "LeakyRelu") or (op == "HardSwish" and d.opset >= 14):
        d.node(op, [tensor], 1.0 if op == "Sigmoid" else None)


def conv_transpose(d: Draft) -> None:
    source = images(d)
    channels = source.shape[1]
    groups = d.one_of(1, 1, channels)
    weight = d.normal(channels, d.one_of(1, 2), *d.one_of((1, 1), (2, 2), (3, 3)), scale=channels**-0.5)
    outputs = weight.shape[1] * groups
    attributes = {"group": groups} if groups > 1 else {}
    if d.maybe():
        attributes["strides"] = [2, 2]
    follow(d, d.node("ConvTranspose", [source, weight, *_bias(d, outputs)], source.size * 6 + 3, **attributes))


def gemm(d: Draft) -> None:
    source = d.pick(lambda t: t.rank == 2, (d.batch, 4), (d.batch, 6))
    is_turned, is_stored_turned = d.rarely(), d.maybe()
    rows, inner = source.shape[::-1] if is_turned else source.shape
    columns = d.one_of(1, 3, 5)
    weight = d.normal(*((columns, inner) if is_stored_turned else (inner, columns)), scale=inner**-0.5)
    attributes = {"transA": int(is_turned), "transB": int(is_stored_turned)}
    if d.rarely():
        attributes |= {"alpha": 0.5, "beta": 2.0}
    shapes = {"none": None, "vector": (columns,), "row": (1, columns), "one": (1,), "scalar": (), "column": (rows, 1),
              "full": (rows, columns)}  # fmt: skip
    form = d.one_of("vector", "vector", "vector", *shapes)
    bias = [] if shapes[form] is None else [d.normal(*shapes[form], stem="b")]
    follow(d, d.node("Gemm", [source, weight, *bias], source.size * 3 + 3, **attributes))


def matmul(d: Draft) -> None:
    source = d.pick(lambda t: t.rank > 0, (d.batch, 3, 6), (d.batch, 4), (d.batch, 2, 3, 4))
    inner = source.shape[-1]
    form = d.one_of("right", "right", "left", "vector", "stacked", "activations", "activations")
    if form == "activations":
        _product(d, source)
    elif form == "left" and source.rank > 1:
        weight = d.normal(d.one_of(1, 3), source.shape[-2], scale=source.shape[-2] ** -0.5)
        d.node("MatMul", [weight, source], source.size * 3)
    else:
        is_stacked = form == "stacked" and source.rank > 2
        stacked = (*source.shape[:-2], inner, 3) if is_stacked else (inner, d.one_of(1, 4, 6))
        weight = d.normal(*((inner,) if form == "vector" else stacked), scale=inner**-0.5)
        found = d.node("MatMul", [source, weight], source.size * 3)
        if d.maybe() and found.rank:
            d.node("Add", [found, d.normal(found.shape[-1], stem="b")], found.size + 3)


def _product(d: Draft, source: Tensor) -> None:
    """Two activations, as in attention: x times its own transposition, softmax, times x."""
    if source.rank < 2:
        return
    source = d.tamed(source)
    turned = d.node("Transpose", [source], perm=[*range(source.rank - 2), source.rank - 1, source.rank - 2])
    scores = d.node("MatMul", [source, turned], source.size**2 * source.shape[-1])
    scaled = d.node("Mul", [scores, d.constant(np.float32(0.3 / max(source.size, 1)))], source.size * source.shape[-1])
    if d.maybe():
        probabilities = d.node("Softmax", [scaled], 1.0, axis=-1)
        d.node("MatMul", [probabilities, source], source.size)


def batch_norm(d: Draft, source: Tensor) -> None:
    channels = source.shape[1]
    spread = d.constant((0.5 + d.rng.random(channels)).astype(np.float32))
    inputs = [source, d.normal(channels), d.normal(channels), d.normal(channels), spread]
    d.node("BatchNormalization", inputs, source.size * 3 + 3)


def normalization(d: Draft) -> None:
    known = {"LayerNormalization": 17, "InstanceNormalization": 13, "GroupNormalization": 21, "RMSNormalization": 23,
             "BatchNormalization": 13, "LpNormalization": 13, "LRN": 13, "Softmax": 13, "LogSoftmax": 13}  # fmt: skip
    op = d.one_of(*(name for name, since in known.items() if since <= d.opset))
    if op in ("LayerNormalization", "RMSNormalization"):
        source = d.pick(lambda t: t.rank > 1, (d.batch, 3, 6))
        last = source.shape[-1]
        more = [d.normal(last, stem="b")] if op == "LayerNormalization" and d.maybe() else []
        d.node(op, [source, d.normal(last), *more], 6.0, axis=-1)
    elif op in ("Softmax", "LogSoftmax"):
        source = d.tamed(d.pick(lambda t: t.rank > 0))
        size = 1.0 if op == "Softmax" else 2 * source.size + 5
        d.node(op, [source], size, axis=d.one_of(*range(-source.rank, source.rank)))
    elif op == "LpNormalization":
        source = d.positive(d.pick(lambda t: t.rank > 0))
        d.node(op, [source], 1.0, axis=-1, p=d.one_of(1, 2))
    elif op == "LRN":
        d.node(op, [images(d)], size=3)
    else:
        source = images(d)
        channels = source.shape[1]
        if op == "BatchNormalization":
            batch_norm(d, source)
            return
        more = {"num_groups": d.one_of(1, channels), "like": source} if op == "GroupNormalization" else {}
        d.node(op, [source, d.normal(channels), d.normal(channels, stem="b")], 6.0, **more)


def pool(d: Draft) -> None:
    source = images(d)
    op = d.one_of("MaxPool", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    area = source.size * math.prod(source.shape[2:])
    if op.startswith("Global"):
        d.node(op, [source], area if op == "GlobalLpPool" else None)
        return
    kernel = _kernel(d, source)
    strides = d.one_of([1, 1], [2, 2])
    attributes = {"kernel_shape": list(kernel), "strides": strides}
    if op == "AveragePool" and d.maybe():
        attributes |= {"count_include_pad": 1, "pads": [k // 2 for k in kernel] * 2}
    if op == "MaxPool" and source.is_fed and d.rarely():
        d.several(op, [source], 2, source.size, **attributes)
    else:
        d.node(op, [source], area if op == "LpPool" else None, **attributes)


def reduction(d: Draft) -> None:
    op = d.one_of("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
                  "ReduceSumSquare", "ReduceLogSumExp")  # fmt: skip
    source = d.pick(lambda t: t.rank > 0)
    if op in ("ReduceSumSquare", "ReduceLogSumExp", "ReduceSum", "ReduceL1"):
        source = d.tamed(source)
    axes = sorted({d.one_of(*range(source.rank)) for _ in range(2)}) if d.maybe() else [source.rank - 1]
    count = math.prod(source.shape[a] for a in axes)
    sizes = {"ReduceMean": source.size, "ReduceMax": source.size, "ReduceMin": source.size,
             "ReduceSumSquare": source.size**2 * count}  # fmt: skip
    size, keep = sizes.get(op, source.size * count + 5), {"keepdims": int(d.maybe())}
    if d.opset >= 18 or op == "ReduceSum":
        d.node(op, [source, d.ints(*axes)], size, **keep)
    else:
        d.node(op, [source], size, axes=axes, **keep)

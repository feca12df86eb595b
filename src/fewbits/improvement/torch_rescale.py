"""Networks in other channel sizes: weights, biases and grids that go with a factor for every channel."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.improvement.torch_channels import Channels, ScaledLayer
from fewbits.improvement.torch_walk import Start
from fewbits.numerics.affine import SMALLEST_SCALE, encoding_from_range, fake_quantize
from fewbits.numerics.weights import weight_encoding
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Lowest and highest value of each channel of a tensor, zero included, and its mean, [C] each."""

    low: F64
    high: F64
    mean: F64


def rescale(start: Start, channels: Channels, values: Mapping[str, Values], factors: F64) -> Start:
    """Return the models and grids of `start` with every channel times the factor of its class; it computes the same.

    Args:
        start: left as it is.
        channels: of its graph.
        values: of the tensors that have channels.
        factors: of the classes, [count], 1 for `FIXED`.
    """
    by_tensor = {name: factors[classes] for name, classes in channels.classes.items()}
    reference, current = (_rescaled(model, channels, by_tensor) for model in (start.reference, start.current))
    encodings = {**start.encodings, **_activations(start, by_tensor, values)}
    keys = {layer: start.plan.inputs.get((layer.node, 1)) for layer in channels.layers}
    for layer, key in keys.items():
        if key is not None:
            encodings[key] = _of_weight(layer, start.current, current, encodings[key])
    made = Start(reference, current, start.plan, encodings)
    for layer, key in keys.items():
        if key is not None and layer.bias:
            mean, inputs, outputs = values[layer.source].mean, by_tensor[layer.source], by_tensor[layer.result]
            moved = outputs * _shift(start, layer, key, mean) - _shift(made, layer, key, inputs * mean)
            bias = _array(current, layer.bias)
            _store(current, layer.bias, bias + moved.reshape(bias.shape))
    return made


def _shift(start: Start, layer: ScaledLayer, key: str, mean: F64) -> F64:
    """Return what rounding the weight of a layer adds to the means of its outputs, [O]: its bias makes up for that."""
    stored = fake_quantize(_array(start.current, layer.weight).astype(np.float32), start.encodings[key])
    error = layer.rows(stored - _array(start.reference, layer.weight))
    outputs, inputs = error.shape[:2]
    read = mean[layer.read_by(outputs, inputs, len(mean))]
    return np.asarray((error.reshape(outputs, inputs, -1).sum(axis=2) * read).sum(axis=1))


def sharing(plan: Plan) -> dict[str, list[str]]:
    """Return key of a grid of activations -> the tensors whose grids copy its encoding, its own first."""
    found: dict[str, list[str]] = {}
    activations = {key: grid.tensor for key, grid in plan.grids.items() if grid.role is Role.ACTIVATION}
    for key in sorted(activations, key=lambda key: plan.source(key) != key):
        members = found.setdefault(plan.source(key), [])
        if activations[key] not in members:
            members.append(activations[key])
    return found


def _rescaled(model: ir.Model, channels: Channels, factors: Mapping[str, F64]) -> ir.Model:
    copy = model.clone()
    for layer in channels.layers:
        inputs, outputs = factors[layer.source], factors[layer.result]
        rows = layer.rows(_array(copy, layer.weight))
        ratio = outputs[:, None] / inputs[layer.read_by(rows.shape[0], rows.shape[1], len(inputs))]
        _store(copy, layer.weight, layer.rows(rows * ratio.reshape(*ratio.shape, *(1,) * (rows.ndim - 2))))
        if layer.bias:
            bias = _array(copy, layer.bias)
            _store(copy, layer.bias, bias * outputs.reshape(bias.shape))
    return copy


def _array(model: ir.Model, name: str) -> F64:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy().astype(np.float64)


def _store(model: ir.Model, name: str, values: F64) -> None:
    model.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(values, np.float32), name=name)


def _activations(start: Start, factors: Mapping[str, F64], values: Mapping[str, Values]) -> dict[str, Encoding]:
    """Return the grids whose tensors were rescaled: their ends move as those of what is on them."""
    found: dict[str, Encoding] = {}
    grown = {}
    for source, members in sharing(start.plan).items():
        names = [name for name in members if name in factors]
        if any((factors[name] != 1).any() for name in names):
            before = [np.concatenate([getattr(values[name], end) for name in names]) for end in ("low", "high")]
            scaled = [ends * np.concatenate([factors[name] for name in names]) for ends in before]
            grown[source] = (
                _growth(float(before[0].min()), float(scaled[0].min())),
                _growth(float(before[1].max()), float(scaled[1].max())),
            )
    for key, grid in start.plan.grids.items():
        source = start.plan.source(key)
        if grid.role is Role.ACTIVATION and source in grown:
            low, high = (float(end) * by for end, by in zip(start.encodings[key].range, grown[source], strict=True))
            found[key] = encoding_from_range(low, high, grid.spec)
    return found


def _growth(before: float, after: float) -> float:
    return after / before if before else 1.0


def _of_weight(layer: ScaledLayer, before: ir.Model, after: ir.Model, encoding: Encoding) -> Encoding:
    """Return the grid of a weight: its steps grow as the largest weights on them did."""
    arrays = (_array(model, layer.weight).astype(np.float32) for model in (before, after))
    old, new = (weight_encoding(array, encoding.spec).scale.astype(np.float64) for array in arrays)
    return replace(encoding, scale=np.maximum(encoding.scale * (new / old), SMALLEST_SCALE).astype(np.float32))

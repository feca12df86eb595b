"""Layers in their order: each is improved on what it reads in the quantized model, before the next one's turn."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from fewbits.improvement.layer_case import F32, LayerCase, Rounded, enough_rows
from fewbits.improvement.torch_rows import RowReader, weights_from_rows
from fewbits.improvement.torch_walk import FLOAT, QUANTIZED, Walk
from fewbits.numerics.joint_moment import JointMoment
from fewbits.numerics.second_moment import LARGEST
from fewbits.quantization.layers import Layer, find_layers
from fewbits.quantization.scale_layout import ScaleLayout, layout_of
from fewbits.runtime.progress import Progress
from fewbits.runtime.torch_graph import Step
from fewbits.spec.plan import Role

_ROOM = 1.05  # the input's scale may become a little smaller when ranges are found again
_INT32_MAX = 2**31 - 1


class LayerLeftError(Exception):
    """A layer cannot be improved on these data; the message says why."""


@dataclass(eq=False)
class LayerWalk:
    """Which layers of a walk can be improved, and the cases they make.

    Attributes:
        walk: the two streams.
        seed: of the positions that are drawn.
        is_late: whether the time is up; the walk ends there.
        layers: node -> layer, of those that can be improved.
        layouts: node -> how the scales of its weight belong to its rows.
        declined: node -> why it is left as it is.
        keeps_inputs: what a layer reads in the float model is kept until the layer's turn is over.
    """

    walk: Walk
    seed: int = 0
    is_late: Callable[[], bool] = bool
    layers: dict[str, Layer] = field(default_factory=dict)
    layouts: dict[str, ScaleLayout] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    keeps_inputs: bool = False
    _replaced: dict[str, tuple[str, F32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        readers = _readers(self.walk)
        found = find_layers(self.walk.start.reference.graph)
        strangers = {step.name for step in self.walk.steps} - {layer.node for layer in found}
        for layer in found:
            key = self.walk.weight_key(layer.node)
            if key is None:
                continue
            reason = self._reason(key, owners, readers[self._tensor(key)] & strangers)
            layout = None if reason else layout_of(layer, self.walk.encodings[key])
            if reason or layout is None:
                self.declined[layer.node] = reason or "several of its outputs share one of its grid's scales"
            else:
                owners[key], self.layouts[layer.node] = layer.node, layout
                self.layers[layer.node] = replace(layer, has_bias=layer.has_bias and self._owns_bias(layer, readers))
                self._take_bias(self.layers[layer.node])

    def _tensor(self, key: str) -> str:
        return self.walk.start.plan.grids[key].tensor

    def _reason(self, key: str, owners: Mapping[str, str], strangers: set[str]) -> str | None:
        """Return why a layer is left as it is, or None; `strangers` read its weight and are no layers."""
        spec = self.walk.start.plan.grids[key].spec
        if key in owners:
            return f"its weight is that of {owners[key]!r}, which was improved"
        if strangers:
            return f"its weight is read by {min(strangers)!r}, too, which is no layer"
        if spec.bits > 8:
            return f"its {spec.bits}-bit grid leaves nothing to gain"
        if not (spec.is_symmetric and spec.dtype.is_signed):
            return "its grid is not symmetric"
        return None

    def _owns_bias(self, layer: Layer, readers: Mapping[str, set[str]]) -> bool:
        """Whether the bias may change: nothing else reads it, and every output channel has its own value."""
        walk = self.walk
        name = next(step.reads[2] for step in walk.steps if step.name == layer.node)
        groups, channels = layer.weight_rows(np.empty(layer.weight_shape, np.float32)).shape[:2]
        is_alone = readers[name] == {layer.node} and name not in walk.floating.output_names
        return is_alone and walk.values_of(name).size == groups * channels

    def _take_bias(self, layer: Layer) -> None:
        """Give a layer the bias that the quantized model holds; the float one is kept for `restore`."""
        walk = self.walk
        values = walk.start.biases.get(walk.start.plan.inputs.get((layer.node, 2), ""))
        if not layer.has_bias or values is None:
            return
        name = next(step.reads[2] for step in walk.steps if step.name == layer.node)
        self._replaced[layer.node] = (name, walk.values_of(name).copy())
        walk.set_values(name, values)

    def restore(self, found: Mapping[str, Rounded]) -> None:
        """Give back the float biases of layers that are not in `found`, or that no new bias was found for."""
        for node, (name, values) in self._replaced.items():
            if node not in found or found[node].bias is None:
                self.walk.set_values(name, values)

    def case(self, step: Step) -> LayerCase:
        """Return the case of a layer whose inputs and float outputs are in the cache.

        Raises:
            LayerLeftError: the data say nothing of it.
        """
        walk, layer, layout = self.walk, self.layers[step.name], self.layouts[step.name]
        key = walk.weight_key(step.name)
        assert key is not None
        name = walk.start.plan.grids[key].tensor
        weights = layout.rows(layer.weight_rows(walk.values_of(name, FLOAT)))
        current = layout.rows(layer.weight_rows(walk.values_of(name)))
        corrects = self.gives_rows(layer)
        moment = JointMoment()
        for x, y in self.rows(step, enough_rows(layer)):
            take_in(moment, x, y)
        if not moment.rows:
            raise LayerLeftError("it read nothing on the calibration data")
        least = self._least(step, weights.shape[0], weights.shape[1])
        return LayerCase(layer, weights, current, walk.encodings[key], layout, moment, least, corrects)

    def rows(self, step: Step, count: int, stream: str = QUANTIZED) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield rows of each batch: [G, R, K] as the layer reads in a stream, [G, R, C * T] as the float one gives.

        The same positions come each time. The float stream is there where the walk `keeps_inputs`.

        Raises:
            LayerLeftError: the two models have different numbers of rows, as NonZero may make them; or the rows are too
                large or too small to be squared.
        """
        walk, layer = self.walk, self.layers[step.name]
        reader = RowReader(layer)
        sizes = [self._positions(reader, step, batch) for batch in walk.batches]
        total = sum(sizes)
        generator = self.generator(step)
        straight = self.gives_rows(layer)
        with torch.no_grad():
            for batch, size in zip(walk.batches, sizes, strict=True):
                share = min(size, -(-size * count // max(total, 1)))
                if not share:
                    continue
                x = walk.seen(step, 0, batch)
                wanted = walk.value(FLOAT, step.writes[0] if straight else step.reads[0], batch)
                if size != (_rows_given(layer, wanted) if straight else math.prod(reader.sizes(wanted))):
                    raise LayerLeftError("it reads another number of rows than in the float model")
                index = reader.choose(x, share, generator)
                if straight:
                    y = reader.outputs(wanted, index)
                else:
                    y = self._product(layer, reader.inputs(wanted, index), step)
                rows = reader.inputs(x if stream == QUANTIZED else walk.value(FLOAT, step.reads[0], batch), index)
                _check_size(rows, "it reads")
                _check_size(y, "it gives")
                yield rows, y

    def drops(self, step: Step) -> tuple[str, ...]:
        """Return what the float stream needs no more once a node ran: what a layer should give is read."""
        layer = self.layers.get(step.name)
        return step.frees if layer is None or (self.gives_rows(layer) and not self.keeps_inputs) else ()

    @staticmethod
    def gives_rows(layer: Layer) -> bool:
        """Say whether rows of what the layer gives can be read off its output, bias included."""
        return layer.has_bias and layer.op != "ConvTranspose"

    def generator(self, step: Step) -> torch.Generator:
        """Return what draws for one layer: the same whether or not layers before it were computed in this run."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + list(self.layers).index(step.name))

    def _positions(self, reader: RowReader, step: Step, batch: int) -> int:
        return math.prod(reader.sizes(self.walk.value(QUANTIZED, step.reads[0], batch)))

    def _product(self, layer: Layer, x: torch.Tensor, step: Step) -> torch.Tensor:
        rows = layer.weight_rows(self.walk.values_of(step.reads[1], FLOAT))
        flat = torch.from_numpy(rows.reshape(rows.shape[0], -1, rows.shape[3])).to(x.device)
        return x @ flat.transpose(1, 2)

    def _least(self, step: Step, groups: int, channels: int) -> np.ndarray:
        """Return the smallest scales [G, C] with which the int32 bias fits."""
        plan = self.walk.start.plan
        key = plan.inputs.get((step.name, 2))
        least = np.zeros((groups, channels))
        if key is None or plan.grids[key].role is not Role.BIAS:
            return least
        parents = plan.grids[key].scaled_by
        assert parents is not None
        values = np.abs(self.walk.values_of(step.reads[2]).astype(np.float64)).ravel()
        if values.size == least.size:
            source = float(self.walk.encodings[parents[0]].scale)
            least = (values * _ROOM / _INT32_MAX / source).reshape(groups, channels)
        return np.full_like(least, least.max()) if self.walk.encodings[parents[1]].scale.size == 1 else least

    def improve(self, step: Step, method: "Method") -> Rounded | None:
        """Put what `method` makes of a layer in place and return it; None where the layer is left, which is noted."""
        try:
            with threadpool_limits(1, "blas"):
                found = method(self, step)
        except LayerLeftError as error:
            self.declined[step.name] = str(error)
            return None
        self.take(step, found)
        return found

    def take(self, step: Step, found: Rounded) -> None:
        """Put a result into the quantized model, with the bias that belongs to it."""
        key = self.walk.weight_key(step.name)
        assert key is not None
        weights = weights_from_rows(self.layers[step.name], found.weights)
        encoding = self.layouts[step.name].encoding(found.scale, self.walk.encodings[key])
        self.walk.set_weight(key, weights, encoding)
        if found.bias is not None:
            self.walk.set_values(step.reads[2], found.bias)


Method = Callable[[LayerWalk, Step], Rounded]
"""What makes something of the layer that the walk stands before; `LayerLeftError` where it cannot."""


def improve_layers(
    layers: LayerWalk, method: Method, *, to_end: bool = False, progress: Progress | None = None
) -> dict[str, Rounded]:
    """Walk through the whole graph and improve each layer by `method`, which puts its result in place.

    Layers that were not reached when the time is up are in neither the result nor `declined`; where the walk is to go
    `to_end`, the streams pass through them all the same.
    """
    walk, found, is_late = layers.walk, {}, False
    for step in walk.steps:
        is_late = is_late or layers.is_late()
        if is_late and not to_end:
            break
        walk.forward(FLOAT, [step], drops=layers.drops(step))
        if step.name in layers.layers and not is_late:
            one = layers.improve(step, method)
            if one is not None:
                found[step.name] = one
            if progress is not None:
                progress.advance(1)
        walk.forward(QUANTIZED, [step], drops=step.frees)
        walk.free([step])
    return found


def take_in(moment: JointMoment, x: torch.Tensor, y: torch.Tensor) -> None:
    """Take rows in: x [G, R, K] as the quantized model has them, y [G, R, C] as the float model has them.

    Products are formed in torch: it is on a GPU where there is one, and its threads do not fight those of numpy.
    """
    if moment.offsets() is None:
        moment.start(x.mean(1, keepdim=True).cpu().numpy(), y.mean(1, keepdim=True).cpu().numpy())
    offsets = moment.offsets()
    assert offsets is not None
    x, y = (value - torch.from_numpy(offset).to(value.device) for value, offset in zip((x, y), offsets, strict=True))
    turned = x.transpose(1, 2)
    products = ((turned @ x).cpu().numpy(), (turned @ y).cpu().numpy())
    moment.add(x.shape[1], products, (x.sum(1).cpu().numpy(), y.sum(1).cpu().numpy()))


def _check_size(rows: torch.Tensor, what: str) -> None:
    top = float(rows.abs().max()) if rows.numel() else 0.0
    if top > LARGEST or 0 < top < 1 / LARGEST:
        raise LayerLeftError(f"what {what} is as large as {top:g}, too far from 1 to be squared and added up")


def _rows_given(layer: Layer, y: torch.Tensor) -> int:
    """Return how many rows an output tensor of a layer holds."""
    return y.numel() // y.shape[1 if layer.op == "Conv" else -1]


def _readers(walk: Walk) -> dict[str, set[str]]:
    readers: dict[str, set[str]] = {}
    for step in walk.steps:
        for name in step.reads:
            readers.setdefault(name, set()).add(step.name)
    return readers

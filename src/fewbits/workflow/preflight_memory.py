"""Resident memory that the steps of a workflow may add to what the process took so far."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from fewbits.analysis.sensitivity import COPIES, FIRST_BYTES, HELD, MOST_BYTES
from fewbits.graph.save import weights_bytes
from fewbits.graph.topology import constant
from fewbits.improvement.blocks import find_blocks
from fewbits.improvement.layer_case import LEARNED_ELEMENTS, LEARNED_ROWS, enough_rows
from fewbits.improvement.methods import Effort
from fewbits.numerics.second_moment import MOST_INPUTS
from fewbits.quantization.layers import Layer, find_layers
from fewbits.quantization.observe import Watchlist
from fewbits.quantization.select import TRIAL_SAMPLES
from fewbits.runtime.memory import MB
from fewbits.workflow.calibrate import LARGEST_BATCH

TORCH_MB = 250.0
"""What importing torch and its first operators take."""
WORKER_MB = 150.0
"""What a worker process takes before it has a model."""
_OTHERS_MB = 50.0  # sessions, the record, the report
_WEIGHTS = 2.5
_HISTOGRAM_BYTES = 1 << 18  # elements that wait to be counted
_ARENA = 1.5  # onnxruntime's memory for what it hands out, relative to that
_STREAMS = 6  # the largest tensor: read, rounded, made, and what a convolution copies
_READ = 4  # what a layer reads, at its turn: as it is, rounded, padded, and what it gives
_TRAINED = 10  # weights: both models, gradients, two moments, the best and the mean so far
_GRAPHS = 3  # tensors of a step: values, gradients, rounded
_IN_BLOCK = 5  # tensors of a block: values, rounded, what was clipped, gradients of both
_UNSIZED = (ir.DataType.STRING, ir.DataType.UNDEFINED)
_COPIES = 3  # of gathered vectors: indexed, reshaped, and those of the batch before
_SOLVED = 6 * 8  # bytes of a layer's second moments, and of what a solver makes of them
_JOINED = 2  # rows that are learned from: of each batch, and of all together
_LOSSES = 4  # outputs for them: given, behind the activation, wanted, their difference
_BALANCED = 2  # tensors: values, and what is derived from them


def tensor_bytes(graph: ir.Graph, measured: Mapping[str, float]) -> dict[str, float]:
    """Return tensor -> bytes per sample of everything that the graph computes or is fed.

    What was not measured has the size that its shape says (an open first axis counts samples), or that of the largest
    input of its node where that is open, too.

    Args:
        graph: prepared, in topological order.
        measured: tensor -> bytes per sample.
    """
    found = {str(v.name): measured.get(str(v.name), _static_bytes(v) or 0.0) for v in graph.inputs}
    for node in graph:
        largest = max((found.get(str(value.name), 0.0) for value in node.inputs if value is not None), default=0.0)
        for value in node.outputs:
            name, size = str(value.name), _static_bytes(value)
            found[name] = measured.get(name, largest if size is None else size)
    return found


def _static_bytes(value: ir.Value) -> float | None:
    if value.shape is None or value.dtype in (None, *_UNSIZED):
        return None
    dims = list(value.shape)
    if dims and not isinstance(dims[0], int):
        dims = dims[1:]
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return value.dtype.itemsize * math.prod(sizes) if len(sizes) == len(dims) else None


def most_live_bytes(graph: ir.Graph, sizes: Mapping[str, float]) -> float:
    """Return the bytes per sample of the tensors that wait at once, at most, when nodes run in order.

    Args:
        graph: prepared, in topological order.
        sizes: from `tensor_bytes`.
    """
    readers = _readers(graph)
    live = most = sum(sizes[str(value.name)] for value in graph.inputs)
    for node in graph:
        live += sum(sizes[str(value.name)] for value in node.outputs)
        most = max(most, live)
        for value in node.inputs:
            name = "" if value is None else str(value.name)
            if name in readers and name in sizes:
                readers[name] -= 1
                live -= sizes[name] * (not readers[name])
    return most


def gradient_bytes(graph: ir.Graph, sizes: Mapping[str, float]) -> float:
    """Return the bytes per sample of one probe's gradients: of every tensor, and of each reading of a shared one.

    Args:
        graph: prepared.
        sizes: from `tensor_bytes`.
    """
    readers = _readers(graph)
    return sum(size * (1 + (readers[name] if readers[name] > 1 else 0)) for name, size in sizes.items())


def _readers(graph: ir.Graph) -> Counter[str]:
    readers = Counter(str(v.name) for node in graph for v in node.inputs if v is not None and constant(v) is None)
    readers.update(str(value.name) for value in graph.outputs)
    return readers


def step1_mb(model: ir.Model, watch: Watchlist, passed: float, samples: int) -> float:
    """Return what calibrating and scoring add whatever the number of samples at once.

    Weights are there three more times (two sessions, and what they are made of), with second moments and histograms,
    and what goes in and comes out of the samples that ranges are tried on.

    Args:
        model: prepared.
        watch: what calibration looks at.
        passed: bytes of inputs and outputs of one sample.
        samples: calibration samples.
    """
    moments = sum(
        layer.groups * layer.inputs * (layer.inputs if layer.inputs <= MOST_INPUTS else 1) for layer in watch.layers
    )
    counted = len(watch.tensors) * _HISTOGRAM_BYTES + min(TRIAL_SAMPLES, samples) * passed
    return _OTHERS_MB + (_WEIGHTS * weights_bytes(model) + 1.3 * 4 * moments + counted) / MB


def sample_mb(watched: float) -> float:
    """Return what each sample at once adds while all that calibration looks at is there, given its bytes."""
    return _ARENA * watched / MB


def least_one_pass_mb(model: ir.Model, sizes: Mapping[str, float]) -> float:
    """Return what ranking groups by one pass adds at least, torch aside: one sample, one probe at a time."""
    held = HELD * sum(sizes.values()) + COPIES * max(sizes.values(), default=0.0)
    return (FIRST_BYTES + held + gradient_bytes(model.graph, sizes) + 3 * weights_bytes(model)) / MB


def training_mb(model: ir.Model, sizes: Mapping[str, float], samples: int, passed: float, drawn: float) -> float:
    """Return what training adds, torch aside: all samples and their targets, gradients, and an optimizer's state.

    Args:
        model: prepared.
        sizes: from `tensor_bytes`, of the largest sample.
        samples: calibration samples.
        passed: bytes of inputs and outputs of one sample.
        drawn: how many such samples the batch of one step amounts to.
    """
    return (_TRAINED * weights_bytes(model) + samples * passed + _GRAPHS * drawn * sum(sizes.values())) / MB


def litemp_mb(model: ir.Model, sizes: Mapping[str, float], batch: int, probes: int) -> float:
    """Return what ranking groups by one pass in torch adds, at most.

    Every tensor of a batch is kept, with the gradients of as many probes as `MOST_BYTES` holds, or of one; weights are
    there as they are and as two precisions make them.

    Args:
        model: prepared.
        sizes: from `tensor_bytes`.
        batch: samples per call of calibration.
        probes: random projections per sample.
    """
    count = min(2 * batch, LARGEST_BATCH) if batch > 1 else 1
    tensors, gradients = count * sum(sizes.values()), count * gradient_bytes(model.graph, sizes)
    held = min(gradients * probes, max(gradients, MOST_BYTES))
    return TORCH_MB + (tensors + held + 3 * weights_bytes(model)) / MB


def waiting_mb(model: ir.Model, sizes: Mapping[str, float], samples: int) -> float:
    """Return what waits for all samples while weights are rounded, at most: what later layers read, in two streams.

    Args:
        model: prepared.
        sizes: from `tensor_bytes`.
        samples: calibration samples.
    """
    return min(2 * samples * most_live_bytes(model.graph, sizes), Effort().ceiling) / MB


@dataclass(frozen=True, slots=True)
class _Named:
    """A node as finding blocks wants it."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Self:
        reads = (str(value.name) for value in node.inputs if value is not None and constant(value) is None)
        return cls(str(node.name), tuple(reads), tuple(str(value.name) for value in node.outputs))


@dataclass(frozen=True, slots=True, eq=False)
class Improving:
    """What methods that make weights better add, at most, beside torch and what can wait in files.

    Attributes:
        model: prepared.
        sizes: from `tensor_bytes`, of the largest sample.
        samples: calibration samples.
        batch: samples that torch runs together.
    """

    model: ir.Model
    sizes: Mapping[str, float]
    samples: int
    batch: int

    @property
    def rounding_mb(self) -> float:
        """Weights four times (float, quantized, sought, best), and what a batch takes at a node or at a layer's turn.

        Then input vectors are gathered, batch by batch, and a solver works on their moments.
        """
        tensors = _STREAMS * self.batch * max(self.sizes.values(), default=0.0)
        layers = [max(self._gathered(*one), _SOLVED * one[0].groups * one[0].inputs ** 2) for one in self._layers()]
        return (FIRST_BYTES + 4 * weights_bytes(self.model) + max(tensors, *layers, 0.0)) / MB

    @property
    def learning_mb(self) -> float:
        """What rounding adds, and the rows of a layer that adaround learns from, of all batches."""
        return self.rounding_mb + max((self._learned(*one) for one in self._layers()), default=0.0) / MB

    @property
    def block_learning_mb(self) -> float:
        """What rounding adds, and the largest block: its tensors of a batch, their gradients, an optimizer's state."""
        nodes = [_Named.of(node) for node in self.model.graph]
        layers = {layer.node: 4 * math.prod(layer.weight_shape) for layer in find_layers(self.model.graph)}
        most = 0.0
        for first, end in find_blocks(nodes, layers, [str(value.name) for value in self.model.graph.inputs]):
            part = nodes[first:end]
            tensors = sum(self.sizes.get(name, 0.0) for name in {n for node in part for n in node.reads + node.writes})
            weights = sum(layers.get(node.name, 0) for node in part)
            most = max(most, _IN_BLOCK * self.batch * tensors + _TRAINED * weights)
        return self.rounding_mb + most / MB

    @property
    def balancing_mb(self) -> float:
        """Weights four times, and all tensors of a batch with what gradients are made from."""
        together = _BALANCED * sum(self.sizes.values()) + _STREAMS * max(self.sizes.values(), default=0.0)
        return (FIRST_BYTES + 4 * weights_bytes(self.model) + self.batch * together) / MB

    @property
    def most_mb(self) -> float:
        """What any of these methods adds with adaround layer by layer, its default."""
        return max(self.learning_mb, self.balancing_mb)

    def _layers(self) -> Iterator[tuple[Layer, float]]:
        """Yield every layer with the rows that a sample has of it."""
        writes = {str(node.name): str(node.outputs[0].name) for node in self.model.graph if node.outputs}
        for layer in find_layers(self.model.graph):
            is_conv = layer.op == "Conv"
            size = self.sizes.get(writes[layer.node] if is_conv else layer.source, 0.0)
            yield layer, max(size / (4 * (layer.weight_shape[0] if is_conv else layer.groups * layer.inputs)), 1.0)

    def _gathered(self, layer: Layer, positions: float) -> float:
        total, batch = self.samples * positions, min(self.batch, self.samples) * positions
        rows = batch * min(enough_rows(layer) / total, 1.0)
        wide = self.batch * _READ * self.sizes.get(layer.source, 0.0)
        return _COPIES * 4 * rows * layer.groups * layer.inputs + wide

    def _learned(self, layer: Layer, positions: float) -> float:
        given = math.prod(layer.weight_shape) / layer.inputs  # of all groups, taps included
        each = layer.groups * layer.inputs + given
        rows = min(max(LEARNED_ELEMENTS // each, LEARNED_ROWS), self.samples * positions)
        return 4 * rows * (_JOINED * each + _LOSSES * given)

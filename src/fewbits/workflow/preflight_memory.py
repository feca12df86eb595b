"""Resident memory that the steps of a workflow may add to what the process took so far."""

import math
from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from fewbits.analysis.sensitivity import COPIES, HELD, MOST_BYTES
from fewbits.graph.save import weights_bytes
from fewbits.graph.topology import constant
from fewbits.improvement.layer_case import enough_rows
from fewbits.improvement.methods import Effort
from fewbits.numerics.second_moment import MOST_INPUTS
from fewbits.quantization.layers import find_layers
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
_STREAMS = 8  # the largest tensor: read, made, rounded, in two streams
_TRAINED = 10  # weights: both models, gradients, two moments, the best and the mean so far
_GRAPHS = 3  # tensors of a step: values, gradients, rounded
_UNSIZED = (ir.DataType.STRING, ir.DataType.UNDEFINED)
_COPIES = 6  # of gathered vectors: indexed, reshaped, contiguous, of both streams


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
    return (held + gradient_bytes(model.graph, sizes) + 3 * weights_bytes(model)) / MB


def rounding_mb(model: ir.Model, sizes: Mapping[str, float], samples: int, batch: int) -> float:
    """Return what the methods that round weights add, torch and what can wait in files aside."""
    return improve_mb(model, samples, batch) - TORCH_MB + _STREAMS * batch * max(sizes.values(), default=0.0) / MB


def training_mb(model: ir.Model, sizes: Mapping[str, float], samples: int, passed: float, batch: int) -> float:
    """Return what training adds, torch aside: all samples and their targets, gradients, and an optimizer's state."""
    return (_TRAINED * weights_bytes(model) + samples * passed + _GRAPHS * batch * sum(sizes.values())) / MB


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


def improve_mb(model: ir.Model, samples: int, batch: int) -> float:
    """Return what the methods that round weights add, at most, beside what waits.

    Weights are there four times (float, quantized, sought, best), and input vectors of one layer are gathered from one
    batch at a time.

    Args:
        model: prepared.
        samples: calibration samples.
        batch: samples per call of calibration.
    """
    batches = max(samples // batch, 1)
    gathered = max((enough_rows(layer) * layer.groups * layer.inputs for layer in find_layers(model.graph)), default=0)
    return TORCH_MB + (4 * weights_bytes(model) + _COPIES * 4 * gathered / batches) / MB

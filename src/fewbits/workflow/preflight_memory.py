"""Resident memory: what the process took so far, and what later steps may add to it."""

import math
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from fewbits.analysis.sensitivity import MOST_BYTES
from fewbits.graph.save import weights_bytes
from fewbits.graph.topology import constant
from fewbits.improvement.layer_case import enough_rows
from fewbits.improvement.methods import Effort
from fewbits.quantization.layers import find_layers
from fewbits.workflow.calibrate import LARGEST_BATCH

MB = 1e6
TORCH_MB = 250.0
"""What importing torch and its first operators take."""
_COPIES = 6  # of gathered vectors: indexed, reshaped, contiguous, of both streams


def peak_mb() -> float | None:
    """Return the largest resident memory of this process so far; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB  # macOS counts bytes


def resident_mb() -> float | None:
    """Return the resident memory of this process now; None where the system does not tell (other than Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def machine_mb() -> float | None:
    """Return the physical memory of this machine; None where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MB


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
    if value.shape is None or value.dtype is None:
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

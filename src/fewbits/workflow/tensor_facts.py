"""Tensor facts: run the float model and the full simulation side by side over a few samples, tensor by tensor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from fewbits.analysis.channel_axes import channel_axes
from fewbits.analysis.tensors import TensorFact, TensorFacts, TensorWatch, activation_fact, stored_fact
from fewbits.graph.topology import channel_axis, is_float32, op_rule
from fewbits.quantization.biases import constant_values
from fewbits.quantization.groups import find_groups
from fewbits.quantization.observe import watchlist
from fewbits.runtime.data.types import Batch
from fewbits.runtime.progress import NullProgress, Progress
from fewbits.runtime.session import Runner, SessionPolicy
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Grid, Role
from fewbits.workflow.calibrate import MOST_WATCHED_BYTES, Calibration, choose_batch_size
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.sessions import measured_bytes, open_graph, with_outputs

SAMPLES = 64
_SESSIONS = 4  # what calibration ran in one session runs in two here, with every QuantizeLinear as a node
_COPIES = 10  # of what is looked at: of two models, in onnxruntime and out of it, and what is computed from it


def tensor_facts(
    calibration: Calibration, quantized: Quantized, *, samples: int = SAMPLES, progress: Progress | None = None
) -> TensorFacts:
    """Return what there is to say about every tensor that has a grid or was observed.

    Both models run over the same samples, the simulation with every QuantizeLinear as it is written. Where the tensors
    of one batch would take more than 64 MB for either model, they are looked at in several passes.

    Args:
        calibration: of the float model; its samples and histograms are used again.
        quantized: the network in one precision, made from this calibration.
        samples: calibration samples to run, at most.
        progress: told of each batch, in samples x share of the tensors.

    Raises:
        DataError: the samples cannot be read again.
        ModelError: onnxruntime cannot load the simulation.
    """
    graph = calibration.model.graph
    seen = _seen(calibration, quantized)
    axes, softmax = channel_axes(graph), watchlist(graph, calibration.target).softmax_axes
    watches = {name: TensorWatch(axes.get(name), softmax.get(name)) for name in seen}
    size = calibration.subject.batch_size or min(calibration.batch_size, choose_batch_size(graph, seen))
    look = _Look(calibration, quantized, samples, size)
    with threadpool_limits(1, "blas"):  # many small products: BLAS threads would only fight those of ORT
        count = look.run(seen, watches, progress or NullProgress())
    owners = _owners(calibration)
    facts: dict[str, TensorFact] = {}
    for name, watch in watches.items():
        histogram = calibration.statistics.histogram(name)
        facts[name] = activation_fact(name, owners.get(name, ""), watch, histogram, quantized.encodings.get(name))
    for grid in quantized.plan.grids.values():
        if grid.role in (Role.WEIGHT, Role.CONSTANT) and grid.tensor not in facts:
            facts[grid.tensor] = _stored(calibration, quantized, grid, owners)
    return TensorFacts(facts, count)


def _seen(calibration: Calibration, quantized: Quantized) -> dict[str, str]:
    """Return activation -> the name under which its readers see it in the simulation, in the graph's order.

    A tensor that nothing reads is left out, and so is one inside a fused group, which has no grid and no histogram.
    """
    simulated = {str(node.name): node for node in quantized.model.graph}
    graph, plan = calibration.model.graph, quantized.plan
    found: dict[str, str] = {}
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        name = str(value.name)
        if not is_float32(value) or (name not in plan.grids and calibration.statistics.histogram(name) is None):
            continue
        uses = [(u.node, u.idx) for u in value.uses() if u.node.graph is graph and str(u.node.name) in simulated]
        uses.sort(key=lambda use: plan.inputs.get((str(use[0].name), use[1])) != name)  # its own grid comes first
        seen = next((simulated[str(node.name)].inputs[i] for node, i in uses), None)
        if value.is_graph_output() and value.producer() is not None:
            found[name] = name
        elif seen is not None:
            found[name] = str(_unconverted(seen).name)
    return found


def _unconverted(value: ir.Value) -> ir.Value:
    """Return a dequantized value as it was before it was converted to the width of its reader."""
    while (dequantize := value.producer()) is not None and dequantize.op_type == "DequantizeLinear":
        quantize = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
        source = quantize.inputs[0] if quantize is not None else None
        above = source.producer() if source is not None else None
        if source is None or above is None or above.op_type != "DequantizeLinear":
            break
        value = source
    return value


def _owners(calibration: Calibration) -> dict[str, str]:
    """Return tensor -> name of the group that makes it, or else of the first that reads it."""
    groups = find_groups(calibration.model.graph, calibration.target)
    group_of = {node: group.name for group in groups for node in group.nodes}
    owners: dict[str, str] = {}
    nodes = [node for node in calibration.model.graph if str(node.name) in group_of]
    for node in nodes:
        owners.update((str(value.name), group_of[str(node.name)]) for value in node.outputs)
    for node in nodes:
        for value in node.inputs:
            if value is not None:
                owners.setdefault(str(value.name), group_of[str(node.name)])
    return owners


def _stored(calibration: Calibration, quantized: Quantized, grid: Grid, owners: Mapping[str, str]) -> TensorFact:
    values = constant_values(calibration.model.graph, grid.tensor)
    reader = next(iter(calibration.model.graph.initializers[grid.tensor].uses())).node
    rule = op_rule(reader)
    axis = channel_axis(reader, values.ndim) if rule is not None and rule.kind is Kind.LINEAR else 0
    return stored_fact(
        grid.tensor, "weight" if grid.role is Role.WEIGHT else "constant", owners.get(grid.tensor, ""), values,
        quantized.encodings[grid.tensor], axis=axis if axis < values.ndim and values.ndim > 1 else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Look:
    """Runs both models over the samples."""

    calibration: Calibration
    quantized: Quantized
    samples: int
    batch_size: int

    def run(self, seen: Mapping[str, str], watches: Mapping[str, TensorWatch], told: Progress) -> int:
        """Fill the watches; return how many samples were looked at."""
        count, owed, parts = 0, 0.0, self._parts(list(seen))
        for part in parts:
            simulated = [seen[name] for name in part]
            reference, simulation = self._open(part, simulated)
            count = 0
            for batch in self._batches():
                wanted = self._values(reference, batch, part)
                given = self._values(simulation, batch, simulated)
                for name in part:
                    watches[name].update(wanted[name], given[seen[name]], batch.size)
                count += batch.size
                owed += batch.size / len(parts)
                told.advance(int(owed))
                owed -= int(owed)
            del reference, simulation  # or their memory stays while the next two take theirs
        return count

    def _batches(self) -> Iterator[Batch]:
        return self.calibration.subject.data.batches(self.batch_size, self.samples)

    def _open(self, part: Sequence[str], simulated: Sequence[str]) -> tuple[Runner, Runner]:
        options = self.calibration.subject.options
        options = replace(options, at_once=-(-options.at_once // _SESSIONS))  # 0 stays: no limit
        reference = open_graph(with_outputs(self.calibration.model, tuple(part)), options)
        simulation = with_outputs(self.quantized.model, tuple(dict.fromkeys(simulated)))
        return reference, open_graph(simulation, options, SessionPolicy.EXACT)

    @staticmethod
    def _values(runner: Runner, batch: Batch, names: Sequence[str]) -> Mapping[str, npt.NDArray[Any]]:
        computed = [name for name in dict.fromkeys(names) if name not in batch.feeds]
        return {**batch.feeds, **runner.run(computed, batch.feeds)}

    def _parts(self, names: list[str]) -> list[list[str]]:
        """Split the tensors so that those of one batch take at most 64 MB, by their shapes in the first batch.

        Below a ceiling of memory they are fewer: both models hand theirs out, in pieces that are put together.
        """
        parts: list[list[str]] = []
        first, subject = next(self._batches()), self.calibration.subject
        left = None if subject.ceiling is None else subject.ceiling.left_bytes
        most = MOST_WATCHED_BYTES if left is None else min(MOST_WATCHED_BYTES, left // _COPIES)
        sizes = measured_bytes(subject.model, names, first.feeds, subject.options)
        total = 0
        for name in names:
            total += sizes.get(name, 0)
            if not parts or total > most:
                parts.append([])
                total = sizes.get(name, 0)
            parts[-1].append(name)
        return parts

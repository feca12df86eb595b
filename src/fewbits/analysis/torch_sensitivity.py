"""One-pass sensitivity: the output error that quantizing each group alone will cause, for all groups at once.

One forward and a few backward passes of the float network per batch give, for random projections v of the output,
the gradient g at every tensor. Whatever noise d a precision causes there, the square of the sum of g . d over the
places of a group, per sample and then averaged, estimates the output error of that group.

Source: Hutchinson's estimator of d' J' W J d; first order in d, so it says little about saturated nonlinearities.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fewbits.analysis.locations import Edge, Locations, locate, read_anew, written_anew
from fewbits.analysis.sensitivity import PARTS, Part
from fewbits.analysis.torch_probe import OutputWeights, Probed, Recorder, probe
from fewbits.errors import SpecError
from fewbits.numerics.channel_error import ChannelError
from fewbits.quantization.groups import Group
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch
from fewbits.runtime.torch_quantize import FakeQuantizer, as_half
from fewbits.spec.dtypes import PerTensor
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One precision of the whole network.

    Attributes:
        precision: its name.
        plan: the grids.
        encodings: grid key -> encoding.
        biases: bias grid key -> float values stored there.
    """

    precision: str
    plan: Plan
    encodings: Mapping[str, Encoding]
    biases: Mapping[str, F32]


def module_of(model: ir.Model, device: str) -> TorchGraph:
    """Return the float graph as a torch module on a device.

    Raises:
        ModelError: the graph has an operator that the torch executor lacks.
        SpecError: torch does not have the device.
    """
    try:
        return TorchGraph(model).to(torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise SpecError(f"torch cannot compute on the device {device!r}: {reason}. Write cpu.") from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block; 0 leaves its own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class _ChannelWeights:
    """The error of `ChannelError` as weights of squared errors."""

    outputs: Mapping[str, ChannelError]

    def of(self, samples: int) -> OutputWeights:
        """Return the weights for batches of `samples`; their sum over a sample is the mean over channels."""

        def weights(name: str, value: torch.Tensor) -> torch.Tensor:
            error = self.outputs[name]
            assert error.variance is not None
            layout = [1] * value.ndim
            if value.ndim > 1 and error.axis is not None and value.shape[error.axis] == len(error.variance):
                layout[error.axis] = len(error.variance)
                variance = torch.from_numpy(error.variance).reshape(layout).to(value)
            else:  # one channel, or channels of changing number
                variance = value.new_full(layout, float(error.variance.mean()))
            return samples / (len(self.outputs) * max(value.numel(), 1) * variance)

        return weights


@dataclass
class _Places:
    """What one candidate does at the places of one group."""

    edges: dict[Edge, str | None]
    outputs: dict[str, str | None]
    layers: tuple[str, ...]


class OnePass:
    """Accumulates the estimates over batches.

    Args:
        graph: prepared.
        module: the same graph as a torch module.
        groups: whose error is wanted.
        candidates: the precisions.
        outputs: the outputs whose error counts, with the variance of their channels: the error is `ChannelError`'s.
        probes: random projections per sample.
        seed: of the projections.
    """

    def __init__(
        self,
        graph: ir.Graph,
        module: TorchGraph,
        groups: Sequence[Group],
        candidates: Sequence[Candidate],
        *,
        outputs: Mapping[str, ChannelError],
        probes: int,
        seed: int = 0,
    ) -> None:
        self._module = module.requires_grad_(False)
        self._candidates = tuple(candidates)
        self._outputs, self._weights, self._probes = tuple(outputs), _ChannelWeights(outputs), probes
        self._generator = torch.Generator().manual_seed(seed)
        self._groups = locate(graph, groups)
        self._places = {
            (c.precision, place.group.name): _places(graph, c.plan, place) for c in candidates for place in self._groups
        }
        uses = Counter(str(v.name) for node in graph for v in node.inputs if v is not None)
        uses.update(str(v.name) for v in graph.outputs)
        self._shared = frozenset(name for name, n in uses.items() if n > 1)
        self._deltas = _Deltas(self._candidates, module)
        self._sums: dict[tuple[str, str, Part], list[F64]] = {}

    def add(self, feeds: Mapping[str, npt.NDArray[np.generic]], samples: int) -> bool:
        """Take one batch in; False, and nothing is taken, where the first axis of a tensor does not count samples."""
        places = self._places.values()
        record = Recorder(
            frozenset(edge for p in places for edge in p.edges),
            frozenset(name for p in places for name in p.outputs),
            frozenset(name for p in places for name in p.layers),
            self._shared,
        )
        probed = probe(
            self._module, feeds_to_torch(feeds, self._module.device), record, samples=samples, probes=self._probes,
            outputs=self._outputs, weights=self._weights.of(samples), generator=self._generator,
        )  # fmt: skip
        if samples > 1 and not probed.is_by_sample:
            return False
        with torch.no_grad():
            self._project(probed)
        return True

    def _project(self, probed: Probed) -> None:
        seen = _Projections(probed, self._deltas)
        for candidate in self._candidates:
            for place in self._groups:
                mine = self._places[candidate.precision, place.group.name]
                weights = sum((seen.layer(candidate, name) for name in mine.layers), seen.nothing)
                data = sum((seen.edge(candidate, edge, key) for edge, key in mine.edges.items()), seen.nothing)
                data = sum((seen.output(candidate, name, key) for name, key in mine.outputs.items()), data)
                for part, projection in zip(PARTS, (weights + data, weights, data), strict=True):
                    key = (place.group.name, candidate.precision, part)
                    self._sums.setdefault(key, []).append((projection**2).mean(axis=1))

    def estimates(self) -> dict[tuple[str, str, Part], tuple[float, float]]:
        """Return (group, precision, part) -> (relative output error, its relative standard deviation)."""
        return {key: _mean(np.concatenate(values)) for key, values in self._sums.items()}


def _mean(values: F64) -> tuple[float, float]:
    mean = float(values.mean())
    if mean <= 0 or len(values) < 2:
        return mean, 0.0 if mean <= 0 else float("inf")
    return mean, float(values.std(ddof=1) / np.sqrt(len(values)) / mean)


def _places(graph: ir.Graph, plan: Plan, place: Locations) -> _Places:
    """Return what a plan changes at the places of a group; key None stands for rounding to float16."""
    half = {name for name in place.group.nodes if plan.nodes[name].precision == FP16}
    edges: dict[Edge, str | None] = {**read_anew(plan, place), **{e: None for e in place.edges if e[0] in half}}
    outputs: dict[str, str | None] = dict(written_anew(graph, plan, place))
    if half:
        outputs.update(dict.fromkeys(place.outputs))
    gridded = {name for name, _ in plan.inputs}
    return _Places(edges, outputs, tuple(name for name in place.layers if name in half or name in gridded))


@dataclass
class _Projections:
    """Projections of one batch, each computed once: precisions share grids, and an edge its producer's tensor."""

    probed: Probed
    deltas: "_Deltas"
    known: dict[tuple[int, object], F64] = field(default_factory=dict)

    @property
    def nothing(self) -> F64:
        return np.zeros((self.probed.samples, 1))

    def edge(self, candidate: Candidate, edge: Edge, key: str | None) -> F64:
        index = self.probed.record.at_edge.get(edge)
        return self.nothing if index is None else self._tensor(candidate, index, key)

    def output(self, candidate: Candidate, name: str, key: str | None) -> F64:
        index = self.probed.record.at_output.get(name)
        return self.nothing if index is None else self._tensor(candidate, index, key)

    def layer(self, candidate: Candidate, name: str) -> F64:
        """Project what the candidate's parameters change at the raw output of a layer."""
        call = self.probed.record.calls.get(name)
        changed = self.deltas.parameters(candidate, name)
        if call is None or not changed:
            return self.nothing
        step, inputs, index = call
        kind = ("layer", name, self.deltas.identity(candidate, name))
        if (index, kind) not in self.known:
            given = [changed.get(i, value) for i, value in enumerate(inputs)]
            results = step.operator(step.call, given)
            made = results[0] if isinstance(results, tuple) else results
            assert made is not None
            self.known[index, kind] = self.probed.project(index, made - self.probed.record.tensors[index]).numpy()
        return self.known[index, kind]

    def _tensor(self, candidate: Candidate, index: int, key: str | None) -> F64:
        kind: object = "fp16" if key is None else _grid_of(candidate.encodings[key])
        if (index, kind) not in self.known:
            value = self.probed.record.tensors[index].detach()
            rounded = as_half(value) if key is None else _Deltas.rounded(value, candidate.encodings[key])
            self.known[index, kind] = self.probed.project(index, rounded.sub_(value)).numpy()
        return self.known[index, kind]


class _Deltas:
    """What candidates make of values and parameters."""

    def __init__(self, candidates: Iterable[Candidate], module: TorchGraph) -> None:
        self._values = {name: parameter.detach() for name, parameter in module.named_parameters()}
        self._reads = {step.name: step.reads for step in module.steps}
        self._by_node: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
        self._identity: dict[tuple[str, str], tuple[object, ...]] = {}
        made: dict[object, torch.Tensor] = {}
        for candidate in candidates:
            for (node, position), key in candidate.plan.inputs.items():
                name = self._reads[node][position]
                if name not in self._values or candidate.plan.grids[key].role is Role.ACTIVATION:
                    continue
                kind = (name, self._kind(candidate, key))
                if kind not in made:
                    made[kind] = self._parameter(candidate, key, name)
                self._note(candidate, node, position, kind, made[kind])
            self._add_halves(candidate, made)

    def _add_halves(self, candidate: Candidate, made: dict[object, torch.Tensor]) -> None:
        for node, plan in candidate.plan.nodes.items():
            if plan.precision != FP16:
                continue
            for position, name in enumerate(self._reads[node]):
                if name in self._values and self._values[name].dtype == torch.float32:
                    kind = (name, "fp16")
                    made.setdefault(kind, as_half(self._values[name]))
                    self._note(candidate, node, position, kind, made[kind])

    def _note(self, candidate: Candidate, node: str, position: int, kind: object, value: torch.Tensor) -> None:
        self._by_node.setdefault((candidate.precision, node), {})[position] = value
        before = self._identity.get((candidate.precision, node), ())
        self._identity[candidate.precision, node] = (*before, (position, kind))

    def parameters(self, candidate: Candidate, node: str) -> dict[int, torch.Tensor]:
        """Return input position -> the parameter as the candidate holds it."""
        return self._by_node.get((candidate.precision, node), {})

    def identity(self, candidate: Candidate, node: str) -> object:
        """Return what is equal for candidates that hold a node's parameters alike."""
        return self._identity[candidate.precision, node]

    def _kind(self, candidate: Candidate, key: str) -> object:
        if candidate.plan.grids[key].role is Role.BIAS:  # rounding to int32 is far below all other noise
            stored = candidate.biases.get(key)
            return None if stored is None else stored.tobytes()
        return _grid_of(candidate.encodings[key])

    def _parameter(self, candidate: Candidate, key: str, name: str) -> torch.Tensor:
        value = self._values[name]
        if candidate.plan.grids[key].role is Role.BIAS:
            stored = candidate.biases.get(key)
            return value if stored is None else torch.from_numpy(np.array(stored)).reshape(value.shape).to(value.device)
        return self.rounded(value, candidate.encodings[key])

    @staticmethod
    def rounded(value: torch.Tensor, encoding: Encoding) -> torch.Tensor:
        """Return `value` on a grid, in a tensor of its own."""
        if not isinstance(encoding.spec.granularity, PerTensor):
            found: torch.Tensor = FakeQuantizer(encoding, tuple(value.shape)).to(value.device)(value)
            return found
        scale, zero_point = float(encoding.scale), int(encoding.zero_point)
        steps = torch.div(value, scale).round_()
        return steps.clamp_(encoding.spec.qmin - zero_point, encoding.spec.qmax - zero_point).mul_(scale)


def _grid_of(encoding: Encoding) -> tuple[object, ...]:
    return (encoding.spec, encoding.scale.tobytes(), encoding.zero_point.tobytes())

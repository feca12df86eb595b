"""Probes of a float network: random projections of its output, carried back to every tensor at once.

For v with E[v v'] = W (the weights of the output error) and g = J' v, the square of g . d estimates d' J' W J d: the
output error that a small change d of that tensor causes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fewbits.analysis.locations import Edge
from fewbits.analysis.sensitivity import turns_together
from fewbits.runtime.torch_graph import Step, Tensors, TorchGraph

OutputWeights = Callable[[str, torch.Tensor], torch.Tensor]
"""(output name, its value) -> non-negative weights of the squared error of its elements, broadcastable to it."""


@dataclass
class Recorder:
    """A hook that remembers the tensors at some places and makes gradients reach them.

    Attributes:
        edges: inputs of nodes to remember; where a tensor has several readers, each edge is told from the others.
        written: tensors to remember as their producers write them.
        layers: nodes whose inputs and raw outputs are to be remembered.
        shared: tensors that several nodes read.
        tensors: every remembered tensor once.
        at_edge, at_output: place -> index in `tensors`.
        calls: layer -> (step, its inputs, index of its output in `tensors`).
    """

    edges: frozenset[Edge]
    written: frozenset[str]
    layers: frozenset[str]
    shared: frozenset[str]
    tensors: list[torch.Tensor] = field(default_factory=list)
    at_edge: dict[Edge, int] = field(default_factory=dict)
    at_output: dict[str, int] = field(default_factory=dict)
    calls: dict[str, tuple[Step, list[torch.Tensor | None], int]] = field(default_factory=dict)
    _known: dict[int, int] = field(default_factory=dict)

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Hook: remember the tensor at a wanted edge."""
        edge = (step.name, position)
        if edge not in self.edges or not value.is_floating_point():
            return value
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        elif step.reads[position] in self.shared:
            value = value.view_as(value)
        self.at_edge[edge] = self._index(value)
        return value

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        """Hook: remember what a wanted node or tensor is."""
        found = list(outputs)
        for i, name in enumerate(step.writes[: len(found)]):
            value, is_layer = found[i], i == 0 and step.name in self.layers
            if value is None or not value.is_floating_point() or not (name in self.written or is_layer):
                continue
            found[i] = value = value if value.requires_grad else value.detach().requires_grad_()
            index = self._index(value)
            if name in self.written:
                self.at_output[name] = index
            if is_layer:
                self.calls[step.name] = (step, [None if v is None else v.detach() for v in inputs], index)
        return tuple(found)

    def _index(self, value: torch.Tensor) -> int:
        if id(value) not in self._known:
            self._known[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._known[id(value)]


@dataclass(frozen=True, slots=True)
class Probed:
    """What one batch of samples showed.

    Attributes:
        record: the tensors, with their values.
        gradients: index of a tensor -> its gradient for every probe; a tensor that no output depends on is left out.
        samples: in the batch.
    """

    record: Recorder
    gradients: Mapping[int, Sequence[torch.Tensor]]
    samples: int

    @property
    def is_by_sample(self) -> bool:
        """Whether the first axis of every remembered tensor counts samples."""
        return all(t.ndim > 0 and t.shape[0] == self.samples for t in self.record.tensors)

    def project(self, index: int, change: torch.Tensor) -> torch.Tensor:
        """Return g . change for every sample and probe, float64 [samples, probes]."""
        right, gradients = self._flat(index, change)
        dots = [torch.dot(g[sample], right[sample]) for sample in range(self.samples) for g in gradients]
        return self._shaped(dots, 1)

    def project_rounding(
        self, index: int, value: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return g . (rounded(value) - value) for every sample and probe, float64 [samples, probes].

        It is computed in pieces that stay in the processor's cache: what rounding costs is memory traffic.

        Args:
            index: of the tensor.
            value: its values.
            rounded: rounds one piece, element by element, in a tensor of its own.
        """
        flat, gradients = self._flat(index, value)
        begins = range(0, flat.shape[1], _PIECE)
        dots = []
        for sample in range(self.samples if gradients else 0):
            for begin in begins:
                piece = flat[sample, begin : begin + _PIECE]
                change = rounded(piece).sub_(piece)
                dots += [torch.dot(g[sample, begin : begin + _PIECE], change) for g in gradients]
        return self._shaped(dots, len(begins))

    def _flat(self, index: int, value: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return a tensor and its gradients as [samples, elements], in one order whatever their strides."""
        axes = _memory_order(value)
        gradients = [g.permute(axes).reshape(self.samples, -1) for g in self.gradients.get(index, ())]
        return value.permute(axes).reshape(self.samples, -1), gradients

    def _shaped(self, dots: list[torch.Tensor], pieces: int) -> torch.Tensor:
        """Return the sums over pieces of what was computed sample by sample, piece by piece, probe by probe."""
        if not dots:
            return torch.zeros(self.samples, 1, dtype=torch.float64)
        return torch.stack(dots).double().reshape(self.samples, pieces, -1).sum(dim=1).cpu()


_PIECE = 1 << 17


def _memory_order(value: torch.Tensor) -> tuple[int, ...]:
    """Return the axes in the order of memory, so that channels-last tensors flatten without a copy."""
    return (0, 2, 3, 1) if value.ndim == 4 and not value.is_contiguous() else tuple(range(value.ndim))


def probe(
    graph: TorchGraph,
    feeds: Tensors,
    record: Recorder,
    *,
    samples: int,
    probes: int,
    outputs: Sequence[str],
    weights: OutputWeights,
    generator: torch.Generator,
    turns: int | None = None,
    piece: tuple[int, int] | None = None,
) -> Iterator[Probed]:
    """Run one batch forward and `probes` times backward, and yield what that shows.

    Where the gradients of all probes would be too large, they come in shares, one after the other.

    Args:
        graph: the float network; gradients of its parameters are not computed.
        feeds: one batch.
        record: empty; says what to remember.
        samples: in the batch.
        probes: random projections per sample.
        outputs: the outputs whose error counts.
        weights: of the squared error of their elements; the error of a sample is the weighted sum.
        generator: of the projections, on the CPU, so that every device draws the same ones.
        turns: probes of one share; None makes equal ones that `MOST_BYTES` hold.
        piece: (first sample, samples of the batch) where `feeds` are but a piece of a batch: projections are those that
            the batch has as a whole.
    """
    with torch.enable_grad():
        found = graph(feeds, record)
    ends = [(name, found[name]) for name in outputs if found[name].requires_grad]
    if not ends:
        yield Probed(record, {}, samples)
        return
    roots = [weights(name, value.detach()).sqrt() for name, value in ends]
    together = turns or turns_together(sum(t.nbytes for t in record.tensors), probes)
    first, whole = piece or (0, samples)
    for begin in range(0, probes, together):
        drawn: list[list[torch.Tensor]] = [[] for _ in record.tensors]
        for turn in range(begin, min(begin + together, probes)):
            shapes = [value.shape if piece is None else (whole, *value.shape[1:]) for _, value in ends]
            normal = [torch.randn(shape, generator=generator) for shape in shapes]
            if piece is not None:
                normal = [v[first : first + samples] for v in normal]
            seeds = [root * v.to(value) for root, v, (_, value) in zip(roots, normal, ends, strict=True)]
            made = torch.autograd.grad(
                [value for _, value in ends], record.tensors, seeds, retain_graph=turn < probes - 1, allow_unused=True
            )
            for place, gradient in zip(drawn, made, strict=True):
                if gradient is not None:
                    place.append(gradient)
            del made, place, gradient, seeds, normal  # or they keep gradients of a share that is done with
        yield Probed(record, {i: turns for i, turns in enumerate(drawn) if turns}, samples)

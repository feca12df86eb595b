"""The noise of every group and of the tensors between groups, told apart, from the projections of the one pass."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.analysis.locations import Edge, Locations, Whole, noisy_places
from fewbits.analysis.sensitivity import Noise
from fewbits.analysis.torch_deltas import Candidate
from fewbits.analysis.torch_projections import CONSTANTS, TRAINED, Projections

F64 = npt.NDArray[np.float64]
_Key = tuple[str, str, tuple[str, ...]]
"""(precision, kind, the group or its writer and itself)."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Where one group adds noise in one precision; key None stands for rounding to float16."""

    candidate: Candidate
    group: str
    layers: tuple[str, ...]
    written: Mapping[str, str | None]
    whole: Whole | None
    read: Mapping[str, Mapping[Edge, str | None]]


class NoiseSums:
    """Accumulates squared projections over batches.

    Args:
        graph: prepared.
        places: of every group.
        candidates: the precisions.
    """

    def __init__(self, graph: ir.Graph, places: Sequence[Locations], candidates: Sequence[Candidate]) -> None:
        owners = {node: place.group.name for place in places for node in place.group.nodes}
        writers = {str(v.name): owners.get(str(node.name), "") for node in graph for v in node.outputs}
        nodes = {str(node.name): node for node in graph}
        sources = {edge: nodes[edge[0]].inputs[edge[1]] for place in places for edge in place.edges}
        from_group = {edge: writers.get(str(value.name), "") for edge, value in sources.items() if value is not None}
        self._candidates = tuple(candidates)
        self._places = [_places(graph, c, place, from_group) for c in candidates for place in places]
        self._sums: dict[_Key, list[F64]] = {}

    @property
    def edges(self) -> frozenset[Edge]:
        """Inputs of nodes whose gradient is wanted."""
        return frozenset(edge for place in self._places for edges in place.read.values() for edge in edges)

    @property
    def outputs(self) -> frozenset[str]:
        """Tensors whose gradient is wanted."""
        return frozenset(name for place in self._places for name in place.written)

    def squares(self, seen: Projections) -> Iterator[tuple[_Key, F64]]:
        """Yield place -> squared projections, [samples, probes], of one batch, or of a part of it."""
        for place in self._places:
            for key, projections in _projected(seen, place):
                yield key, sum(projections, seen.nothing) ** 2

    def add(self, key: _Key, errors: Iterable[F64]) -> None:
        """Take in what the samples of a batch show at a place: squared projections, averaged over probes."""
        self._sums.setdefault(key, []).extend(errors)

    def found(self) -> dict[str, Noise]:
        """Return precision -> its noise."""
        means = {key: float(np.concatenate(values).mean()) for key, values in self._sums.items()}
        return {c.precision: _noise(means, c.precision) for c in self._candidates}


def _noise(means: Mapping[_Key, float], precision: str) -> Noise:
    mine = [(kind, groups, error) for (name, kind, groups), error in means.items() if name == precision]
    return Noise(
        own={groups[0]: error for kind, groups, error in mine if kind == "own"},
        written={groups[0]: error for kind, groups, error in mine if kind == "written"},
        read={(groups[0], groups[1]): error for kind, groups, error in mine if kind == "read"},
    )


def _projected(seen: Projections, place: _Places) -> Iterator[tuple[_Key, Iterable[F64]]]:
    candidate, name = place.candidate, place.group
    layers = (seen.layer(candidate, layer, TRAINED | CONSTANTS) for layer in place.layers)
    yield (candidate.precision, "own", (name,)), layers
    written = [seen.output(candidate, tensor, key) for tensor, key in place.written.items()]
    at_once = [] if place.whole is None else [seen.written(candidate, place.whole)]
    yield (candidate.precision, "written", (name,)), written + at_once
    for writer, edges in place.read.items():
        read = (seen.edge(candidate, edge, key) for edge, key in edges.items())
        yield (candidate.precision, "read", (writer, name)), read


def _places(graph: ir.Graph, candidate: Candidate, place: Locations, writers: Mapping[Edge, str]) -> _Places:
    noisy = noisy_places(graph, candidate.plan, place)
    read: dict[str, dict[Edge, str | None]] = {}
    for edge, key in noisy.edges.items():
        read.setdefault(writers[edge], {})[edge] = key
    return _Places(candidate, place.group.name, noisy.layers, noisy.outputs, noisy.whole, read)

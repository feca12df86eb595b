"""One-pass sensitivity: the output error that quantizing each group alone will cause, for all groups at once.

One forward and a few backward passes of the float network per batch give, for random projections v of the output,
the gradient g at every tensor. Whatever noise d a precision causes there, the square of the sum of g . d over the
places of a group, per sample and then averaged, estimates the output error of that group.

Source: Hutchinson's estimator of d' J' W J d; first order in d, so it says little about saturated nonlinearities.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fewbits.analysis.locations import Edge, Locations, Whole, locate, noisy_places
from fewbits.analysis.sensitivity import PARTS, Noise, Part, turns_together
from fewbits.analysis.torch_deltas import Candidate, Deltas
from fewbits.analysis.torch_noise import NoiseSums
from fewbits.analysis.torch_probe import Probed, Recorder, probe
from fewbits.analysis.torch_projections import CONSTANTS, TRAINED, Projections, read_by_softmax
from fewbits.analysis.torch_shares import Left, SampleSize, Shares, Squares, across_probes, means
from fewbits.errors import SpecError
from fewbits.numerics.channel_error import ChannelError
from fewbits.quantization.groups import Group
from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch
from fewbits.spec.plan import Plan

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


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
    """The error of `ChannelError` as weights of squared errors: their mean over `samples` is that error."""

    outputs: Mapping[str, ChannelError]
    samples: int

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Return the weights of one output's elements, broadcastable to it."""
        error = self.outputs[name]
        variance, layout = error.variance, [1] * value.ndim
        assert variance is not None
        scaled = self.samples / (len(self.outputs) * len(variance) * error.count * variance)
        if value.ndim > 1 and error.axis is not None and value.shape[error.axis] == len(variance):
            layout[error.axis] = len(variance)
            return torch.from_numpy(scaled).reshape(layout).to(value)
        return value.new_full(layout, float(scaled.mean()))  # one channel, or channels of changing number


@dataclass
class _Places:
    """What one candidate does at the places of one group."""

    edges: Mapping[Edge, str | None]
    outputs: Mapping[str, str | None]
    layers: tuple[str, ...]
    whole: Whole | None


class OnePass:
    """Accumulates the estimates over batches.

    Args:
        graph: prepared.
        module: the same graph as a torch module.
        groups: whose error is wanted.
        candidates: the precisions.
        outputs: the outputs whose error counts, with the variance of their channels: the error is `ChannelError`'s.
        samples: that the variance was taken over, and that will be added.
        probes: random projections per sample.
        seed: of the projections.
        with_noise: tell the noise between groups apart, too (see `noise`).
        left: says what memory may still be taken; None sets no limit. The figures are the same.
    """

    def __init__(
        self,
        graph: ir.Graph,
        module: TorchGraph,
        groups: Sequence[Group],
        candidates: Sequence[Candidate],
        *,
        outputs: Mapping[str, ChannelError],
        samples: int,
        probes: int,
        seed: int = 0,
        with_noise: bool = False,
        left: Left | None = None,
    ) -> None:
        self._module = module.requires_grad_(False)
        self._candidates = tuple(candidates)
        self._outputs, self._weights, self._probes = tuple(outputs), _ChannelWeights(outputs, samples), probes
        self._generator = torch.Generator().manual_seed(seed)
        self._groups = locate(graph, groups)
        self._places = {
            (c.precision, place.group.name): _places(graph, c.plan, place) for c in candidates for place in self._groups
        }
        uses = Counter(str(v.name) for node in graph for v in node.inputs if v is not None)
        uses.update(str(v.name) for v in graph.outputs)
        self._shared = frozenset(name for name, n in uses.items() if n > 1)
        self._deltas = Deltas(self._candidates, module)
        self._softmax = read_by_softmax(graph)
        self._left, self._may_split, self._size, self._fed = left, False, SampleSize(0.0, 0.0), 0.0
        self._sums: dict[tuple[str, str, Part], list[F64]] = {}
        self._noise = NoiseSums(graph, self._groups, self._candidates) if with_noise else None

    def counts_samples(self, feeds: Mapping[str, npt.NDArray[np.generic]], samples: int) -> bool:
        """Whether the first axis of every tensor is as long as there are samples.

        Asked for one sample besides the whole batch, it tells batches from an axis that is by chance as long.
        """
        record = self._recorder()
        with torch.no_grad():
            made = self._module(feeds_to_torch(feeds, self._module.device), record)
        is_by_sample = Probed(record, {}, samples).is_by_sample
        ends = (made[name] for name in self._outputs)
        self._may_split = is_by_sample and all(end.ndim > 0 and len(end) == samples for end in ends)
        there = {t.data_ptr(): float(t.nbytes) for t in record.tensors}
        self._size = SampleSize.of(list(there.values()), sum(t.nbytes for t in record.tensors))
        self._fed = sum(x.nbytes for x in feeds.values()) / samples
        return is_by_sample

    def add(self, feeds: Mapping[str, npt.NDArray[np.generic]], samples: int) -> bool:
        """Take one batch in; False, and nothing is taken, where the first axis of a tensor does not count samples."""
        shares, state = self._shares(feeds, samples), self._generator.get_state()
        found: dict[tuple[Any, ...], list[F64]] = {}
        size = 0
        for first, count in shares.pieces():
            record, turns = self._recorder(), []
            self._generator.set_state(state)
            part = feeds if count == samples else {name: x[first : first + count] for name, x in feeds.items()}
            for probed in probe(
                self._module, feeds_to_torch(part, self._module.device), record, samples=count, probes=self._probes,
                outputs=self._outputs, weights=self._weights, generator=self._generator, turns=shares.turns,
                piece=None if count == samples else (first, samples),
            ):  # fmt: skip
                if samples > 1 and not probed.is_by_sample:
                    return False
                with torch.no_grad():
                    turns.append(self._squares(probed))
                del probed  # or its gradients stay while those of the next share are computed
            size += sum(t.nbytes for t in record.tensors)
            del record
            for key, squares in across_probes(turns, shares).items():
                found.setdefault(key, []).append(squares)
        self._take(found, turns_together(size, self._probes))
        return True

    def _shares(self, feeds: Mapping[str, npt.NDArray[np.generic]], samples: int) -> Shares:
        """Return what of a batch is done at once."""
        if self._left is None:
            return Shares(samples, samples, self._probes)
        factor = sum(x.nbytes for x in feeds.values()) / (max(self._fed, 1.0) * (samples if self._may_split else 1))
        size = SampleSize(self._size.held * factor, self._size.gradients * factor)
        if self._may_split:
            return Shares.within(self._left(), size, samples, self._probes)
        return replace(Shares.within(self._left(), size, 1, self._probes), samples=samples, piece=samples)

    def _take(self, found: Mapping[tuple[Any, ...], list[F64]], together: int) -> None:
        """Take in the squares of all pieces of a batch, averaged over `together` probes at a time."""
        for key, pieces in found.items():
            errors = means(np.concatenate(pieces), together)
            if self._noise is not None and len(key) == 2:
                self._noise.add(key[1], errors)
            else:  # one value per sample, or its deviation would take probes of one sample for samples
                self._sums.setdefault((key[0], key[1], key[2]), []).append(np.mean(errors, axis=0))

    def _recorder(self) -> Recorder:
        places, noise = self._places.values(), self._noise
        return Recorder(
            frozenset(edge for p in places for edge in p.edges) | (noise.edges if noise else frozenset()),
            frozenset(name for p in places for name in p.outputs) | (noise.outputs if noise else frozenset()),
            frozenset(name for p in places for name in (*p.layers, *(p.whole.names if p.whole else ()))),
            self._shared,
        )

    def _squares(self, probed: Probed) -> Squares:
        """Return (group, precision, part), or ("noise", a place) -> squared projections, [samples, probes]."""
        seen = Projections(probed, self._deltas, self._softmax)
        found: dict[tuple[Any, ...], F64] = {}
        for candidate in self._candidates:
            for place in self._groups:
                mine = self._places[candidate.precision, place.group.name]
                weights = sum((seen.layer(candidate, name, TRAINED) for name in mine.layers), seen.nothing)
                head = mine.whole.head if mine.whole else ""
                constants = (seen.layer(candidate, name, CONSTANTS) for name in mine.layers if name != head)
                data = sum(constants, seen.nothing if mine.whole is None else seen.whole(candidate, mine.whole))
                data = sum((seen.edge(candidate, edge, key) for edge, key in mine.edges.items()), data)
                data = sum((seen.output(candidate, name, key) for name, key in mine.outputs.items()), data)
                for part, projection in zip(PARTS, (weights + data, weights, data), strict=True):
                    found[place.group.name, candidate.precision, part] = projection**2
        if self._noise is not None:
            found |= {("noise", key): squares for key, squares in self._noise.squares(seen)}
        return found

    def estimates(self) -> dict[tuple[str, str, Part], tuple[float, float]]:
        """Return (group, precision, part) -> (relative output error, its relative standard deviation)."""
        return {key: _mean(np.concatenate(values)) for key, values in self._sums.items()}

    def noise(self) -> dict[str, Noise]:
        """Return precision -> where its noise arises; empty where that was not asked for."""
        return {} if self._noise is None else self._noise.found()


def _mean(values: F64) -> tuple[float, float]:
    mean = float(values.mean())
    if mean <= 0 or len(values) < 2:
        return mean, 0.0 if mean <= 0 else float("inf")
    return mean, float(values.std(ddof=1) / np.sqrt(len(values)) / mean)


def _places(graph: ir.Graph, plan: Plan, place: Locations) -> _Places:
    """Return what a plan changes at the places of a group; key None stands for rounding to float16."""
    noisy = noisy_places(graph, plan, place)
    edges = {edge: key for edge, key in noisy.edges.items() if noisy.whole is None or edge[0] != noisy.whole.head}
    return _Places(edges, noisy.outputs, noisy.layers, noisy.whole)

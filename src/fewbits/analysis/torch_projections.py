"""What the grids of a precision change in a probed batch, projected on the output: one figure per sample and probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fewbits.analysis.locations import Edge, Whole
from fewbits.analysis.torch_deltas import Candidate, Deltas, grid_of
from fewbits.analysis.torch_probe import Probed
from fewbits.quantization.observe import seen_by_softmax
from fewbits.runtime.torch_graph import Step
from fewbits.runtime.torch_quantize import as_half
from fewbits.spec.dtypes import PerTensor
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Role

F64 = npt.NDArray[np.float64]

TRAINED = frozenset({Role.WEIGHT, Role.BIAS})
CONSTANTS = frozenset({Role.CONSTANT})
"""They have the width of activations, with which they are added or multiplied, and count with them."""


class _Project(Protocol):
    """Projects a change behind the head of a group, given what the head makes and the grid that the group writes."""

    __name__: str

    def __call__(self, made: torch.Tensor, place: Whole, grid: Encoding | None) -> F64: ...


def read_by_softmax(graph: ir.Graph) -> dict[str, tuple[Edge, int]]:
    """Return tensors that nothing but a Softmax reads -> (its edge, its axis)."""
    found = {}
    for node in graph:
        source = node.inputs[0] if node.op_type == "Softmax" else None
        if source is not None and len(list(source.uses())) == 1 and not source.is_graph_output():
            found[str(source.name)] = ((str(node.name), 0), node.attributes.get_int("axis", -1))
    return found


def _computed(step: Step, inputs: Sequence[torch.Tensor | None]) -> torch.Tensor:
    results = step.operator(step.call, inputs)
    made = results[0] if isinstance(results, tuple) else results
    assert made is not None
    return made


@dataclass
class Projections:
    """Projections of one batch, each computed once: precisions share grids, and an edge its producer's tensor."""

    probed: Probed
    deltas: Deltas
    softmax: Mapping[str, tuple[Edge, int]]
    known: dict[tuple[int, object], F64] = field(default_factory=dict)

    @property
    def nothing(self) -> F64:
        """No change: zeros, broadcastable to [samples, probes]."""
        return np.zeros((self.probed.samples, 1))

    def edge(self, candidate: Candidate, edge: Edge, key: str | None) -> F64:
        """Project what a grid (None: float16) changes for one reader of a tensor."""
        index = self.probed.record.at_edge.get(edge)
        return self.nothing if index is None else self._tensor(candidate, index, key)

    def output(self, candidate: Candidate, name: str, key: str | None) -> F64:
        """Project what a grid (None: float16) changes of a tensor as it is written, for all its readers."""
        index = self.probed.record.at_output.get(name)
        return self.nothing if index is None else self._tensor(candidate, index, key)

    def layer(self, candidate: Candidate, name: str, roles: frozenset[Role]) -> F64:
        """Project what the candidate's parameters of some roles change at the raw output of a layer."""
        call = self.probed.record.calls.get(name)
        parameters = self.deltas.parameters(candidate, name, roles)
        if call is None or not parameters:
            return self.nothing
        step, inputs, index = call
        changed = {position: parameter.value for position, parameter in parameters.items()}
        kind = ("layer", name, tuple((position, parameter.kind) for position, parameter in parameters.items()))
        if (index, kind) not in self.known:
            given = [changed.get(i, value) for i, value in enumerate(inputs)]
            made = _computed(step, given)
            self.known[index, kind] = self.probed.project(index, made.sub_(self.probed.record.tensors[index])).numpy()
        return self.known[index, kind]

    def whole(self, candidate: Candidate, place: Whole) -> F64:
        """Project what the candidate's grids change at the output of a group that is computed at once."""
        return self._at_once(candidate, place, self._changed)

    def written(self, candidate: Candidate, place: Whole) -> F64:
        """Project what writing changes there: nothing where the values are on its grid, given the grids read."""
        return self._at_once(candidate, place, self._rewritten)

    def _at_once(self, candidate: Candidate, place: Whole, project: _Project) -> F64:
        """Compute a group's head on what the candidate's grids make of its inputs, and project a change behind it."""
        calls = self.probed.record.calls
        if place.head not in calls:
            return self.nothing
        step, inputs, index = calls[place.head]
        plan, encodings = candidate.plan, candidate.encodings
        grids = {i: encodings[key] for i in range(len(inputs)) if (key := plan.inputs.get((place.head, i))) is not None}
        last = calls[place.follower][0] if place.follower in calls else step
        out = plan.outputs.get(last.writes[0])
        read = tuple((i, grid_of(e)) for i, e in grids.items())
        kind = (project.__name__, place, read, out and grid_of(encodings[out]))
        if (index, kind) not in self.known:
            constants = self.deltas.parameters(candidate, place.head, CONSTANTS)
            trained = self.deltas.parameters(candidate, place.head, TRAINED)
            given = list(inputs)
            for i, value in enumerate(inputs):
                if i in constants:
                    given[i] = constants[i].value
                elif i in grids and i not in trained and value is not None:
                    given[i] = Deltas.rounded(value, grids[i])
            self.known[index, kind] = project(_computed(step, given), place, encodings[out] if out else None)
        return self.known[index, kind]

    def _changed(self, made: torch.Tensor, place: Whole, grid: Encoding | None) -> F64:
        """Project the outputs of head and follower, given what the head makes; `grid` is that of the last of them."""
        record = self.probed.record
        index = record.calls[place.head][2]
        found = self.nothing
        if place.follower in record.calls:
            found = self.probed.project(index, made - record.tensors[index]).numpy()
            follower, inputs, index = record.calls[place.follower]
            made = before = _computed(follower, (made, *inputs[1:]))
        else:
            before = record.tensors[index]
        made = made if grid is None else Deltas.rounded(made, grid)
        total: F64 = found + self.probed.project(index, made - before).numpy()
        return total

    def _rewritten(self, made: torch.Tensor, place: Whole, grid: Encoding | None) -> F64:
        """Project what `grid` changes of what head and follower write, given what the head makes."""
        calls = self.probed.record.calls
        index = calls[place.head][2]
        if place.follower in calls:
            follower, inputs, index = calls[place.follower]
            made = _computed(follower, (made, *inputs[1:]))
        return self.nothing if grid is None else self._rounded(index, self._seen(index, made), grid)

    def _seen(self, index: int, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor as its readers see it: what vanishes in a Softmax does not matter, and is not noise."""
        record = self.probed.record
        for name, (edge, axis) in self.softmax.items():
            if index in (record.at_output.get(name), record.at_edge.get(edge)):
                return torch.from_numpy(seen_by_softmax(value.cpu().numpy(), axis)).to(value)
        return value

    def _tensor(self, candidate: Candidate, index: int, key: str | None) -> F64:
        kind: object = "fp16" if key is None else grid_of(candidate.encodings[key])
        if (index, kind) not in self.known:
            value = self._seen(index, self.probed.record.tensors[index].detach())
            self.known[index, kind] = self._rounded(index, value, None if key is None else candidate.encodings[key])
        return self.known[index, kind]

    def _rounded(self, index: int, value: torch.Tensor, encoding: Encoding | None) -> F64:
        if encoding is not None and not isinstance(encoding.spec.granularity, PerTensor):
            return self.probed.project(index, Deltas.rounded(value, encoding).sub_(value)).numpy()
        return self.probed.project_rounding(index, value, _rounding(encoding)).numpy()


def _rounding(encoding: Encoding | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what rounds to a grid with one scale, or to float16."""
    return as_half if encoding is None else partial(Deltas.rounded, encoding=encoding)

"""What the precisions of a network make of its values and parameters, in torch."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fewbits.runtime.torch_graph import TorchGraph
from fewbits.runtime.torch_quantize import FakeQuantizer, as_half
from fewbits.spec.dtypes import PerTensor
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16

F32 = npt.NDArray[np.float32]


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


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """What a candidate makes of one input of a node; `kind` is equal for candidates that make the same of it."""

    role: Role
    kind: object
    value: torch.Tensor


class Deltas:
    """What candidates make of values and parameters."""

    def __init__(self, candidates: Iterable[Candidate], module: TorchGraph) -> None:
        self._values = {name: parameter.detach() for name, parameter in module.named_parameters()}
        self._reads = {step.name: step.reads for step in module.steps}
        self._by_node: dict[tuple[str, str], dict[int, Parameter]] = {}
        made: dict[object, torch.Tensor] = {}
        for candidate in candidates:
            for (node, position), key in candidate.plan.inputs.items():
                name, role = self._reads[node][position], candidate.plan.grids[key].role
                if name not in self._values or role is Role.ACTIVATION:
                    continue
                kind = (name, self._kind(candidate, key))
                if kind not in made:
                    made[kind] = self._parameter(candidate, key, name)
                self._note(candidate, node, position, Parameter(role, kind, made[kind]))
            self._add_halves(candidate, made)

    def _add_halves(self, candidate: Candidate, made: dict[object, torch.Tensor]) -> None:
        for node, plan in candidate.plan.nodes.items():
            if plan.precision != FP16:
                continue
            for position, name in enumerate(self._reads[node]):
                if name in self._values and self._values[name].dtype == torch.float32:
                    kind = (name, "fp16")
                    made.setdefault(kind, as_half(self._values[name]))
                    self._note(candidate, node, position, Parameter(Role.WEIGHT, kind, made[kind]))

    def _note(self, candidate: Candidate, node: str, position: int, parameter: Parameter) -> None:
        self._by_node.setdefault((candidate.precision, node), {})[position] = parameter

    def parameters(self, candidate: Candidate, node: str, roles: Container[Role]) -> dict[int, Parameter]:
        """Return input position -> what the candidate makes of the constant there, for those of some roles."""
        known = self._by_node.get((candidate.precision, node), {})
        return {position: parameter for position, parameter in known.items() if parameter.role in roles}

    def _kind(self, candidate: Candidate, key: str) -> object:
        if candidate.plan.grids[key].role is Role.BIAS:  # rounding to int32 is far below all other noise
            stored = candidate.biases.get(key)
            return None if stored is None else stored.tobytes()
        return grid_of(candidate.encodings[key])

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


def grid_of(encoding: Encoding) -> tuple[object, ...]:
    """Return what is equal for equal grids."""
    return (encoding.spec, encoding.scale.tobytes(), encoding.zero_point.tobytes())

"""The plan: which grid every tensor gets, for which reader, and why the others get none."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from fewbits.spec.dtypes import QuantSpec
from fewbits.spec.precision import Precision


class Role(Enum):
    """What a gridded tensor is to the network."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    CONSTANT = "constant"
    BIAS = "bias"


@dataclass(frozen=True, slots=True)
class Grid:
    """One grid of the plan.

    Attributes:
        tensor: name of the float tensor in the graph.
        spec: container, width, symmetry, granularity.
        role: activation, weight, constant or bias.
        shares: key of the grid whose encoding this one copies (values are passed through), or None.
        fixed_range: (low, high) that the operator guarantees, or None.
        converts: key of the grid of the same tensor that this one is converted from, or None.
        scaled_by: for a bias, the keys of the input's and the weight's grid whose scales it multiplies.
        node: for a bias, the name of the node that adds it.
        headroom: how much larger the scale is than the range needs, so that the highest codes stay unused.
    """

    tensor: str
    spec: QuantSpec
    role: Role
    shares: str | None = None
    fixed_range: tuple[float, float] | None = None
    converts: str | None = None
    scaled_by: tuple[str, str] | None = None
    node: str = ""
    headroom: float = 1.0


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Precision of one node, and the reason when it stays in float32."""

    op: str
    precision: Precision
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything insertion needs to know; derived from graph, profile and target, never edited.

    Attributes:
        target: name of the target it was made for.
        nodes: node name -> precision (with a reason when float32).
        grids: grid key -> grid. The key is the tensor's own name for its first grid.
        inputs: (node name, input position) -> key of the grid that this reader sees.
        outputs: tensor name -> key of the grid that its producer writes.
        reasons: float tensor name -> why it has no grid.
    """

    target: str
    nodes: Mapping[str, NodePlan]
    grids: Mapping[str, Grid]
    inputs: Mapping[tuple[str, int], str]
    outputs: Mapping[str, str]
    reasons: Mapping[str, str]

    def source(self, key: str) -> str:
        """Return the key of the grid whose statistics decide the encoding of `key` (follows `shares`)."""
        while (shared := self.grids[key].shares) is not None:
            key = shared
        return key

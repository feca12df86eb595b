"""Grids that someone chose already: read from an encodings file or from a QDQ model, before there is a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewbits.spec.encodings import Encoding

Edge = tuple[str, int]
"""(node name, input position)."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenGrids:
    """Encodings by key, and what their source says of their use.

    Attributes:
        encodings: key -> encoding. The key of the first grid of a tensor is the tensor's name.
        tensors: key -> float tensor, for keys that are not the tensor's name.
        readers: key -> the edges that see this grid; a key that is missing is seen by every reader of its tensor.
        conversions: keys whose grid takes its values from the tensor's own grid, not from the float tensor.
        halves: tensors that are computed or stored in float16.
        source: what messages call it.
    """

    encodings: Mapping[str, Encoding]
    tensors: Mapping[str, str] = field(default_factory=dict)
    readers: Mapping[str, tuple[Edge, ...]] = field(default_factory=dict)
    conversions: frozenset[str] = frozenset()
    halves: frozenset[str] = frozenset()
    source: str = "the encodings"

    def tensor(self, key: str) -> str:
        """Return the float tensor whose grid `key` is."""
        return self.tensors.get(key, key)

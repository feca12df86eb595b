"""Costs: what every group of a network costs in each precision, and what a change of activation type between two costs.

The contract between cost models, which fill it in, and searches for mixed precision, which spend it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from fewbits.errors import SpecError
from fewbits.quantization.resolve import activation_spec
from fewbits.spec.precision import Precision

Pair = tuple[str, str]
"""(writer, reader): names of two groups, or the types of their activations."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """What each group costs in each precision, and what a change of activation type between two groups costs.

    Attributes:
        name: of the model, such as "bitops".
        unit: such as "bit operations", "bytes", "us".
        groups: group name -> precision name -> cost per sample. A precision that a group cannot have is absent.
        conversions: (writer group, reader group) -> cost of one conversion of what passes between them, charged where
            their activations differ in type (see `activation_type`). A writer "" stands for what comes from outside of
            all groups; that is never charged, since it arrives as the reader wants it.
        fixed: cost of what is in no group.
        is_estimate: whether the total of a profile is a prediction, not a count.
        typed: (type written, type read) -> (writer group, reader group) -> cost, where the types matter; it stands
            before `conversions`, which then hold the mean over the types.
        whole: measures, or has estimated, the network in a profile as a whole; None where totals are exact. It returns
            None for a profile that cannot be estimated.
    """

    name: str
    unit: str
    groups: Mapping[str, Mapping[str, float]]
    conversions: Mapping[Pair, float]
    fixed: float
    is_estimate: bool
    typed: Mapping[Pair, Mapping[Pair, float]] = field(default_factory=dict)
    whole: Callable[[Mapping[str, str]], float | None] | None = None

    def total(self, profile: Mapping[str, str]) -> float:
        """Return what the network costs in a profile.

        Args:
            profile: group name -> precision name, for every group.

        Raises:
            SpecError: a group is unknown or missing, or cannot have its precision.
        """
        unknown = next((name for name in profile if name not in self.groups), None)
        if unknown is not None:
            raise SpecError(f"The network has no group {unknown!r}: groups are named by their first node.")
        own = sum(self._own(name, profile) for name in self.groups)
        return self.fixed + own + self.converting(profile)

    def converting(self, profile: Mapping[str, str]) -> float:
        """Return the part of `total` that conversions make up; groups may be missing."""
        pairs = ((w, r) for w, r in self.conversions if w in profile and r in profile)
        return sum(self.conversion((w, r), (profile[w], profile[r])) for w, r in pairs)

    def conversion(self, pair: Pair, precisions: Pair) -> float:
        """Return what passing tensors between two groups costs beyond what each of them costs.

        Args:
            pair: (writer group, reader group).
            precisions: of the two.
        """
        types = activation_type(precisions[0]), activation_type(precisions[1])
        if types[0] == types[1]:
            return 0.0
        usual = self.conversions.get(pair, 0.0)
        return self.typed[types].get(pair, usual) if types in self.typed else usual

    def _own(self, group: str, profile: Mapping[str, str]) -> float:
        precision = profile.get(group)
        if precision is None:
            raise SpecError(f"The profile names no precision for group {group!r}: name one for every group.")
        known = self.groups[group]
        if precision not in known:
            raise SpecError(
                f"Group {group!r} has no cost in {precision} ({self.name} knows it in {', '.join(known) or 'none'}): "
                f"choose another precision for it."
            )
        return known[precision]


@cache
def activation_type(precision: str) -> str:
    """Return the type in which activations of a precision travel: uint8, uint16, fp16 or fp32.

    >>> activation_type("w4a8"), activation_type("w8a4"), activation_type("w4a16"), activation_type("fp16")
    ('uint8', 'uint8', 'uint16', 'fp16')
    """
    parsed = Precision.parse(precision)
    return str(parsed) if parsed.is_float else activation_spec(parsed).dtype.value

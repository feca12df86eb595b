"""Sensitivity: how much the output of the network degrades when one group is quantized, whoever measured it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fewbits.errors import SpecError
from fewbits.quantization.groups import Group

Part = Literal["all", "weights", "activations"]
PARTS: tuple[Part, ...] = ("all", "weights", "activations")
MOST_BYTES = 1 << 29
"""Gradients that are kept at a time, unless those of one probe alone are larger."""
HELD, COPIES = 1.25, 6
"""What a forward pass keeps, relative to all tensors; what works on one tensor at a time, relative to the largest."""
FIRST_BYTES = 50_000_000
"""What torch keeps once its operators and their gradients have run, beyond what importing it takes."""
_Z95 = 1.96  # standard deviations on either side that hold 95 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Figure:
    """What one group in one precision costs.

    Attributes:
        error: of the network's output when this group alone is quantized, relative (see `RelativeOutputError`); or the
            drop of the user's score.
        deviation: standard deviation of the estimate, relative to it; 0 where the error was measured.
    """

    error: float
    deviation: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """The error in dB: -10 log10(error); inf without any, -inf for an infinite one."""
        return _db(self.error)

    @property
    def interval_db(self) -> tuple[float, float]:
        """95 % interval of `sqnr_db`, (low, high); the high end is inf where the interval reaches an error of 0."""
        spread = _Z95 * self.deviation
        if self.error <= 0 or spread <= 0 or math.isinf(self.error):
            return self.sqnr_db, self.sqnr_db
        return _db(self.error * (1 + spread)), _db(self.error * (1 - spread))


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Where the noise of one precision arises, each part as the output error that it causes alone.

    Attributes:
        own: group -> error of rounding its weights and constants.
        written: group -> error of rounding the tensors that it writes, for all their readers.
        read: (writer, reader), two groups -> error of rounding what passes between them, at that reader alone; the
            writer is "" for what comes from outside of all groups, such as the network's input.
    """

    own: Mapping[str, float]
    written: Mapping[str, float]
    read: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """The sensitivity of every group of a network in every precision asked for.

    Attributes:
        method: "one-pass", "brute-force", or how else it was found.
        groups: in the graph's order.
        precisions: names, in the order asked for.
        samples: how many were run.
        probes: random projections per sample; 0 for brute force.
        outputs: names of the outputs whose error counts.
        figures: (group name, precision, part) -> figure; the parts "weights" and "activations" may be absent.
        measured: (group name, precision) -> error that a real run confirmed, where one was made.
        metric: the user's metric, where errors are drops of its score; empty where they are relative errors.
        noise: precision -> where its noise arises; empty where that was not asked for or cannot be told.
    """

    method: str
    groups: tuple[Group, ...]
    precisions: tuple[str, ...]
    samples: int
    probes: int
    outputs: tuple[str, ...]
    figures: Mapping[tuple[str, str, Part], Figure]
    measured: Mapping[tuple[str, str], float] = field(default_factory=dict)
    metric: str = ""
    noise: Mapping[str, Noise] = field(default_factory=dict)

    def error(self, group: str, precision: str) -> float:
        """Return the relative output error of one group, by name: the measured one where there is one.

        Raises:
            SpecError: the sensitivity holds no such group or precision.
        """
        if (group, precision) in self.measured:
            return self.measured[group, precision]
        return self.figure(group, precision).error

    def figure(self, group: str, precision: str, part: Part = "all") -> Figure:
        """Return the figure of one group, by name.

        Raises:
            SpecError: the sensitivity holds no such group, precision or part.
        """
        if (group, precision, part) not in self.figures:
            raise SpecError(
                f"The sensitivity has no figure for part {part!r} of group {group!r} in {precision!r}: it was found "
                f"for {', '.join(self.precisions)} on {len(self.groups)} groups. Measure it for this precision, too."
            )
        return self.figures[group, precision, part]

    def confirmed(self, measured: Mapping[tuple[str, str], float]) -> "Sensitivity":
        """Return the same with errors that real runs confirmed: (group name, precision) -> error."""
        return replace(self, measured={**self.measured, **measured})

    def ranked(self, precision: str, part: Part = "all") -> tuple[str, ...]:
        """Return the names of all groups, the most sensitive first; equals stay in the graph's order.

        Raises:
            SpecError: the sensitivity holds no such precision or part.
        """
        names = [group.name for group in self.groups]
        if part == "all":
            errors = {name: self.error(name, precision) for name in names}
        else:
            errors = {name: self.figure(name, precision, part).error for name in names}
        return tuple(sorted(names, key=lambda name: -errors[name]))


def _db(error: float) -> float:
    if error <= 0:
        return math.inf
    return -math.inf if math.isinf(error) else -10.0 * math.log10(error)


def turns_together(size: float, probes: int) -> int:
    """Return for how many probes at a time gradients are kept: a divisor of `probes`.

    Args:
        size: bytes of the tensors that have one.
        probes: in all.
    """
    return next(n for n in range(probes, 0, -1) if probes % n == 0 and (n == 1 or n * size <= MOST_BYTES))

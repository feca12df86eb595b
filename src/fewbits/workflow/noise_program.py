"""Predicted error and cost of a choice of precisions, as amounts of an integer program.

A tensor that passes from one group to another is rounded once where both use one grid. So the noise of reading is a
penalty: charged where the reader takes a precision, unless the writer takes one that hands over on its grid. So is a
conversion: charged where the writer takes one type of activation, unless the reader takes it, too.

What differs between several is charged in steps, from the least up: so the penalties of a pair are as tight as can be.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fewbits.analysis.costs import Pair
from fewbits.analysis.sensitivity import Noise
from fewbits.workflow.integer_program import F64, I64, Amount, Program


@dataclass(frozen=True, slots=True)
class Passing:
    """What becomes of a tensor between two groups.

    Attributes:
        kind: precision -> the type that its activations travel in; within one nothing is converted.
        hands_over: (precision written, precision read) -> whether reading adds no noise; equal for all of a type.
    """

    kind: Callable[[str], str]
    hands_over: Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, eq=False)
class NoiseProgram:
    """An integer program over groups and precisions.

    Attributes:
        program: the program.
        choices: (group, precision) of each choice, group by group.
        error: the predicted error.
        conversions: what conversions cost.
    """

    program: Program
    choices: tuple[tuple[str, str], ...]
    error: Amount
    conversions: Amount

    def single(self, figure: Callable[[str, str], float]) -> Amount:
        """Return the amount that adds up a figure of (group, precision)."""
        figures = np.array([figure(*choice) for choice in self.choices], dtype=np.float64)
        return Amount(figures, np.zeros(self.program.penalties))

    def profile(self, chosen: I64) -> dict[str, str]:
        """Return group -> precision."""
        return dict(self.choices[index] for index in chosen)

    def chosen(self, profile: Mapping[str, str]) -> I64:
        """Return the choices of a profile that holds all groups."""
        return np.array([i for i, (group, precision) in enumerate(self.choices) if profile[group] == precision])


@dataclass(frozen=True, slots=True)
class _Penalty:
    when: Sequence[int]
    unless: Sequence[int]
    error: float = 0.0
    cost: float = 0.0


def noise_program(
    candidates: Mapping[str, Sequence[str]],
    noise: Mapping[str, Noise],
    passing: Passing,
    conversions: Mapping[Pair, Callable[[Pair], float]] | None = None,
) -> NoiseProgram:
    """Return the program of a network.

    Args:
        candidates: group -> precisions that it may take.
        noise: precision -> where its noise arises; what is absent is 0.
        passing: what becomes of a tensor between two groups.
        conversions: (writer, reader) -> cost by their precisions, the same for all of a type, 0 within one; pairs of
            others than groups are left out.
    """
    choices = tuple((group, precision) for group, names in candidates.items() for precision in names)
    columns: dict[str, dict[str, int]] = defaultdict(dict)
    for index, (group, precision) in enumerate(choices):
        columns[group][precision] = index
    single = np.array([noise[p].own.get(g, 0.0) + noise[p].written.get(g, 0.0) for g, p in choices])
    penalties: list[_Penalty] = []
    for (writer, reader), errors in _reads(noise, columns).items():
        if writer in columns:
            penalties += _noise_penalties(columns[writer], columns[reader], errors, passing)
        else:
            for precision, error in errors.items():
                single[columns[reader][precision]] += error
    for (writer, reader), cost in (conversions or {}).items():
        if writer in columns and reader in columns and writer != reader:
            penalties += _conversion_penalties(columns[writer], columns[reader], cost, passing)
    return _assembled(choices, single, penalties)


def _reads(noise: Mapping[str, Noise], columns: Mapping[str, Mapping[str, int]]) -> dict[Pair, dict[str, float]]:
    """Return (writer, reader) -> precision -> noise of reading, where there is any."""
    found: dict[Pair, dict[str, float]] = {}
    for precision, of_precision in noise.items():
        for (writer, reader), error in of_precision.read.items():
            if writer != reader and error and precision in columns.get(reader, {}):
                found.setdefault((writer, reader), {})[precision] = error
    return found


def _noise_penalties(
    writer: Mapping[str, int], reader: Mapping[str, int], errors: Mapping[str, float], passing: Passing
) -> Iterator[_Penalty]:
    """Yield what reading is charged: per type, a penalty per step in error among its precisions."""
    for precisions in _by_kind(errors, passing).values():
        unless = [choice for precision, choice in writer.items() if passing.hands_over(precision, precisions[0])]
        if len(unless) == len(writer):
            continue
        rising = sorted(precisions, key=lambda precision: errors[precision])
        for index, step in _steps([errors[precision] for precision in rising]):
            yield _Penalty([reader[precision] for precision in rising[index:]], unless, error=step)


def _conversion_penalties(
    writer: Mapping[str, int], reader: Mapping[str, int], cost: Callable[[Pair], float], passing: Passing
) -> Iterator[_Penalty]:
    """Yield what conversion is charged: per type written, a penalty per step in cost among the types read."""
    read = list(_by_kind(reader, passing).values())
    for written in _by_kind(writer, passing).values():
        costs = sorted(((cost((written[0], names[0])), names) for names in read), key=lambda pair: pair[0])
        for index, step in _steps([each for each, _ in costs]):
            unless = [reader[name] for _, names in costs[:index] for name in names]
            yield _Penalty([writer[name] for name in written], unless, cost=step)


def _by_kind(precisions: Iterable[str], passing: Passing) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for precision in precisions:
        found[passing.kind(precision)].append(precision)
    return found


def _steps(rising: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield (index, by how much more this is than the one before), where it is more."""
    for index, (before, value) in enumerate(pairwise([0.0, *rising])):
        if value > before:
            yield index, value - before


def _assembled(choices: tuple[tuple[str, str], ...], single: F64, penalties: Sequence[_Penalty]) -> NoiseProgram:
    order = {group: index for index, group in enumerate(dict(choices))}
    program = Program(
        owners=np.array([order[group] for group, _ in choices], dtype=np.int64),
        when=_pairs([penalty.when for penalty in penalties]),
        unless=_pairs([penalty.unless for penalty in penalties]),
        penalties=len(penalties),
    )
    error = Amount(single, np.array([penalty.error for penalty in penalties]))
    conversions = Amount(np.zeros(len(choices)), np.array([penalty.cost for penalty in penalties]))
    return NoiseProgram(program, choices, error, conversions)


def _pairs(choices: Sequence[Sequence[int]]) -> I64:
    """Return [2, n]: (penalty, choice)."""
    pairs = [(row, choice) for row, those in enumerate(choices) for choice in those]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T

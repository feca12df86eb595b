"""One choice per group: the least of one amount within limits of others, found exactly as an integer program.

    minimize    sum over choices    single[c] x[c]
              + sum over penalties  joint[j] z[j],      z[j] >= x over when[j] - x over unless[j],  0 <= z <= 1
    subject to  x of the choices of each group add up to 1; such sums of other amounts stay within their limits

A penalty is charged where a choice of `when` is taken and none of `unless`. Solved by scipy's interface to HiGHS.

Amounts span many powers of ten, more than a solver's tolerances: 1e-6 on feasibility, integers and the objective. So
what exceeds a limit alone, or an answer known already, is ruled out first, limits count from the least that each group
can take, the rest is scaled to 1, and where the answer is far below the scale it is sought again on its own. Last, the
choice of single groups is improved and limits are checked in plain arithmetic. Unless HiGHS is stopped by its time
limit, the answer depends on nothing but the arguments: it runs with a fixed seed, and ties go to the earlier choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import SpecError
from fewbits.runtime.quiet import native_output_dropped

if TYPE_CHECKING:
    from scipy.sparse import csr_array

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_CUT_SHORT, _INFEASIBLE = 1, 2  # scipy.optimize.milp's status
_SLIP = 1e-9  # relative: by this a sum may exceed its limit
_TINY = 1e-9  # of the scale: what HiGHS drops
_TIGHTER = (0.0, 3e-6)  # of a limit's room: HiGHS lets rows slip by 1e-6
_BETTER, _ALIKE = 1e-12, 1e-15  # of the goal
_SAME_SCALE = 0.1  # of the scale: an answer below is sought again
_ROUNDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The choices of every group, and what is charged for two choices together.

    Attributes:
        owners: [choices], the group of each, from 0 and rising.
        when: [2, n], rows (penalty, choice).
        unless: [2, m], rows (penalty, choice), of another group than `when`.
        penalties: how many.
    """

    owners: I64
    when: I64
    unless: I64
    penalties: int

    @property
    def starts(self) -> I64:
        """The first choice of each group."""
        return np.flatnonzero(np.diff(self.owners, prepend=-1))

    def charged(self, chosen: I64) -> Mask:
        """Return which penalties are charged; `chosen` has the choice of each group."""
        taken, barred = self._states(chosen)
        return taken & ~barred

    def changes(self, amount: "Amount", chosen: I64) -> F64:
        """Return, for every choice, by how much an amount changes when its group alone goes over to it."""
        taken, barred = self._states(chosen)
        score = amount.single.copy()
        np.add.at(score, self.when[1], (amount.joint * ~barred)[self.when[0]])
        np.subtract.at(score, self.unless[1], (amount.joint * taken)[self.unless[0]])
        change: F64 = score - score[chosen][self.owners]
        return change

    def _states(self, chosen: I64) -> tuple[Mask, Mask]:
        x = np.zeros(len(self.owners), bool)
        x[chosen] = True
        states = np.zeros((2, self.penalties), bool)
        for state, (penalty, choice) in zip(states, (self.when, self.unless), strict=True):
            state[penalty[x[choice]]] = True
        return states[0], states[1]


@dataclass(frozen=True, slots=True, eq=False)
class Amount:
    """What adds up over the choices and penalties of a program.

    Attributes:
        single: [choices].
        joint: [penalties], none negative.
    """

    single: F64
    joint: F64

    def of(self, program: Program, chosen: I64) -> float:
        """Return the amount of one choice per group."""
        return float(self.single[chosen].sum() + self.joint[program.charged(chosen)].sum())

    @property
    def largest(self) -> float:
        """The largest of all figures."""
        return float(max(self.single.max(initial=0.0), self.joint.max(initial=0.0)))

    def lowest(self, program: Program) -> float:
        """Return what no choices can go below."""
        return float(np.minimum.reduceat(self.single, program.starts).sum())

    def highest(self, program: Program) -> float:
        """Return what no choices can exceed."""
        return float(np.maximum.reduceat(self.single, program.starts).sum() + self.joint.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """An amount, and what it may come to."""

    amount: Amount
    most: float

    @property
    def slip(self) -> float:
        """By how much rounding may exceed it."""
        return _SLIP * abs(self.most)


@dataclass(frozen=True, slots=True)
class Effort:
    """How well a minimum is to be found.

    Attributes:
        gap: by what share it may miss the best; noise itself is known to about a tenth.
        thrift: what using up the first limit is worth, as a share of the objective: near ties go to what uses less.
        time_limit_s: seconds that one run of HiGHS may take; most searches need one or two.
    """

    gap: float = 1e-3
    thrift: float = 0.0
    time_limit_s: float = 20.0


_USUAL = Effort()


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """One choice per group.

    Attributes:
        chosen: [groups], indices of choices.
        gap: by what share another answer may be better where the search was stopped; 0 where it was not.
    """

    chosen: I64
    gap: float = 0.0


def minimize(
    program: Program,
    objective: Amount,
    limits: Sequence[Limit],
    *,
    known: I64 | None = None,
    effort: Effort = _USUAL,
) -> Optimum | None:
    """Return the choices with the least of an amount, or None where limits allow none.

    Args:
        program: choices and penalties.
        objective: what to minimize; not negative.
        limits: what must hold.
        known: choices within the limits, whose amount bounds the search.
        effort: how well.

    Raises:
        SpecError: the solver stops without an answer.
    """
    best = None if known is None else Optimum(known)
    for turn in range(_ROUNDS):
        scale = objective.largest if best is None else objective.of(program, best.chosen)
        try:
            found = _search(program, objective, limits, best=best, effort=effort)
        except SpecError:
            if best is None or turn == 0:
                raise
            return Optimum(best.chosen, gap=1.0)
        if found is None:
            return best
        best = found
        if found.gap or not 0 < objective.of(program, found.chosen) < _SAME_SCALE * scale:
            break
    return best


def within(program: Program, limits: Sequence[Limit], chosen: I64) -> bool:
    """Say whether choices hold all limits, but for rounding."""
    return all(limit.amount.of(program, chosen) <= limit.most + limit.slip for limit in limits)


def _search(
    program: Program, objective: Amount, limits: Sequence[Limit], *, best: Optimum | None, effort: Effort
) -> Optimum | None:
    """Return the best choices on the scale of those known, or None where nothing is within the limits."""
    scale = objective.largest if best is None else objective.of(program, best.chosen)
    room = _room(program, limits if best is None else (*limits, Limit(objective, scale)))
    if room is None:
        return None
    goal = _goal(objective, scale, limits, room, effort.thrift)
    for tighter in _TIGHTER:
        found = _solve(program, goal, limits, room, effort=effort, tighter=tighter)
        if found is None:
            return None if best is None else Optimum(_improved(program, goal, limits, best.chosen))
        if within(program, limits, found.chosen):
            known = [] if best is None else [best.chosen]
            chosen = min((found.chosen, *known), key=lambda chosen: goal.of(program, chosen))
            return Optimum(_improved(program, goal, limits, chosen), found.gap)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """What limits leave: choices and penalties that may be taken, and of each limit its least sum and what is left."""

    choices: Mask
    penalties: Mask
    least: tuple[F64, ...]
    left: tuple[float, ...]


def _room(program: Program, limits: Sequence[Limit]) -> _Room | None:
    """Rule out what exceeds a limit even if all other groups take their least; None where nothing is left."""
    choices, before = np.ones(len(program.owners), bool), -1
    least: list[F64] = []
    left: list[float] = []
    while before != choices.sum():
        before, least, left = int(choices.sum()), [], []
        for limit in limits:
            single = np.where(choices, limit.amount.single, np.inf)
            least.append(np.minimum.reduceat(single, program.starts))
            left.append(limit.most - float(least[-1].sum()))
            if not left[-1] >= -limit.slip:
                return None
            choices &= single - least[-1][program.owners] <= left[-1] + limit.slip
    penalties = np.ones(program.penalties, bool)
    for limit, rest in zip(limits, left, strict=True):
        penalties &= limit.amount.joint <= rest + limit.slip
    return _Room(choices, penalties, tuple(least), tuple(left))


def _goal(objective: Amount, scale: float, limits: Sequence[Limit], room: _Room, thrift: float) -> Amount:
    """Return the objective as a share of its scale, plus what using up the first limit is worth."""
    scale = scale if scale > 0 else 1.0
    single, joint = objective.single / scale, objective.joint / scale
    if thrift and limits and room.left[0] > limits[0].slip:
        single = single + thrift / room.left[0] * limits[0].amount.single
        joint = joint + thrift / room.left[0] * limits[0].amount.joint
    return Amount(single, joint)


def _solve(
    program: Program, goal: Amount, limits: Sequence[Limit], room: _Room, *, effort: Effort, tighter: float
) -> Optimum | None:
    """Hand the program to HiGHS; None where there is no answer."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second to import

    rows = [row for i, limit in enumerate(limits) if (row := _row(program, limit, room, i)) is not None]
    counts = np.any([np.abs(joint) > _TINY for _, joint in (*rows, (goal.single, goal.joint))], axis=0)
    used = np.flatnonzero(counts | ~room.penalties)
    choices = np.flatnonzero(room.choices)
    size = len(choices)
    constraints = [LinearConstraint(_one_each(program, room, len(used)), lb=1.0, ub=1.0)]
    if len(used):
        constraints.append(LinearConstraint(_charges(program, choices, used), ub=0.0))
    for single, joint in rows:
        constraints.append(LinearConstraint(np.concatenate([single[choices], joint[used]])[None], ub=1.0 - tighter))
    with native_output_dropped():  # HiGHS sometimes leaves a line there
        found = milp(
            np.concatenate([goal.single[choices], goal.joint[used]]),
            integrality=np.ones(size + len(used)),  # penalties follow, but told so, HiGHS is up to 20 times as quick
            bounds=Bounds(0.0, np.concatenate([np.ones(size), room.penalties[used].astype(float)])),
            constraints=constraints,
            options={"time_limit": effort.time_limit_s, "mip_rel_gap": effort.gap},
        )
    return _read(program, found, choices)


def _read(program: Program, found: Any, choices: I64) -> Optimum | None:
    if found.status == _INFEASIBLE:
        return None
    if found.x is None:
        raise SpecError(
            f"The search for precisions ended without an answer ({found.message}). Name fewer precisions, or try again "
            f"when the machine is less busy."
        )
    x = np.full(len(program.owners), -1.0)
    x[choices] = found.x[: len(choices)]
    groups = np.split(x, program.starts[1:])
    chosen = np.array([start + int(group.argmax()) for start, group in zip(program.starts, groups, strict=True)])
    return Optimum(chosen, float(found.mip_gap or 0.0) if found.status == _CUT_SHORT else 0.0)


def _row(program: Program, limit: Limit, room: _Room, index: int) -> tuple[F64, F64] | None:
    """Return what choices and penalties take of a limit's room, in all at most 1; None where it cannot be exceeded."""
    extra = np.where(room.choices, limit.amount.single - room.least[index][program.owners], 0.0)
    joint = np.where(room.penalties, limit.amount.joint, 0.0)
    most = float(np.maximum.reduceat(extra, program.starts).sum() + joint.sum())
    if most <= room.left[index] + limit.slip or room.left[index] <= limit.slip:
        return None
    return extra / room.left[index], joint / room.left[index]


def _one_each(program: Program, room: _Room, penalties: int) -> "csr_array":
    """Return the matrix that adds up the choices of each group."""
    from scipy.sparse import csr_array

    owners = program.owners[room.choices]
    shape = (len(program.starts), len(owners) + penalties)
    return csr_array((np.ones(len(owners)), (owners, np.arange(len(owners)))), shape=shape)


def _charges(program: Program, choices: I64, used: I64) -> "csr_array":
    """Return the matrix of: x over when - x over unless - z, for each penalty."""
    from scipy.sparse import csr_array

    columns = np.full(len(program.owners), -1)
    columns[choices] = np.arange(len(choices))
    rows = np.full(program.penalties, -1)
    rows[used] = np.arange(len(used))
    entries = [(np.arange(len(used)), len(choices) + np.arange(len(used)), -np.ones(len(used)))]
    for (penalty, choice), sign in ((program.when, 1.0), (program.unless, -1.0)):
        kept = (rows[penalty] >= 0) & (columns[choice] >= 0)
        entries.append((rows[penalty[kept]], columns[choice[kept]], np.full(int(kept.sum()), sign)))
    row, column, value = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return csr_array((value, (row, column)), shape=(len(used), len(choices) + len(used)))


def _improved(program: Program, goal: Amount, limits: Sequence[Limit], chosen: I64) -> I64:
    """Return choices that no change of a single group betters, nor leaves as good with an earlier choice.

    What is too small for the solver is decided here.
    """
    chosen, places = chosen.copy(), np.arange(len(program.owners))
    while True:
        change = program.changes(goal, chosen)
        for limit in limits:
            over = limit.amount.of(program, chosen) + program.changes(limit.amount, chosen)
            change[over > limit.most + limit.slip] = np.inf
        best = int(change.argmin())
        if not change[best] < -_BETTER:
            alike = np.flatnonzero((change <= _ALIKE) & (places < chosen[program.owners]))
            if not len(alike):
                return chosen
            best = int(alike[0])
        chosen[program.owners[best]] = best

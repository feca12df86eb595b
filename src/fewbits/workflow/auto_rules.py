"""The workflow as one table of decisions: what to do next, given what is known. Nothing runs here.

Precision by precision, then the few layers that need more, then better weights, then training: each step is tried where
the verdict says that it can help, and the first model that meets the goals ends the search, unless the user wants more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from fewbits.errors import SpecError
from fewbits.workflow.verdict import Finding, Status

CHEAP = 1.25
"""Bit operations over those of w8a8, at most, of a model that is not worth making cheaper unless the user asks."""


class Aim(Enum):
    """What is wanted beyond the goals; the values are what `--goal` takes.

    ENOUGH: the first model that meets the goals and costs little more than w8a8.
    FASTEST: the cheapest one that meets them, in latency where that is known, in bit operations elsewhere.
    SMALLEST: the one with the fewest bytes.
    ACCURATE: the one with the least drop.
    """

    ENOUGH = "enough"
    FASTEST = "fastest"
    SMALLEST = "smallest"
    ACCURATE = "most-accurate"

    @classmethod
    def parse(cls, text: str) -> "Aim":
        """Return the aim of that name.

        Raises:
            SpecError: there is none.
        """
        for aim in cls:
            if aim.value == text:
                return aim
        raise SpecError(f"--goal is one of {', '.join(aim.value for aim in cls)}, not {text!r}.")


@dataclass(frozen=True, slots=True)
class Standing:
    """A model as the rules see it.

    Attributes:
        step: that made it.
        status: whether its score is acceptable.
        drop: against float, positive is worse.
        excess: its bit operations over those of w8a8; None where they are not known.
        figures: name, score and drop as a person reads them.
    """

    step: str
    status: Status
    drop: float
    excess: float | None
    figures: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before a decision.

    Attributes:
        aim: what is wanted beyond the goals.
        done: steps that were made, in their order.
        finding: of the last time that uniform precisions were scored; None before the first.
        reason: its sentence, with figures.
        base: w8a8 with the best weights so far; None where it was not scored.
        best: the model that would be handed over now, if it meets all goals; None where none does.
        nearest: the one that misses them least; None where nothing was scored.
        wide: the cheapest uniform precision above w8a8 that is acceptable; None where there is none.
        too_slow: figures of the quickest acceptable model, where none is quick enough; empty elsewhere.
        unmeasured: acceptable models whose latency someone must measure on the device first.
        has_better_weights: an improver changed something and was kept.
        has_torch: steps that need it are possible.
        may_improve: the memory that the run may take is enough for better weights.
        asks_qat: the user wants training.
        has_time: a limit was set, and is not used up.
        is_over: a limit was set, and is used up.
    """

    aim: Aim = Aim.ENOUGH
    done: tuple[str, ...] = ()
    finding: Finding | None = None
    reason: str = ""
    base: Standing | None = None
    best: Standing | None = None
    nearest: Standing | None = None
    wide: str | None = None
    too_slow: str = ""
    unmeasured: tuple[str, ...] = ()
    has_better_weights: bool = False
    has_torch: bool = True
    may_improve: bool = True
    asks_qat: bool = False
    has_time: bool = False
    is_over: bool = False

    def is_new(self, step: str) -> bool:
        """Whether a step was not made yet."""
        return step not in self.done

    @property
    def can_improve(self) -> bool:
        """Whether better weights are possible."""
        return self.has_torch and self.may_improve

    @property
    def blames_weights(self) -> bool:
        """Whether 8-bit weights are the trouble, or part of it."""
        return self.finding in (Finding.WEIGHTS, Finding.BOTH)

    @property
    def base_fails(self) -> bool:
        """Whether w8a8 was scored and is not acceptable."""
        return self.base is not None and self.base.status is not Status.OK

    @property
    def is_cheap(self) -> bool:
        """Whether the best model costs little more than w8a8."""
        return self.best is not None and self.best.excess is not None and self.best.excess <= CHEAP

    @property
    def wants_cheaper(self) -> bool:
        """Whether the user wants a cheaper model than one that meets the goals."""
        return self.aim in (Aim.FASTEST, Aim.SMALLEST)

    @property
    def needs_better(self) -> bool:
        """Whether nothing meets the goals."""
        return self.best is None

    @property
    def may_train(self) -> bool:
        """Whether training may be tried though nobody asked: nothing is accurate enough, and time was given for it."""
        return self.has_time and self.best is None and not self.too_slow

    @property
    def said_best(self) -> str:
        """The best model, or what comes nearest, in words."""
        standing = self.best or self.nearest
        return "nothing was scored" if standing is None else standing.figures


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the first whose `holds` is true decides.

    Attributes:
        step: what to do.
        holds: whether this is the case.
        why: the reason, with the figures that decided.
    """

    step: str
    holds: Callable[[Facts], bool]
    why: Callable[[Facts], str]


RULES: tuple[Rule, ...] = (
    Rule(
        "baseline",
        lambda f: f.finding is None,
        lambda f: "uniform precisions tell what the model is sensitive to",
    ),
    Rule(
        "stop",
        lambda f: f.is_over,
        lambda f: f"the time is up; the best so far is {f.said_best}",
    ),
    Rule(
        "stop",
        lambda f: f.finding is Finding.NONE and not f.has_better_weights,
        lambda f: f.reason,
    ),
    Rule(
        "stop",
        lambda f: f.needs_better and bool(f.unmeasured),
        lambda f: f"the latency of {', '.join(f.unmeasured)} must be measured on the device first",
    ),
    Rule(
        "stop",
        lambda f: f.aim is Aim.ENOUGH and f.is_cheap and not (f.asks_qat and f.is_new("qat")),
        lambda f: f"{f.said_best} meets the goals, with no more than {CHEAP:g} times the bit operations of w8a8",
    ),
    Rule(
        "stop",
        lambda f: f.aim is Aim.ACCURATE and f.best is not None and f.best.drop <= 0,
        lambda f: f"{f.said_best} loses nothing",
    ),
    Rule(
        "improve",
        lambda f: f.blames_weights and f.base_fails and f.can_improve and f.is_new("improve"),
        lambda f: f"better weights first, since {f.reason}",
    ),
    Rule(
        "adaround",
        lambda f: f.blames_weights and f.base_fails and f.can_improve and f.is_new("adaround"),
        lambda f: f"learned rounding, since the quicker methods were not enough: {f.said_best}",
    ),
    Rule(
        "again",
        lambda f: f.has_better_weights and f.base_fails and f.is_new("again"),
        lambda f: f"step 1 again with the better weights, since w8a8 does not pass: {f.base.figures if f.base else ''}",
    ),
    Rule(
        "litemp",
        lambda f: f.base_fails and f.wide is not None and f.is_new("litemp"),
        lambda f: f"a few groups in {f.wide} may be enough, since {f.reason}",
    ),
    Rule(
        "amp",
        lambda f: f.wide is not None and f.base_fails and not f.is_cheap and f.is_new("amp"),
        lambda f: f"a search over all groups may find a cheaper profile than {f.said_best}",
    ),
    Rule(
        "amp",
        lambda f: bool(f.too_slow) and f.is_new("amp"),
        lambda f: f"a search by latency, since none is quick enough: the quickest is {f.too_slow}",
    ),
    Rule(
        "amp",
        lambda f: f.aim is Aim.FASTEST and f.base_fails and f.wide is not None and f.is_new("amp"),
        lambda f: f"the fastest profile is asked for, and {f.said_best} need not be it",
    ),
    Rule(
        "narrow",
        lambda f: f.wants_cheaper and f.best is not None and f.can_improve and f.is_new("narrow"),
        lambda f: f"4-bit weights with better rounding may be enough, and cheaper than {f.said_best}",
    ),
    Rule(
        "narrow-amp",
        lambda f: f.wants_cheaper and f.best is not None and f.best.step != "narrow" and f.is_new("narrow-amp"),
        lambda f: f"4-bit weights in some groups may be cheaper than {f.said_best}",
    ),
    Rule(
        "improve",
        lambda f: f.needs_better and not f.too_slow and f.can_improve and f.is_new("improve"),
        lambda f: f"better weights may help, since nothing meets the goals yet: {f.said_best}",
    ),
    Rule(
        "qat",
        lambda f: f.has_torch and f.is_new("qat") and (f.asks_qat or f.may_train),
        lambda f: "training is asked for" if f.asks_qat else "training, since nothing else met the goals",
    ),
    Rule(
        "stop",
        lambda f: f.best is not None,
        lambda f: f"nothing that is left to try would be better in what is asked for than {f.said_best}",
    ),
    Rule(
        "stop",
        lambda f: bool(f.too_slow),
        lambda f: f"nothing is quick enough; the quickest acceptable model is {f.too_slow}",
    ),
    Rule(
        "stop",
        lambda f: True,
        lambda f: f"nothing meets the goals; {f.said_best} comes nearest",
    ),
)
"""What to do: read from the top, the first row that holds."""


def decide(facts: Facts) -> tuple[str, str]:
    """Return the next step, and why."""
    rule = next(rule for rule in RULES if rule.holds(facts))
    return rule.step, rule.why(facts)

"""Step 1 of the workflow: what the scores of a few precisions say about a model, as one table of rules.

The rules are those of the quantization workflow: the lowest acceptable precision; poor at w8a8 and fine at w8a16 means
sensitive to 8-bit activations; poor at w8a16 and fine at w16a16 means sensitive to 8-bit weights; only fp16 means that
some layers are very sensitive. Whether a score is acceptable is decided before, once, by `Goal`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fewbits.spec.precision import Precision


class Status(Enum):
    """Whether a precision is acceptable.

    OK: its drop is within the goal.
    NOISE: its drop is beyond the goal, but its interval holds zero: these samples cannot tell it from no drop.
    POOR: its drop is beyond the goal, and real.
    """

    OK = "ok"
    NOISE = "noise"
    POOR = "poor"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One precision as the rules see it.

    Attributes:
        precision: its name.
        status: acceptable or not.
        drop: loss in the metric's own direction and unit, positive is worse.
        figures: score and drop as a person reads them.
    """

    precision: str
    status: Status
    drop: float
    figures: str


class Finding(Enum):
    """What a model is like; the values are what reports print."""

    FINE = "fine at w8a8"
    ACTIVATIONS = "activation-sensitive"
    WEIGHTS = "weight-sensitive"
    BOTH = "weight- and activation-sensitive"
    HALF_ONLY = "fp16 only"
    WIDE_ONLY = "fine at w16a16 only"
    UNDECIDED = "undecided"
    NONE = "nothing acceptable"
    INCOMPLETE = "not told by these precisions"


@dataclass(frozen=True, slots=True)
class Facts:
    """The outcomes by precision, and the drop that is acceptable (in the metric's unit)."""

    outcomes: Mapping[str, Outcome]
    max_drop: float

    def ok(self, *precisions: str) -> bool:
        """Whether each was run and is acceptable."""
        return all(p in self.outcomes and self.outcomes[p].status is Status.OK for p in precisions)

    def poor(self, *precisions: str) -> bool:
        """Whether each was run and is not acceptable."""
        return all(p in self.outcomes and self.outcomes[p].status is Status.POOR for p in precisions)

    def ran(self, *precisions: str) -> bool:
        """Whether each was run."""
        return all(p in self.outcomes for p in precisions)

    def cheapest(self, *statuses: Status) -> Outcome | None:
        """Return the cheapest precision with one of the statuses: fewest bit operations, then narrowest activations."""
        found = [o for o in self.outcomes.values() if o.status in statuses]
        return min(found, key=lambda o: _width(o.precision), default=None)

    def gain(self, narrow: str, wide: str) -> float:
        """Return by how much the drop of `wide` is smaller than that of `narrow`."""
        return self.outcomes[narrow].drop - self.outcomes[wide].drop

    def figures(self, *precisions: str) -> str:
        """Return what the outcomes rest on, in words."""
        return "; ".join(f"{p} {self.outcomes[p].figures}" for p in precisions if p in self.outcomes)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the first whose `holds` is true names the model.

    Attributes:
        finding: what the model is.
        holds: whether it is.
        because: the conclusion in one sentence, without its figures.
        rests_on: precisions whose figures are the reason.
    """

    finding: Finding
    holds: Callable[[Facts], bool]
    because: str
    rests_on: tuple[str, ...]


RULES: tuple[Rule, ...] = (
    Rule(
        Finding.FINE,
        lambda f: f.ok("w8a8"),
        "8-bit weights and activations keep the accuracy",
        ("w8a8",),
    ),
    Rule(
        Finding.UNDECIDED,
        lambda f: (best := f.cheapest(Status.OK, Status.NOISE)) is not None and best.status is Status.NOISE,
        "the drop is larger than allowed, but these samples cannot tell it from noise",
        ("w8a8", "w8a16", "w16a16", "fp16"),
    ),
    Rule(
        Finding.BOTH,
        lambda f: f.poor("w8a8", "w8a16") and f.ok("w16a16") and f.gain("w8a8", "w8a16") > f.max_drop,
        "16-bit activations help and are not enough: 8-bit activations and 8-bit weights both cost accuracy",
        ("w8a8", "w8a16", "w16a16"),
    ),
    Rule(
        Finding.WEIGHTS,
        lambda f: f.poor("w8a16") and f.ok("w16a16"),
        "8-bit weights cost accuracy even under 16-bit activations, 16-bit weights do not",
        ("w8a8", "w8a16", "w16a16"),
    ),
    Rule(
        Finding.ACTIVATIONS,
        lambda f: f.poor("w8a8") and f.ok("w8a16"),
        "8-bit activations cost accuracy, 16-bit activations with the same 8-bit weights do not",
        ("w8a8", "w8a16"),
    ),
    Rule(
        Finding.HALF_ONLY,
        lambda f: f.poor("w8a8", "w8a16", "w16a16") and f.ok("fp16"),
        "no integer precision is acceptable: some layers are very sensitive in weights, activations or both",
        ("w8a8", "w8a16", "w16a16", "fp16"),
    ),
    Rule(
        Finding.WIDE_ONLY,
        lambda f: f.poor("w8a8") and f.ok("w16a16") and not f.ran("w8a16"),
        "8 bits are too few and 16 are enough; only w8a16 can tell whether weights or activations need them",
        ("w8a8", "w16a16"),
    ),
    Rule(
        Finding.NONE,
        lambda f: bool(f.outcomes) and f.poor(*f.outcomes) and f.ran("w8a8", "w8a16", "w16a16", "fp16"),
        "not even fp16 is acceptable: look at the score, the data and the numerical range of the float model first",
        ("w16a16", "fp16"),
    ),
    Rule(
        Finding.INCOMPLETE,
        lambda f: True,
        "the precisions that were run do not tell what the model is sensitive to",
        ("w8a8", "w8a16", "w16a16", "fp16"),
    ),
)
"""What a model is like: read from the top, the first row that holds."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence that is said beside the finding whenever `holds`."""

    holds: Callable[[Facts], bool]
    says: Callable[[Facts], str]


REMARKS: tuple[Remark, ...] = (
    Remark(
        lambda f: f.ok("w8a8") and f.poor("w8a16"),
        lambda f: f"w8a8 passes where w8a16 fails ({f.figures('w8a8', 'w8a16')}): w8a8 may pass by chance.",
    ),
    Remark(
        lambda f: f.ok("w8a16") and f.poor("w16a16"),
        lambda f: f"w8a16 passes where w16a16 fails ({f.figures('w8a16', 'w16a16')}): w8a16 may pass by chance.",
    ),
    Remark(
        lambda f: f.poor("fp16") and any(f.ok(p) for p in ("w8a8", "w8a16", "w16a16")),
        lambda f: f"fp16 fails where integers pass ({f.figures('fp16')}): values near or beyond the range of float16.",
    ),
    Remark(
        lambda f: f.ok("w4a8") or f.ok("w4a16"),
        lambda f: "4-bit weights are enough: the weights take half the memory of w8.",
    ),
    Remark(
        lambda f: f.ran("w4a8") and f.poor("w4a8") and f.ok("w8a8"),
        lambda f: f"4-bit weights need learned rounding ({f.figures('w4a8')}).",
    ),
)
"""What is worth saying beside the finding: every row that holds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What step 1 concludes.

    Attributes:
        finding: what the model is like.
        accepted: the cheapest precision within the goal, or None.
        reason: why, with the figures it rests on.
        remarks: further sentences.
    """

    finding: Finding
    accepted: str | None
    reason: str
    remarks: tuple[str, ...]


def conclude(outcomes: Sequence[Outcome], max_drop: float) -> Verdict:
    """Return what the outcomes say about the model.

    Args:
        outcomes: one per precision that was scored.
        max_drop: the drop that is acceptable, in the metric's unit.
    """
    facts = Facts({outcome.precision: outcome for outcome in outcomes}, max_drop)
    rule = next(rule for rule in RULES if rule.holds(facts))
    best = facts.cheapest(Status.OK)
    figures = facts.figures(*rule.rests_on)
    reason = f"{rule.because} ({figures})." if figures else f"{rule.because}."
    remarks = tuple(remark.says(facts) for remark in REMARKS if remark.holds(facts))
    return Verdict(rule.finding, best.precision if best else None, reason, remarks)


def _width(precision: str) -> tuple[float, float]:
    """Return what precisions are ordered by: bits of a product, then bits of an activation; floats after integers."""
    parsed = Precision.parse(precision)
    if parsed.float_bits is not None:
        return parsed.float_bits**2, parsed.float_bits + 1
    return math.prod(parsed.widths), parsed.activation_bits

"""What the caller of `amp` asks for besides accuracy, read from short texts: precisions, patterns, shares, a budget."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fewbits.errors import SpecError
from fewbits.quantization.groups import Group
from fewbits.spec.precision import FP32, Precision
from fewbits.workflow.precision_problem import ShareLimit

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Placed:
    """A precision for what a pattern names; written as fp16:head/*."""

    precision: str
    pattern: str

    @classmethod
    def parse(cls, text: str, option: str) -> "Placed":
        """Return the parts of "fp16:head/*".

        Raises:
            SpecError: a part is missing, or the precision is unknown.
        """
        name, colon, pattern = text.strip().partition(":")
        if not colon or not pattern.strip():
            raise SpecError(f"{option} {text!r} names no nodes: write a precision and a pattern, {option} fp16:head/*.")
        return cls(str(Precision.parse(name)), pattern.strip())

    def groups(self, groups: Sequence[Group], option: str) -> tuple[str, ...]:
        """Return the names of the groups with a node that the pattern names.

        Raises:
            SpecError: there is none.
        """
        found = tuple(g.name for g in groups if any(fnmatchcase(node, self.pattern) for node in g.nodes))
        if not found:
            near = difflib.get_close_matches(self.pattern, [node for g in groups for node in g.nodes], 1, 0.3)
            hint = f" One of them is {near[0]!r}." if near else ""
            raise SpecError(f"{option}: no node of the prepared graph matches {self.pattern!r}.{hint}")
        return found


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the network may take a precision; written as w8a16=20%, or w8a16=20%macs."""

    precision: str
    most: float
    of_macs: bool

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Return the parts of "w8a16=20%" (of the groups) or "w8a16=20%macs" (of the multiply-accumulates).

        Raises:
            SpecError: it cannot be read.
        """
        match = re.fullmatch(r"\s*([^=\s]+)\s*=\s*([0-9.]+)\s*%\s*(macs)?\s*", text)
        try:
            most = float(match[2]) / 100 if match else math.nan
        except ValueError:
            most = math.nan
        if match is None or not 0 <= most <= 1:
            raise SpecError(
                f"--max-share {text!r} is no share: write --max-share w8a16=20% (of the groups) or w8a16=20%macs."
            )
        return cls(str(Precision.parse(match[1])), most, match[3] is not None)


@dataclass(frozen=True, slots=True)
class Wishes:
    """Everything that is asked for besides accuracy.

    Attributes:
        candidates: precisions that any group may take.
        keep: what must have one precision.
        at_least: what must have no lower one.
        shares: of precisions, at most.
        budget: of the cost; None sets none.
        is_relative: whether the budget is a share of what the costliest precision costs.
        time_limit_s: None sets none.
    """

    candidates: tuple[str, ...]
    keep: tuple[Placed, ...] = ()
    at_least: tuple[Placed, ...] = ()
    shares: tuple[Share, ...] = ()
    budget: float | None = None
    is_relative: bool = False
    time_limit_s: float | None = None

    @classmethod
    def parse(
        cls,
        candidates: Sequence[str],
        *,
        keep: Sequence[str] = (),
        at_least: Sequence[str] = (),
        max_share: Sequence[str] = (),
        budget: float | str | None = None,
        time_limit: float | str | None = None,
    ) -> "Wishes":
        """Return the caller's wishes, checked as far as that goes without a network.

        Raises:
            SpecError: something cannot be read, or there is nothing to choose from.
        """
        names = tuple(dict.fromkeys(str(Precision.parse(name)) for name in candidates))
        if str(FP32) in names:
            raise SpecError("fp32 is the float model itself: leave it out, or keep single nodes with --keep fp32:NAME.")
        if len(names) < 2:
            raise SpecError("There is nothing to choose from: name two or more candidates, such as w8a8,w8a16,fp16.")
        most, is_relative = (None, False) if budget is None else _budget(budget)
        shares = tuple(Share.parse(text) for text in max_share)
        unknown = next((share.precision for share in shares if share.precision not in names), None)
        if unknown is not None:
            raise SpecError(f"--max-share limits {unknown}, which is no candidate: choose from {', '.join(names)}.")
        return cls(
            names,
            keep=tuple(Placed.parse(text, "--keep") for text in keep),
            at_least=tuple(Placed.parse(text, "--at-least") for text in at_least),
            shares=shares, budget=most, is_relative=is_relative,
            time_limit_s=None if time_limit is None else parse_seconds(time_limit),
        )  # fmt: skip

    @property
    def precisions(self) -> tuple[str, ...]:
        """The candidates, and what is kept in other precisions."""
        return tuple(dict.fromkeys((*self.candidates, *(placed.precision for placed in self.keep))))

    def allowed(self, groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
        """Return group -> precisions that it may take, for every group.

        Raises:
            SpecError: a pattern names nothing, or two wishes contradict each other.
        """
        found = {group.name: self.candidates for group in groups}
        for wish in self.at_least:
            enough = tuple(name for name in self.candidates if not _is_below(name, wish.precision))
            if not enough:
                raise SpecError(
                    f"--at-least {wish.precision}:{wish.pattern}: no candidate is as wide as that, add one that is."
                )
            for name in wish.groups(groups, "--at-least"):
                found[name] = tuple(p for p in found[name] if p in enough)
        kept: dict[str, Placed] = {}
        for wish in self.keep:
            for name in wish.groups(groups, "--keep"):
                if name in kept and kept[name].precision != wish.precision:
                    raise SpecError(
                        f"--keep wants group {name!r} in {kept[name].precision} ({kept[name].pattern}) and in "
                        f"{wish.precision} ({wish.pattern}): leave one of the two."
                    )
                kept[name] = wish
                found[name] = (wish.precision,)
        return found

    def limits(self, macs: Mapping[str, float] | None) -> tuple[ShareLimit, ...]:
        """Return the limits on shares; `macs` are the groups' shares of the multiply-accumulates.

        Raises:
            SpecError: those are wanted and not known.
        """
        if macs is None and any(share.of_macs for share in self.shares):
            raise SpecError(
                "The share of multiply-accumulates cannot be limited, since shapes of the network are not known: fix "
                "open dimensions with --dim, or limit the share of groups."
            )
        return tuple(ShareLimit(s.precision, s.most, macs if s.of_macs else None) for s in self.shares)


def parse_seconds(text: float | str) -> float:
    """Return the seconds of 90, "90s", "10m" or "1.5h".

    >>> parse_seconds("10m"), parse_seconds("90"), parse_seconds(5)
    (600.0, 90.0, 5.0)

    Raises:
        SpecError: it is no time.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", str(text).lower())
    if match is None or match[2] not in _UNITS or not float(match[1]) > 0:
        raise SpecError(f"The time {str(text)!r} is none: write 90s, 10m or 1.5h.")
    return float(match[1]) * _UNITS[match[2]]


def _budget(given: float | str) -> tuple[float, bool]:
    text = str(given).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SpecError(
            f"The budget {text!r} is no cost: write a number in the unit of the cost, or 60% of what the network costs "
            f"in its costliest candidate."
        )
    return (value / 100, True) if text.endswith("%") else (value, False)


def _is_below(name: str, least: str) -> bool:
    return any(a < b for a, b in zip(Precision.parse(name).widths, Precision.parse(least).widths, strict=True))


def widest(names: Iterable[str]) -> str:
    """Return the precision with the most bits; of equals the last.

    >>> widest(("w8a8", "w8a16", "fp16"))
    'fp16'
    """
    return max(reversed(tuple(names)), key=lambda name: math.prod(Precision.parse(name).widths))

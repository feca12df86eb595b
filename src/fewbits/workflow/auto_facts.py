"""What the scored models of a workflow amount to: which one is best, which is nearest, what the rules need to know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fewbits.reporting.auto_record import Contender
from fewbits.workflow.auto_rules import Aim, Standing
from fewbits.workflow.verdict import Status

BASE = "w8a8"
UNIFORM = ("baseline", "again")
"""Steps that score uniform precisions."""
_BETTER_WEIGHTS = ("improve", "adaround")
_ORDER = {Status.OK: 0, Status.NOISE: 1, Status.POOR: 2}
_FAR = float("inf")


def is_acceptable(made: Contender) -> bool:
    """Whether the score of a model is."""
    return made.status == Status.OK.value


def is_quick(made: Contender, max_latency_ms: float | None) -> bool:
    """Whether a model is quick enough; one whose latency nothing tells is not."""
    return max_latency_ms is None or (made.latency_ms is not None and made.latency_ms <= max_latency_ms)


def best_of(contenders: Sequence[Contender], aim: Aim, max_latency_ms: float | None) -> Contender | None:
    """Return the best of the models that meet all goals, the first of equals; None where none meets them."""
    fit = [made for made in contenders if is_acceptable(made) and is_quick(made, max_latency_ms)]
    return min(fit, key=_preference(aim), default=None)


def nearest_of(contenders: Sequence[Contender]) -> Contender | None:
    """Return the model that loses least, those first whose loss may be noise; None of none."""
    return min(contenders, key=lambda made: (_ORDER[Status(made.status)], made.drop, _operations(made)), default=None)


def quickest_of(contenders: Sequence[Contender]) -> Contender | None:
    """Return the acceptable model with the least latency that is known; None where none is known."""
    known = [made for made in contenders if is_acceptable(made) and made.latency_ms is not None]
    return min(known, key=_latency, default=None)


def unmeasured_of(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """Return the acceptable models without a latency, those that might be best only."""
    return tuple(m.name for m in with_pareto(contenders) if is_acceptable(m) and m.latency_ms is None and m.is_pareto)


def base_of(contenders: Sequence[Contender]) -> Contender | None:
    """Return w8a8 with the best weights so far; None where it was not scored."""
    found = [m for m in contenders if m.precision == BASE or m.step in _BETTER_WEIGHTS]
    return min(found, key=lambda made: (_ORDER[Status(made.status)], made.drop), default=None)


def wide_of(contenders: Sequence[Contender]) -> str | None:
    """Return the cheapest acceptable uniform precision above w8a8, each as it was scored last."""
    latest = {made.precision: made for made in contenders if made.step in UNIFORM and made.precision != BASE}
    best = min(filter(is_acceptable, latest.values()), key=_operations, default=None)
    return None if best is None else best.precision


def standing_of(made: Contender | None, base_operations: int | None, figures: str) -> Standing | None:
    """Return a model as the rules see it."""
    if made is None:
        return None
    excess = None
    if made.precision == BASE or made.step in _BETTER_WEIGHTS:
        excess = 1.0
    elif base_operations and made.bit_operations is not None:
        excess = made.bit_operations / base_operations
    return Standing(made.step, Status(made.status), made.drop, excess, figures)


def with_pareto(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """Return the models with `is_pareto` set: no other is at least as good in everything, and better in something."""
    prices = [_price(made) for made in contenders]

    def is_beaten(price: tuple[float, ...]) -> bool:
        return any(other != price and all(o <= p for o, p in zip(other, price, strict=True)) for other in prices)

    return tuple(replace(made, is_pareto=not is_beaten(price)) for made, price in zip(contenders, prices, strict=True))


def _price(made: Contender) -> tuple[float, ...]:
    return made.drop, _operations(made), float(made.weight_bytes), _latency(made)


def _operations(made: Contender) -> float:
    return _FAR if made.bit_operations is None else float(made.bit_operations)


def _latency(made: Contender) -> float:
    return _FAR if made.latency_ms is None else made.latency_ms


def _preference(aim: Aim) -> Callable[[Contender], tuple[float, ...]]:
    orders: Mapping[Aim, Callable[[Contender], tuple[float, ...]]] = {
        Aim.ENOUGH: lambda m: (_operations(m), m.weight_bytes, m.drop),
        Aim.FASTEST: lambda m: (_latency(m), _operations(m), m.drop),
        Aim.SMALLEST: lambda m: (m.weight_bytes, _operations(m), m.drop),
        Aim.ACCURATE: lambda m: (max(m.drop, 0.0), _operations(m), m.weight_bytes),
    }
    return orders[aim]

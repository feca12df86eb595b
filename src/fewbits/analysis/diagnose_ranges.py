"""Rules of the diagnosis that rest on the range of one tensor: a sample, a mask, a tail."""

import numpy as np

from fewbits.analysis.diagnose_case import FEW_STEPS, Case, Evidence, number
from fewbits.analysis.tensors import TensorFact
from fewbits.graph.topology import constant

LONE_SAMPLE_RATIO = 5.0
"""Above this multiple of the second sample's maximum the first one stands alone ..."""
HIGH_SAMPLE_RATIO = 8.0
"""... or above this one of the median sample's, if it is also twice the second and stands out in an input as well: deep
in a network a rare feature alone may go as high."""
FEWEST_SAMPLES = 4
"""Of fewer samples none can be called an outlier."""
MASK_VALUE = -1e4
"""Values at or below stand for minus infinity."""
TAIL_RATIO = 4.0
"""A tail is long when the range is this many times as wide as what nearly all values need: two bits are lost to it.
The range of a Gaussian is less than twice as wide, that of a Laplace distribution about twice."""
_UPSTREAM = 8  # nodes looked through for the constant behind a mask


def outlier_sample(case: Case) -> Evidence | None:
    """One calibration sample reaches far beyond all others."""
    inputs = [case.network.facts.get(str(value.name)) for value in case.network.graph.inputs]
    sources = {_highest(fact)[0]: fact.name for fact in inputs if fact is not None and _is_high(fact)}
    looked = case.network.facts.samples
    for fact in case.activation_facts():
        if len(fact.sample_absmax) < FEWEST_SAMPLES:
            continue
        index, top, second = _highest(fact)
        if second > 0 and (top > LONE_SAMPLE_RATIO * second or (_is_high(fact) and index in sources)):
            return _sample_evidence(fact, index, second, sources.get(index, ""))
        if 0 < LONE_SAMPLE_RATIO * top < fact.absmax:
            return Evidence(
                fact.name,
                f"A calibration sample after the first {looked} reaches {number(fact.absmax)} in {fact.name!r}, and "
                f"none of the first {looked} more than {number(top)}: one sample stretches the grid of all.",
                f"find that sample and take it out of the calibration data{_clipped_away(fact, top)}",
                {"absmax": fact.absmax, "second": top, "ratio": fact.absmax / top},
                key="a later sample",
            )
    return None


def _highest(fact: TensorFact) -> tuple[int, float, float]:
    """Return (index, absolute maximum) of the highest sample, and the absolute maximum of the second."""
    second, top = np.sort(np.array([0.0, 0.0, *fact.sample_absmax]))[-2:]
    return (int(np.argmax(fact.sample_absmax)) if fact.sample_absmax else -1), float(top), float(second)


def _is_high(fact: TensorFact) -> bool:
    """Whether the highest sample is far above the median one, and clearly above the second."""
    _, top, second = _highest(fact)
    median = float(np.median(fact.sample_absmax)) if len(fact.sample_absmax) >= FEWEST_SAMPLES else 0.0
    return median > 0 and top > max(HIGH_SAMPLE_RATIO * median, 2 * second)


def _sample_evidence(fact: TensorFact, index: int, second: float, source: str) -> Evidence:
    top, median = fact.sample_absmax[index], float(np.median(fact.sample_absmax))
    fed = f" It already stands out in the input {source!r}." if source and source != fact.name else ""
    return Evidence(
        fact.name,
        f"Calibration sample {index} (counted from 0) reaches {number(top)} in {fact.name!r}, the next one "
        f"{number(second)} and the median one {number(median)}: one sample stretches the grid of all.{fed}",
        f"take sample {index} out of the calibration data{_clipped_away(fact, second)}",
        {"sample": float(index), "absmax": top, "second": second, "median": median, "ratio": top / second},
        key=f"sample {index}",
    )


def _clipped_away(fact: TensorFact, second: float) -> str:
    """Return the percentile that cuts off what lies beyond `second`, as an alternative; empty if that is over 1 %."""
    if fact.histogram is None:
        return ""
    first, width, counts = fact.histogram
    edges = first + width * np.arange(len(counts) + 1)
    beyond = (edges[:-1] >= second) | (edges[1:] <= -second)
    share = np.array(counts)[beyond].sum() / max(sum(counts), 1)
    percent = next((p for p in (99.99, 99.9, 99.0) if 2 * share <= 1 - p / 100), None)  # half of it at each end
    return f", or --ranges percentile:{percent:g}" if percent is not None else ""


def mask(case: Case) -> Evidence | None:
    """A value that stands for minus infinity shares a grid with real values."""
    for fact in case.activation_facts():
        clip = fact.clip_low if fact.clip_low is not None else 0.0
        steps = fact.steps(abs(fact.high)) or 0.0
        if fact.low > MASK_VALUE or clip > MASK_VALUE or fact.high == 0 or steps >= FEW_STEPS:
            continue  # of zeros and one low value alone a grid holds both exactly
        source = _mask_constant(case, fact.name)
        found = f" (from the constant {source!r})" if source else ""
        least = _mild_mask(fact)
        return Evidence(
            fact.name,
            f"{fact.name!r} reaches down to {number(fact.low)}{found}, which stands for minus infinity, while its "
            f"largest value is {number(fact.high)}: one step of its grid is {number(fact.scale or 0.0)}, so that all "
            f"real values share {_codes(steps)}.",
            f"export the model with a mask value of about {number(least)} instead of {number(fact.low)}, or let a "
            f"Softmax alone read the masked tensor",
            {"low": fact.low, "high": fact.high, "scale": fact.scale or 0.0, "steps": steps},
        )
    return None


def _mild_mask(fact: TensorFact) -> float:
    """A mask that vanishes in a Softmax as well: below the lowest score that the highest suggests, less 16."""
    return -float(np.ceil(2 * abs(fact.high) + 16))


def _mask_constant(case: Case, tensor: str) -> str:
    """Return the nearest constant above `tensor` that holds a mask value, or an empty string."""
    made = {str(value.name): node for node in case.network.graph for value in node.outputs}
    waiting, looked = [made.get(tensor)], 0
    while waiting and looked < _UPSTREAM:
        node = waiting.pop(0)
        looked += 1
        for value in node.inputs if node is not None else ():
            stored = constant(value)
            if stored is not None and stored.numpy().dtype.kind == "f" and np.any(stored.numpy() <= MASK_VALUE):
                return str(value.name) if value is not None else ""
            if value is not None:
                waiting.append(value.producer())
    return ""


def _codes(steps: float) -> str:
    return "one code" if steps < 1 else f"{steps:.0f} steps"


def long_tail(case: Case) -> Evidence | None:
    """The grid errs by a tail, one way or the other: it cuts it off, or is stretched by it; the longest is named."""
    found = [e for fact in case.activation_facts() for e in (_cut_off(case, fact), _stretched(case, fact)) if e]
    return max(found, key=lambda evidence: evidence.figures["ratio"], default=None)


def _cut_off(case: Case, fact: TensorFact) -> Evidence | None:
    """The grid holds less than half of the range, and most of its error is what it cuts off."""
    low, high, clipping = fact.clip_low or 0.0, fact.clip_high or 0.0, fact.clipping or 0.0
    if 2 * (high - low) >= fact.width or clipping <= 0.5:
        return None
    is_mended = case.lifted("activations")[1] is not None  # ranges that clip by a percentile clip wide grids as well
    return Evidence(
        fact.name,
        f"{fact.name!r} reaches from {number(fact.low)} to {number(fact.high)}, and its grid only from {number(low)} "
        f"to {number(high)}: {100 * clipping:.0f} % of its error is clipping{case.outlook('activations')}.",
        "--ranges minmax" + (f", or {case.lift_around(fact.name)}" if is_mended else ""),
        {"range": fact.width, "kept": high - low, "ratio": fact.width / (high - low), "clipping": clipping},
    )


def _stretched(case: Case, fact: TensorFact) -> Evidence | None:
    """Nearly all values lie in a small part of the range, and the grid holds all of it."""
    tails = [(p, low, high) for p, low, high in fact.within if fact.width > TAIL_RATIO * (high - low) > 0]
    kept = (fact.clip_high or 0.0) - (fact.clip_low or 0.0)
    if not tails or 2 * kept < fact.width:
        return None
    percent, low, high = tails[0]
    steps = (high - low) / (fact.scale or 1.0)
    if steps >= fact.grid_steps / TAIL_RATIO or steps >= 2 * FEW_STEPS:
        return None
    return Evidence(
        fact.name,
        f"{percent:g} % of the values of {fact.name!r} lie from {number(low)} to {number(high)}, and the rest reach "
        f"from {number(fact.low)} to {number(fact.high)}: not clipped, they leave {steps:.0f} of {fact.grid_steps} "
        f"steps to all others{case.outlook('activations')}.",
        f"--ranges percentile:{percent:g}, or {case.lift_around(fact.name)}",
        {"percent": percent, "range": fact.width, "kept": kept, "ratio": fact.width / (high - low), "steps": steps},
    )

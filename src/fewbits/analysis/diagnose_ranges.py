"""Rules of the diagnosis that rest on the range of one tensor: channels, tails, a sample, a mask."""

from collections.abc import Sequence

import numpy as np

from fewbits.analysis.diagnose_case import FEW_STEPS, Case, Evidence, number, span_codes
from fewbits.analysis.tensors import TensorFact
from fewbits.graph.topology import constant
from fewbits.spec.dtypes import PerTensor

LONE_SAMPLE_RATIO = 5.0
"""Above this multiple of the second sample's maximum the first one stands alone ..."""
HIGH_SAMPLE_RATIO = 8.0
"""... or above this one of the median sample's, if it is also `CLEAR_SAMPLE_RATIO` above the second."""
CLEAR_SAMPLE_RATIO = 2.0
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
    for fact in case.activation_facts():
        found = _lone_sample(fact.sample_absmax)
        if found is not None:
            return _sample_evidence(case, fact, *found)
        seen = max(fact.sample_absmax, default=0.0)
        looked = case.network.facts.samples
        if len(fact.sample_absmax) >= FEWEST_SAMPLES and 0 < LONE_SAMPLE_RATIO * seen < fact.absmax:
            return Evidence(
                fact.name,
                f"A calibration sample after the first {looked} reaches {number(fact.absmax)} in {fact.name!r}, and "
                f"none of the first {looked} more than {number(seen)}: the grid is made for it.",
                "--ranges percentile:99.99, or find that sample and take it out of the calibration data",
                {"absmax": fact.absmax, "absmax_of_looked_at": seen, "ratio": fact.absmax / seen},
                key="a later sample",
            )
    return None


def _lone_sample(absmax: Sequence[float]) -> tuple[int, float, float] | None:
    """Return (index, second largest, median) where one sample stands alone."""
    if len(absmax) < FEWEST_SAMPLES:
        return None
    values = np.array(absmax)
    top, second, median = float(values.max()), float(np.sort(values)[-2]), float(np.median(values))
    is_alone = top > LONE_SAMPLE_RATIO * second or top > max(HIGH_SAMPLE_RATIO * median, CLEAR_SAMPLE_RATIO * second)
    return (int(values.argmax()), second, median) if median > 0 and is_alone else None


def _sample_evidence(case: Case, fact: TensorFact, index: int, second: float, median: float) -> Evidence:
    top = fact.sample_absmax[index]
    fed = [str(v.name) for v in case.network.graph.inputs]
    high = [
        n for n in fed if (f := case.network.facts.get(n)) and (s := _lone_sample(f.sample_absmax)) and s[0] == index
    ]
    source = f" It already stands out in the input {high[0]!r}." if high and high[0] != fact.name else ""
    return Evidence(
        fact.name,
        f"Calibration sample {index} (counted from 0) reaches {number(top)} in {fact.name!r}, the next one "
        f"{number(second)} and the median one {number(median)}: one sample stretches the grid of all.{source}",
        f"take sample {index} out of the calibration data, or clip it away with --ranges percentile:99.9",
        {"sample": float(index), "absmax": top, "second": second, "median": median, "ratio": top / second},
        key=f"sample {index}",
    )


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


def weight_channels(case: Case) -> Evidence | None:
    """One channel of a weight is far wider than the others under one scale."""
    for node, fact, grid in case.weight_facts():
        if not isinstance(grid.spec.granularity, PerTensor) or not fact.outlier_channels:
            continue
        channel, ratio = fact.outlier_channels[0]
        steps = 2 * fact.channel_median / float(grid.scale.reshape(()))
        if steps >= FEW_STEPS:
            continue
        return Evidence(
            fact.name,
            f"{_channel_sentence(fact, steps, span_codes(grid))} {node.op_type} {str(node.name)!r} has one scale for "
            f"its whole weight here{case.outlook('weights')}.",
            case.lift("weights"),
            {"channel": float(channel), "ratio": ratio, "median": fact.channel_median, "steps": steps},
        )
    return None


def activation_channels(case: Case) -> Evidence | None:
    """One channel of an activation is far wider than the others."""
    for fact in case.activation_facts():
        steps = fact.steps(fact.channel_median)
        if not fact.outlier_channels or steps is None or steps >= FEW_STEPS:
            continue
        channel, ratio = fact.outlier_channels[0]
        return Evidence(
            fact.name,
            f"{_channel_sentence(fact, steps, (1 << (fact.bits or 0)) - 1)} An activation has one scale"
            f"{case.outlook('activations')}.",
            case.lift("activations"),
            {"channel": float(channel), "ratio": ratio, "median": fact.channel_median, "steps": steps},
        )
    return None


def _channel_sentence(fact: TensorFact, steps: float, codes: int) -> str:
    channel, ratio = fact.outlier_channels[0]
    more = len(fact.outlier_channels) - 1
    others = f" ({more} more stand out)" if more else ""
    return (
        f"Channel {channel} of {fact.name!r} reaches {number(ratio * fact.channel_median)}{others}, the median channel "
        f"{number(fact.channel_median)}, {number(ratio)} times less: under one scale the others keep {_left(steps)} of "
        f"{codes} steps."
    )


def _left(steps: float) -> str:
    return f"{steps:.0f}" if steps >= 1 else "less than 1"


def long_tail(case: Case) -> Evidence | None:
    """The range is much wider than nearly all values need, and the chosen grid errs by it, one way or the other."""
    for fact in case.activation_facts():
        whole = max(fact.high, 0.0) - min(fact.low, 0.0)
        tails = [w for w in fact.within if whole > TAIL_RATIO * (w[2] - w[1]) > 0]
        if tails and (found := _tail_evidence(case, fact, tails[0])) is not None:
            return found
    return None


def _tail_evidence(case: Case, fact: TensorFact, bulk: tuple[float, float, float]) -> Evidence | None:
    """Return what a tail does beyond `bulk` (percent, low, high): the grid cuts it off, or is stretched by it."""
    (percent, low, high), clipping = bulk, fact.clipping or 0.0
    ends, scale = (fact.clip_low or 0.0, fact.clip_high or 0.0), fact.scale or 1.0
    steps, whole = (high - low) / scale, max(fact.high, 0.0) - min(fact.low, 0.0)
    is_cut_off = ends[1] - ends[0] < whole / 2
    if is_cut_off and clipping > 0.5:
        cut = f"the grid ends at {number(ends[0])} and {number(ends[1])}"
        effect = f"{cut}: {100 * clipping:.0f} % of its error is clipping"
        option = "--ranges minmax"
    elif not is_cut_off and steps < 2 * FEW_STEPS:
        effect = f"not clipped, they leave {steps:.0f} of {(1 << (fact.bits or 0)) - 1} steps to all others"
        option = f"--ranges percentile:{percent:g}"
    else:
        return None
    return Evidence(
        fact.name,
        f"{percent:g} % of the values of {fact.name!r} lie from {number(low)} to {number(high)}, the rest reach from "
        f"{number(fact.low)} to {number(fact.high)}; {effect}{case.outlook('activations')}.",
        f"{option}, or {case.lift('activations')}",
        {
            "percent": percent, "bulk": high - low, "range": whole, "ratio": whole / (high - low), "steps": steps,
            "kept": ends[1] - ends[0], "clipping": clipping,
        },
    )  # fmt: skip

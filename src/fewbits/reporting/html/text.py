"""Numbers as the page prints them."""

import json
import math
import re
from typing import Any

NONE = "–"
"""What stands where there is no number."""
SPACE = "\N{NO-BREAK SPACE}"
"""Stands before units."""
CAUSES = {
    "channel-range": "channels of very different range",
    "long-tail": "long tail",
    "outlier-sample": "outlier sample",
    "unequal-add": "inputs of unequal range",
    "mask": "mask value",
    "box-head": "boxes and scores on one grid",
    "unfused-normalization": "unfused normalization",
    "weight-bits": "too few weight bits",
    "activation-bits": "too few activation bits",
}
"""Short name of a cause -> what the page calls it."""


def number(value: float | None, unit: str = "") -> str:
    """Return a number with its unit: two decimals, or four significant digits where these would hide it."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.2f}" if 0.01 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"
    return f"{text}{SPACE}{unit}".rstrip().replace("-", "−")


def figure(value: float) -> str:
    """Return a number of any meaning: a whole one without decimals."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e9 else number(value)


def cause(name: str) -> str:
    """Return what the page calls a cause; one that it does not know keeps its name."""
    return CAUSES.get(name, name)


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval, or a dash where there is none."""
    return NONE if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def count(value: int | None) -> str:
    """Return a large count as people read it: 12.3 M."""
    if value is None:
        return NONE
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{SPACE}{unit}"
    return str(value)


def size(bytes_: int) -> str:
    """Return bytes as people read them."""
    if bytes_ < 1e6:
        return f"{bytes_ / 1e3:.0f}{SPACE}kB"
    return f"{bytes_ / 1e6:.2f}{SPACE}MB" if bytes_ < 1e8 else f"{bytes_ / 1e6:.0f}{SPACE}MB"


def share(part: float | None, whole: float | None) -> str:
    """Return a part as a percentage of the whole."""
    return NONE if part is None or not whole else f"{100 * part / whole:.1f}{SPACE}%"


def seconds(value: float) -> str:
    """Return a duration: milliseconds, seconds or minutes."""
    if value < 1:
        return f"{1e3 * value:.3g}{SPACE}ms"
    return f"{value:.1f}{SPACE}s" if value < 120 else f"{value / 60:.1f}{SPACE}min"


def setting(value: Any) -> str:
    """Return an option's value on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def capital(sentence: str) -> str:
    """Return a sentence with a capital, unless its first word is a name with a digit, such as w8a8."""
    return sentence if re.match(r"\S*\d", sentence) else sentence[:1].upper() + sentence[1:]


def unbroken(sentence: str) -> str:
    """Return a sentence whose lines do not break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=%|(?:ms|dB|MB|GB|[kMGT])\b)", SPACE, sentence)


def latency_source(by: str) -> str:
    """Return what gave a latency, in words.

    >>> latency_source("qnn-estimate:sm8550")
    'sm8550, estimated'
    """
    kind, _, chip = by.partition(":")
    if kind == "qnn-estimate" and chip:
        return f"{chip}, estimated"
    return {"ort": "ONNX Runtime", "device": "device, measured"}.get(by, by)

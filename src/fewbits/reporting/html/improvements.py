"""Step 4 as the page tells it: what each method did, and the objective of each layer before and after."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewbits.errors import SpecError
from fewbits.reporting.facts import checked_methods
from fewbits.reporting.html import text
from fewbits.reporting.html.sources import Source, improvements
from fewbits.reporting.record import RunRecord

_MOST_LAYERS = 400
_MARGIN, _WIDTH = 6.0, 388.0
"""Of a drawing that is 400 wide."""
_DECADES = 8.0
"""Below the largest objective, at most; what is smaller is drawn at the end."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The objective of one layer, as text and as places in a drawing.

    Attributes:
        layer: its node.
        before, after: the objective.
        left, right: where the two are drawn.
    """

    layer: str
    before: str
    after: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class ImprovedRow:
    """One method as it is printed.

    Attributes:
        name: of the method.
        reason: why it was kept or dropped; "" where that was not the question.
        seconds: that it took.
        changed: how many layers it changed.
        objective: mean over the layers, before and after.
        error, sqnr: of the outputs with it.
        score: with it, where it was taken.
        kept: yes or no.
        is_kept: the same.
        is_last: the last one that was kept: its layers are what the model has.
        bars: layers in the graph's order, the first few hundred.
        ends: of their axis.
        declined: (reason, layers).
    """

    name: str
    reason: str
    seconds: str
    changed: str
    objective: str
    error: str
    sqnr: str
    score: str
    kept: str
    is_kept: bool
    is_last: bool
    bars: tuple[Bar, ...]
    ends: tuple[str, str]
    declined: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ImprovedRun:
    """One run.

    Attributes:
        label: where it lies.
        caption: scores before and after.
        rows: what was before, then each method.
    """

    label: str
    caption: str
    rows: tuple[ImprovedRow, ...]


def improved(sources: Sequence[Source]) -> list[ImprovedRun]:
    """Return the runs that gave a model better weights, as the page tells them.

    Raises:
        SpecError: what one of them recorded cannot be read.
    """
    return [ImprovedRun(source.label, _caption(r), tuple(_rows(source, r))) for source, r in improvements(sources)]


def next_steps(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the (why, command) pairs of a run that gave a model better weights; others have none."""
    for step in record.improvement.get("next_steps") or ():
        yield str(step[0]), str(step[1])


def _caption(record: RunRecord) -> str:
    found, unit = record.improvement, str(record.scores.get("unit", ""))
    scores = [text.number(_known(found.get(name)), unit) for name in ("before", "after")]
    told = f"{found.get('precision', '')}: {scores[0]} before, {scores[1]} after"
    if not str(record.scores.get("metric", "")).startswith("sqnr"):
        told += f"; the float model has {text.number(_known(found.get('float')), unit)}"
    return f"{told}. Output errors are relative to the variance of the float model's outputs, on calibration samples."


def _rows(source: Source, record: RunRecord) -> Iterator[ImprovedRow]:
    try:
        methods = checked_methods(record.improvement)
    except ValueError as error:
        raise SpecError(
            f"The record of {source.label!r} cannot be read: {error}. Run `fewbits {record.verb}` again."
        ) from error
    found, unit = record.improvement, str(record.scores.get("unit", ""))
    noise, sqnr = _output(found.get("output_before"))
    before = text.number(_known(found.get("before")), unit)
    yield ImprovedRow("none", "", "", "", "", noise, sqnr, before, "", False, False, (), ("", ""), ())
    kept = [index for index, row in enumerate(methods) if row["kept"]]
    for index, row in enumerate(methods):
        yield _row(row, unit, is_last=bool(kept) and index == kept[-1])


def _row(row: Mapping[str, Any], unit: str, *, is_last: bool) -> ImprovedRow:
    error, sqnr = _output(row["output"])
    objective = row["objective"]
    bars, ends = _bars(row["layers"][:_MOST_LAYERS])
    return ImprovedRow(
        name=str(row["name"]), reason=str(row["reason"]), seconds=text.seconds(row["seconds"]),
        changed=str(row["changed"]),
        objective="" if not objective else " to ".join(text.figure(_known(value)) for value in objective),
        error=error, sqnr=sqnr, score="" if row["score"] is None else text.number(row["score"], unit),
        kept="yes" if row["kept"] else "no", is_kept=bool(row["kept"]), is_last=is_last, bars=bars, ends=ends,
        declined=tuple((str(reason), ", ".join(layers)) for reason, layers in row["declined"].items()),
    )  # fmt: skip


def _output(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if not found:
        return "", ""
    error, sqnr = found["error"], found["sqnr_db"]
    return "" if error is None else text.figure(error), "" if sqnr is None else f"{sqnr:.1f}{text.SPACE}dB"


def _bars(layers: Sequence[Sequence[Any]]) -> tuple[tuple[Bar, ...], tuple[str, str]]:
    """Return the layers on one logarithmic axis, and its ends."""
    values = [value for _, *pair in layers for value in map(_known, pair) if value > 0]
    if not values:
        return (), ("", "")
    high = max(values)
    low = max(min(values), high * 10**-_DECADES)
    span = math.log10(high / low) or 1.0

    def place(value: float) -> float:
        share = 0.0 if not value > low else math.log10(value / low) / span
        return round(_MARGIN + _WIDTH * min(share, 1.0), 1)

    bars = []
    for layer, *pair in layers:
        before, after = map(_known, pair)
        bars.append(Bar(str(layer), text.figure(before), text.figure(after), place(before), place(after)))
    return tuple(bars), (text.figure(low), text.figure(high))


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)

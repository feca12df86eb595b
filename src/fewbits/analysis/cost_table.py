"""Costs that the user knows better: a CSV file of group, precision and cost."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from fewbits.analysis.cost_layout import Layout
from fewbits.analysis.costs import Costs, Pair
from fewbits.errors import SpecError
from fewbits.spec.precision import Precision

HEADER = ("group", "precision", "cost")
CONVERT = "convert"
ARROW = ">"

_T = TypeVar("_T")
_Row = tuple[str, str, float]


def table_costs(layout: Layout, path: Path) -> Costs:
    """Return the costs that a CSV file lists: columns group, precision, cost, a row for every group and precision.

    Rows with group = "writer>reader" and precision = "convert" hold the cost of a conversion between two groups; a pair
    without a row converts for nothing. Rows for precisions that are not candidates are not used.

    Args:
        layout: the network; its precisions are the candidates.
        path: of the file.

    Raises:
        SpecError: the file cannot be read, or a row is wrong, missing or there twice.
    """
    groups: dict[str, dict[str, float]] = {group.name: {} for group in layout.groups}
    conversions: dict[Pair, float] = {}
    for where, (name, precision, cost) in _rows(path):
        if precision == CONVERT:
            pair = _pair(name, layout, where)
            _once(pair, conversions, where)
            conversions[pair] = cost
            continue
        if name not in groups:
            raise SpecError(
                f"{where} names the group {name!r}, which the network does not have: see `fewbits analyze`."
            )
        wanted = _precision(precision, where)
        _once(wanted, groups[name], where)
        groups[name][wanted] = cost
    known = {g.name: _wanted(layout.precisions(g), groups[g.name], g.name, path) for g in layout.groups}
    return Costs(path.name, "units", known, conversions, fixed=0.0, is_estimate=False)


def _rows(path: Path) -> Iterator[tuple[str, _Row]]:
    """Yield (where, row) of every row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise SpecError(f"The table of costs {str(path)!r} does not exist: check the path.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"The table of costs {str(path)!r} cannot be read: {error}. Write a CSV file.") from error
    header = tuple(cell.strip().lower() for cell in lines[0]) if lines else ()
    if header != HEADER:
        found = ",".join(lines[0]) if lines else "nothing"
        raise SpecError(
            f"The table of costs {str(path)!r} begins with {found!r}: its first line must be {','.join(HEADER)}."
        )
    for number, cells in enumerate(lines[1:], 2):
        if any(cell.strip() for cell in cells):
            where = f"Line {number} of {str(path)!r}"
            yield where, _row(cells, where)


def _row(cells: list[str], where: str) -> _Row:
    if len(cells) != len(HEADER):
        raise SpecError(f"{where} has {len(cells)} cells: write three, as in conv_1,w8a8,12.5.")
    name, precision, text = (cell.strip() for cell in cells)
    try:
        cost = float(text)
    except ValueError:
        raise SpecError(f"{where} has the cost {text!r}, which is no number: write one, as in 12.5.") from None
    if not math.isfinite(cost) or cost < 0:
        raise SpecError(f"{where} has the cost {text}: a cost is a finite number and not negative.")
    return name, precision, cost


def _precision(text: str, where: str) -> str:
    try:
        return str(Precision.parse(text))
    except SpecError as error:
        raise SpecError(f"{where} is wrong: {str(error)[0].lower()}{str(error)[1:]}") from None


def _pair(name: str, layout: Layout, where: str) -> Pair:
    """Return the two groups that "writer>reader" names; names themselves may hold the arrow."""
    parts = name.split(ARROW)
    for cut in range(1, len(parts)):
        pair = ARROW.join(parts[:cut]).strip(), ARROW.join(parts[cut:]).strip()
        if pair in layout.passed:
            return pair
    raise SpecError(
        f"{where} converts what passes between {name!r}: write two groups, the second of which reads what the first "
        f"writes, as in conv_1>conv_2."
    )


def _once(key: _T, known: Mapping[_T, float], where: str) -> None:
    if key in known:
        what = ARROW.join(key) if isinstance(key, tuple) else key
        raise SpecError(f"{where} gives the cost of {what} a second time: leave one of the two.")


def _wanted(candidates: tuple[str, ...], known: Mapping[str, float], group: str, path: Path) -> dict[str, float]:
    missing = next((name for name in candidates if name not in known), None)
    if missing is not None:
        raise SpecError(
            f"The table of costs {str(path)!r} has no cost of group {group!r} in {missing}: add a row for it."
        )
    return {name: known[name] for name in candidates}

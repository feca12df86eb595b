"""What the commands print: tables for people, one JSON object for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewbits.graph.prepare import PassReport
from fewbits.reporting.record import plain


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(plain(value), indent=1, allow_nan=False))


def console() -> Console:
    """Return stdout, with every text taken as it is: shapes and names hold brackets."""
    return Console(highlight=False, emoji=False, markup=False)


def print_table(
    out: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a line and a plain table below it; `right` are the columns of figures."""
    made = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for position, name in enumerate(columns):
        made.add_column(name, justify="right" if position in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    if title:
        out.print(title, style="bold", soft_wrap=True)
    out.print(made)


def figure(value: float | None, unit: str = "") -> str:
    """Return a figure with its unit, four significant digits or two decimals."""
    if value is None:
        return "-"
    text = f"{value:.2f}" if 0.01 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"
    return f"{text} {unit}".rstrip()


def size(count: int) -> str:
    """Return bytes as people read them."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def count(value: int | None) -> str:
    """Return a large count as people read it: 12.3 M."""
    if value is None:
        return "unknown"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return str(value)


def timings(seconds: Mapping[str, float]) -> str:
    """Return one line of stages and their wall time."""
    return "time: " + ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())


def sqnr(value: float | None) -> str:
    """Return an SQNR, or `equal` where every value is."""
    return "equal" if value is None else f"{value:.1f} dB"


def print_changes(out: Console, reports: Sequence[PassReport]) -> None:
    """Print what each pass changed, and what it declined and why."""
    rows = []
    for report in reports:
        rows += [(report.name, "changed", line) for line in grouped(report.changed)]
        rows += [(report.name, "declined", line) for line in grouped([str(item) for item in report.declined])]
    print_table(out, "changes", ("pass", "", "what"), rows)


def grouped(lines: Sequence[str], most: int = 6) -> list[str]:
    """Return the first few lines, and how many more there are."""
    rest = len(lines) - most
    return [*lines[:most], f"... and {rest} more"] if rest > 0 else list(lines)

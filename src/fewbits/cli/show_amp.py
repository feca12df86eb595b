"""What `amp` prints."""

from collections.abc import Mapping
from dataclasses import asdict

from fewbits.cli import show
from fewbits.cli.show_baseline import goal_text
from fewbits.cli.show_litemp import by_kind
from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.workflow.amp import AmpResult

_WORDS = {"ok": "ok", "noise": "undecided", "poor": "too much"}
_COLUMNS = ("point", "precisions", "cost", "conversions", "error predicted", "measured", "score", "drop", "")


def result_json(result: AmpResult) -> None:
    """Print the record, and where it lies."""
    show.print_json({"output": result.output, "scored_now": result.evaluations, **asdict(result.record)})


def result_table(result: AmpResult) -> None:
    """Print the points that were scored, predicted against measured, the conclusion, and what to do next."""
    out, record = show.console(), result.record
    metric = record.metric
    where = ", scored on the calibration data" if metric["is_on_calibration_data"] else ""
    out.print(f"{record.model['source']} for {record.target}, {', '.join(record.candidates)}", soft_wrap=True)
    scored = [point for point in record.points if point.score is not None]
    before = show.figure(record.float_row.score, metric["unit"])
    rows = [("float", "", "", "", "", "", before, "", ""), *(_cells(point, record) for point in scored)]
    title = f"{metric['name']} on {metric['samples']} samples{where}; goal: {goal_text(result.goal)}"
    show.print_table(out, title, _COLUMNS, rows, right=(0, 2, 3, 4, 5, 6, 7))
    chosen = result.chosen
    word = "accepted" if record.is_accepted else "none accepted, the best is"
    out.print(f"{word}: point {chosen.number}, {_shares(chosen.shares)}", style="bold")
    out.print(f"  because {record.reason}")
    out.print(f"the search ended: {record.ended}")
    kept = record.evaluations - result.evaluations
    known = f" ({kept} of them in an earlier run)" if kept > 0 else ""
    correlation = record.rank_correlation
    agreement = "" if correlation is None else f"; rank correlation of predicted and measured errors {correlation:.3f}"
    out.print(f"{record.evaluations} profiles scored{known}, {len(record.points)} considered{agreement}")
    for note in record.notes:
        out.print(f"note: {note}")
    if result.output is not None:
        out.print(
            f"files of point {chosen.number} in {result.output}; report: {result.output / 'report.html'}",
            soft_wrap=True,
        )
    out.print("next:")
    for why, command in record.next_steps:
        out.print(f"  # {why}")
        out.print(f"  {command}", soft_wrap=True)
    out.print(show.timings(by_kind(record.timings)))


def _cells(point: Point, record: AmpRecord) -> tuple[str, ...]:
    costliest = max(point.cost for point in record.points)
    changes = str(point.conversions)
    if point.conversion_cost and point.cost:
        changes += f" ({point.conversion_cost / point.cost:.1%})"
    return (
        f"{point.number}{'*' if point.number == record.chosen else ''}",
        _shares(point.shares),
        f"{point.cost / costliest:.1%}" if costliest else "0",
        changes,
        _error(point.predicted),
        _error(point.measured),
        "" if point.score is None else show.figure(point.score, record.metric["unit"]),
        "" if point.drop is None or record.metric["name"].startswith("sqnr") else show.figure(point.drop),
        _WORDS.get(point.status or "", ""),
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} {name}" for name, share in shares.items())


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"

"""What `litemp` prints."""

from collections.abc import Mapping
from dataclasses import asdict, replace

from fewbits.cli import show
from fewbits.cli.show_baseline import goal_text, row_cells
from fewbits.workflow.litemp import LitempResult
from fewbits.workflow.verdict import Status

MOST_NAMES = 12


def result_json(result: LitempResult) -> None:
    """Print the record, and where it lies."""
    show.print_json({"output": result.output, **asdict(result.record)})


def result_table(result: LitempResult) -> None:
    """Print the table of percentages, the conclusion, what was lifted, and what to do next."""
    out, record = show.console(), result.record
    metric = record.metric
    where = ", scored on the calibration data" if metric["is_on_calibration_data"] else ""
    out.print(f"{record.model['source']} for {record.target}, {record.base} lifted to {record.high}", soft_wrap=True)
    title = f"{metric['name']} on {metric['samples']} samples{where}; goal: {goal_text(result.goal)}"
    columns = ("lifted", "MACs", "score", "drop", "95 % interval", "", "bit ops", "weights")
    show.print_table(out, title, columns, _rows(result), right=(1, 2, 3, 6, 7))
    chosen = result.best.precision
    is_accepted = result.best.status is Status.OK
    out.print(f"{'accepted' if is_accepted else 'none accepted, the best is'}: {chosen}", style="bold")
    out.print(f"  because {record.reason}")
    for step in result.steps:
        if step.candidate is result.best:
            names = ", ".join(show.grouped(step.groups, MOST_NAMES))
            out.print(f"lifted {len(step.groups)} groups, the most sensitive first ({record.ranking}): {names}")
    for note in record.notes:
        out.print(f"note: {note}")
    if result.output is not None:
        out.print(f"files of {chosen} in {result.output}; report: {result.output / 'report.html'}", soft_wrap=True)
    out.print("next:")
    for why, command in record.next_steps:
        out.print(f"  # {why}")
        out.print(f"  {command}", soft_wrap=True)
    out.print(show.timings(by_kind(record.timings)))


def _rows(result: LitempResult) -> list[tuple[str, ...]]:
    record = result.record
    rows = [(record.float_row, ""), (record.base_row, "0%")]
    for lifted in result.steps:
        share = "?" if lifted.share_macs is None else f"{lifted.share_macs:.0%}"
        rows.append((replace(lifted.candidate.row, precision=f"{lifted.percent:g} %"), share))
    if record.high_row is not None:
        rows.append((record.high_row, "100%"))
    found = []
    for row, share in rows:
        name, *figures = row_cells(row, record.float_row, result.goal, result.float_score.unit)
        found.append((name, share, *figures))
    return found


def by_kind(seconds: Mapping[str, float]) -> dict[str, float]:
    """Add up the stages of all candidates: what is quantized, written and scored is told by the table."""
    total: dict[str, float] = {}
    for stage, value in seconds.items():
        kind = stage.split()[0]
        name = kind if kind in ("quantize", "write", "score") else stage
        total[name] = total.get(name, 0.0) + value
    return total

"""What `baseline` and `export` print."""

from dataclasses import asdict

from fewbits.cli import show
from fewbits.reporting.baseline_record import Row
from fewbits.workflow.baseline import BaselineResult
from fewbits.workflow.export import ExportResult
from fewbits.workflow.goal import Goal


def result_json(result: BaselineResult) -> None:
    """Print the record, and where it lies."""
    show.print_json({"output": result.output, **asdict(result.record)})


def result_table(result: BaselineResult) -> None:
    """Print the table of precisions, the verdict, and what to do next."""
    out, record = show.console(), result.record
    metric = record.metric
    where = ", scored on the calibration data" if metric["is_on_calibration_data"] else ""
    out.print(f"{record.model['source']} for {record.target}", soft_wrap=True)
    unit = result.float_score.unit
    rows = [row_cells(row, record.float_row, result.goal, unit) for row in (record.float_row, *record.rows)]
    columns = ["", "score", "drop", "95 % interval", "", "bit ops", "weights"]
    if any(row.latency_s is not None for row in record.rows):
        columns.append("latency")
        rows = [(*cells, _latency(row)) for cells, row in zip(rows, (record.float_row, *record.rows), strict=True)]
    title = f"{metric['name']} on {metric['samples']} samples{where}; goal: {goal_text(result.goal)}"
    show.print_table(out, title, columns, rows, right=(1, 2, 5, 6))
    for precision, reason in record.refused.items():
        out.print(f"{precision} left out: {reason}")
    accepted = f"lowest acceptable precision: {result.verdict.accepted}" if result.verdict.accepted else "none accepted"
    out.print(f"verdict: {result.verdict.finding.value}; {accepted}", style="bold")
    out.print(f"  because {result.verdict.reason}")
    for remark in result.verdict.remarks:
        out.print(f"  {remark}")
    for note in record.notes:
        out.print(f"note: {note}")
    if result.output is not None:
        out.print(f"report: {result.output / 'report.html'}", soft_wrap=True)
    out.print("next:")
    for why, command in record.next_steps:
        out.print(f"  # {why}")
        out.print(f"  {command}", soft_wrap=True)
    out.print(show.timings(record.timings))


def goal_text(goal: Goal) -> str:
    """Return what was acceptable, and whether the user said so."""
    name = "--min-sqnr" if goal.floor is not None else "--max-drop"
    return f"{goal.text}, the default of {name}" if goal.is_default else goal.text


def row_cells(row: Row, float_row: Row, goal: Goal, unit: str) -> tuple[str, ...]:
    """Return the cells of one precision: name, score, drop, interval, verdict, bit operations, size.

    Args:
        row: of the precision.
        float_row: of the float model.
        goal: what was acceptable.
        unit: of the score.
    """
    is_ceiling = goal.floor is not None  # the SQNR of the float model against itself is no score
    score = "reference" if is_ceiling and row.status is None else show.figure(row.score, unit)
    base = float_row.bit_operations
    operations = show.count(row.bit_operations)
    if base and row.bit_operations is not None and row.status is not None:
        operations = f"{row.bit_operations / base:.1%}"
    drop = "" if is_ceiling or row.drop is None else show.figure(row.drop)
    interval = "" if not drop or row.interval is None else " .. ".join(show.figure(end) for end in row.interval)
    return row.precision, score, drop, interval, _word(row), operations, show.size(row.weight_bytes)


def _word(row: Row) -> str:
    """Return whether the precision is acceptable, and whether its drop can be told from none."""
    if row.status is None:
        return ""
    words = {"ok": "ok", "noise": "undecided", "poor": "too much"}
    is_noise = row.interval is not None and row.interval[0] <= 0 <= row.interval[1] and row.drop != 0
    return words[row.status] + (" (noise)" if is_noise and row.status == "ok" else "")


def _latency(row: Row) -> str:
    return "" if row.latency_s is None else f"{1e3 * row.latency_s:.3g} ms"


def export_json(result: ExportResult) -> None:
    """Print what was handed over."""
    show.print_json(
        {
            "output": result.output,
            "precision": result.precision,
            "why": result.why,
            "scores": result.record.scores,
            "files": result.record.files,
        }
    )


def export_table(result: ExportResult) -> None:
    """Print what was handed over."""
    out = show.console()
    out.print(f"{result.precision} ({result.why})")
    rows = [(name, show.size(int(facts["bytes"]))) for name, facts in result.record.files.items()]
    show.print_table(out, f"files in {result.output}", ("file", "size"), rows, right=(1,))

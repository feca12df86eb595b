"""What `adaround` and `improve` print."""

from collections.abc import Iterator

from rich.console import Console

from fewbits.analysis.evaluate import Drop, Evaluation, drop
from fewbits.cli import show
from fewbits.cli.show_baseline import goal_text
from fewbits.cli.show_litemp import by_kind
from fewbits.workflow.improve import ImproveResult
from fewbits.workflow.improve_steps import MethodRow
from fewbits.workflow.verdict import Status

MOST_NAMES, MOST_REASONS = 4, 6
_WORDS = {Status.OK: "within the goal", Status.NOISE: "undecided: noise", Status.POOR: "not within the goal"}


def result_json(result: ImproveResult) -> None:
    """Print the record's main parts, and where it lies."""
    record = result.record
    show.print_json(
        {
            "verb": record.verb,
            "output": result.output,
            "target": record.target,
            "scores": record.scores,
            "improvement": record.improvement,
            "notes": record.notes,
            "pinned": record.pinned,
            "files": record.files,
            "timings": record.timings,
        }
    )


def result_table(result: ImproveResult) -> None:
    """Print scores, what each method did, what was declined, files, and what to do next."""
    out, record = show.console(), result.record
    out.print(f"{record.model['source']} for {record.target}", soft_wrap=True)
    _scores(out, result)
    rows = [_before(result), *(_cells(row, result) for row in result.methods)]
    columns = ("method", "time", "layers", "objective", "output error", "SQNR", "score", "kept")
    show.print_table(out, "methods", columns, rows, right=(1, 2, 3, 4, 5, 6))
    for row in result.methods:
        if row.reason:
            out.print(f"{row.name} was {'kept' if row.kept else 'dropped'}: {row.reason}", soft_wrap=True)
    for line in show.grouped(list(_declined(result)), MOST_REASONS):
        out.print(line, soft_wrap=True)
    for note in record.notes:
        out.print(f"note: {note}")
    if result.output is not None:
        files = [(name, show.size(int(facts["bytes"]))) for name, facts in record.files.items()]
        show.print_table(out, f"files in {result.output}", ("file", "size"), files, right=(1,))
        out.print(f"report: {result.output / 'report.html'}", soft_wrap=True)
    if result.next_steps:
        out.print("next:")
    for why, command in result.next_steps:
        out.print(f"  # {why}")
        out.print(f"  {command}", soft_wrap=True)
    out.print(show.timings(by_kind(record.timings)))


def _scores(out: Console, result: ImproveResult) -> None:
    scores, precision = result.record.scores, result.record.improvement["precision"]
    where = ", scored on the calibration data" if scores["is_on_calibration_data"] else ""
    # the SQNR of the float model against itself is a ceiling, no score
    is_ceiling = result.goal.floor is not None
    lost = drop(result.float_score, result.before)
    rows = [
        ("float", "reference" if is_ceiling else _score(result.float_score), "", ""),
        (f"{precision} before", _score(result.before), "" if is_ceiling else _drop(lost), ""),
        (f"{precision} after", _score(result.score), "" if is_ceiling else _drop(result.drop), _WORDS[result.status]),
    ]
    title = f"{scores['metric']} on {scores['samples']} samples{where}; goal: {goal_text(result.goal)}"
    show.print_table(out, title, ("model", "score", "drop", ""), rows, right=(1,))


def _score(score: Evaluation) -> str:
    return show.figure(score.value, score.unit)


def _drop(lost: Drop) -> str:
    if lost.interval is None:
        return show.figure(lost.value)
    low, high = (show.figure(end) for end in lost.interval)
    return f"{show.figure(lost.value)} (95 %: {low} to {high})"


def _before(result: ImproveResult) -> tuple[str, ...]:
    found = result.record.improvement["output_before"]
    return "none", "", "", "", *_output(found["error"], found["sqnr_db"]), _score(result.before), ""


def _cells(row: MethodRow, result: ImproveResult) -> tuple[str, ...]:
    before, after = row.objective or (0.0, 0.0)
    objective = f"{after / before - 1:+.1%}" if before else ""
    output = ("", "") if row.output is None else _output(row.output.error, row.output.sqnr_db)
    score = "" if row.score is None else show.figure(row.score, result.score.unit)
    return row.name, f"{row.seconds:.1f} s", str(row.changed), objective, *output, score, "yes" if row.kept else "no"


def _output(error: float | None, sqnr_db: float | None) -> tuple[str, str]:
    return "" if error is None else f"{error:.4g}", "" if sqnr_db is None else f"{sqnr_db:.1f} dB"


def _declined(result: ImproveResult) -> Iterator[str]:
    for row in result.methods:
        for reason, layers in row.declined.items():
            yield f"{row.name} left {', '.join(show.grouped(layers, MOST_NAMES))}: {reason}"

"""What `quantize` prints."""

from rich.console import Console

from fewbits.cli import show
from fewbits.reporting.record import RunRecord
from fewbits.workflow.quantize import QuantizeResult


def result_json(result: QuantizeResult) -> None:
    """Print the record, and where it lies."""
    record = result.record
    show.print_json(
        {
            "output": result.output,
            "target": record.target,
            "precision": str(result.quantized.profile.default),
            "scores": record.scores,
            "nodes": record.precision,
            "declined": record.declined,
            "widened": record.widened,
            "notes": record.notes,
            "pinned": record.pinned,
            "files": record.files,
            "timings": record.timings,
        }
    )


def result_table(result: QuantizeResult) -> None:
    """Print scores, what runs in which precision, files and times."""
    out, record = show.console(), result.record
    _scores(out, result)
    _nodes(out, result)
    for note in record.notes:
        out.print(f"note: {note}")
    if record.widened:
        channels = sum(record.widened.values())
        out.print(
            f"note: {channels} weight channels in {len(record.widened)} layers got a wider grid so that their bias "
            f"fits int32."
        )
    if result.output is not None:
        rows = [(name, show.size(int(facts["bytes"]))) for name, facts in record.files.items()]
        show.print_table(out, f"files in {result.output}", ("file", "size"), rows, right=(1,))
    out.print(show.timings(record.timings))


def _scores(out: Console, result: QuantizeResult) -> None:
    scores, unit = result.record.scores, result.score.unit
    where = ", scored on the calibration data" if scores["is_on_calibration_data"] else ""
    out.print(f"{result.calibration.source.name} for {result.record.target}", soft_wrap=True)
    # the SQNR of the float model against itself is a ceiling, no score
    is_ceiling = str(scores["metric"]).startswith("sqnr")
    rows = [
        ("float", "reference" if is_ceiling else show.figure(scores["float"], unit), ""),
        (str(result.quantized.profile), show.figure(scores["quantized"], unit), "" if is_ceiling else _drop(result)),
    ]
    title = f"{scores['metric']} on {scores['samples']} samples{where}"
    show.print_table(out, title, ("model", "score", "drop"), rows, right=(1,))


def _drop(result: QuantizeResult) -> str:
    lost = result.drop
    text = show.figure(lost.value, result.score.unit)
    if lost.interval is None:
        return text
    low, high = (show.figure(end) for end in lost.interval)
    return f"{text} (95 %: {low} to {high})"


def _nodes(out: Console, result: QuantizeResult) -> None:
    record: RunRecord = result.record
    plan = result.plan
    explained = sum(len(names) for names in record.declined.values())
    rows = [
        (precision, str(count - explained if precision == "fp32" else count), "")
        for precision, count in record.precision.items()
        if precision != "fp32" or count > explained
    ]
    for reason, names in record.declined.items():
        ops = sorted({plan.nodes[name].op for name in names})
        rows.append(("float32", str(len(names)), f"{', '.join(ops)}: {reason}"))
    show.print_table(out, "nodes", ("precision", "count", "why"), rows, right=(1,))

"""What `analyze` prints."""

from dataclasses import asdict

from fewbits.cli import show
from fewbits.workflow.analyze import AnalysisResult

MOST_ROWS = 10


def result_json(result: AnalysisResult) -> None:
    """Print the record, and where it lies."""
    show.print_json({"output": result.output, **asdict(result.record)})


def result_table(result: AnalysisResult) -> None:
    """Print the most sensitive groups, what is wrong with them, and where the page is."""
    out, record, found = show.console(), result.record, result.sensitivity
    first, ops = record.precisions[0], {row.name: row.op for row in record.groups}
    out.print(
        f"{record.model['source']} for {record.target}: {len(record.groups)} groups, {record.method}", soft_wrap=True
    )
    title = f"SQNR of the output in dB when this group alone is quantized, on {record.samples} samples; the worst first"
    columns = ("group", "operator", *record.precisions, f"95 % at {first}", f"{first} measured")
    rows = []
    for name in found.ranked(first)[:MOST_ROWS]:
        figure = found.figure(name, first)
        low, high = figure.interval_db
        measured = next(row.measured.get(first) for row in record.groups if row.name == name)
        cells = [f"{found.figure(name, precision).sqnr_db:.1f}" for precision in record.precisions]
        interval = f"{low:.1f} to {high:.1f}" if figure.deviation else ""
        rows.append((name, ops[name], *cells, interval, "" if measured is None else f"{measured:.1f}"))
    show.print_table(out, title, columns, rows, right=tuple(range(2, len(columns))))
    for finding in result.findings:
        out.print(f"{finding.group} ({finding.cause})", style="bold")
        out.print(f"  {finding.sentence}")
        if finding.remedy:
            out.print(f"  {finding.remedy}", soft_wrap=True)
    for note in record.notes:
        out.print(f"note: {note}")
    if result.output is not None:
        out.print(f"report: {result.output / 'report.html'}", soft_wrap=True)
    out.print(show.timings(record.timings))

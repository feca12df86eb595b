"""What `auto` prints."""

from dataclasses import asdict

from fewbits.cli import show
from fewbits.reporting.auto_record import AutoRecord, Contender
from fewbits.workflow.auto import AutoResult


def result_json(result: AutoResult) -> None:
    """Print the record, and where it lies."""
    show.print_json({"output": result.output, **asdict(result.record)})


def result_table(result: AutoResult) -> None:
    """Print the decisions, the models, the recommendation, the checks, and what to do next."""
    out, record = show.console(), result.record
    metric = record.metric
    where = ", scored on the calibration data" if metric["is_on_calibration_data"] else ""
    out.print(f"{record.model['source']} for {record.target}", soft_wrap=True)
    for warning in () if record.preflight is None else record.preflight.warnings:
        out.print(f"note: {warning}")
    for number, fork in enumerate(record.forks, 1):
        out.print(f"{number}. {fork.step}: {fork.why}", style="bold")
        if fork.found:
            out.print(f"   {fork.found} ({fork.seconds:.0f} s, {fork.evaluations} scored)")
    has_latency = any(made.latency_ms is not None for made in record.contenders)
    columns = ("", "score", "drop", "95 % interval", "", "bit ops", "weights", *(("latency",) if has_latency else ()))
    title = f"{metric['name']} on {metric['samples']} samples{where}; goal: {record.goal['text']}"
    rows = [_cells(made, record, has_latency=has_latency) for made in record.contenders]
    show.print_table(out, title, columns, [_float_cells(record), *rows], right=(1, 2, 5, 6, 7))
    for sentence in record.summary:
        out.print(sentence, style="bold" if sentence == record.summary[1] else "")
    for name, said in record.checks.items():
        out.print(f"{name}: {said}")
    for note in record.notes:
        out.print(f"note: {note}")
    out.print(f"files of {record.chosen} in {result.output}; report: {result.output / 'report.html'}", soft_wrap=True)
    if record.next_steps:
        out.print("next:")
    for why, command in record.next_steps:
        out.print(f"  # {why}")
        out.print(f"  {command}", soft_wrap=True)
    out.print(f"{record.wall_s:.0f} s, {record.peak_mb:.0f} MB at most")


def _float_cells(record: AutoRecord) -> tuple[str, ...]:
    row = record.float_row
    return "float", _score(record, row.score), "", "", "", show.count(row.bit_operations), show.size(row.weight_bytes)


def _cells(made: Contender, record: AutoRecord, *, has_latency: bool) -> tuple[str, ...]:
    """Return the cells of one model; a star marks those that none beats in everything."""
    name = made.name if made.name == made.precision else f"{made.name}: {made.precision}"
    base, operations = record.float_row.bit_operations, show.count(made.bit_operations)
    if base and made.bit_operations is not None:
        operations = f"{made.bit_operations / base:.1%}"
    has_floor = record.goal.get("floor") is not None  # an SQNR, which is taken against float, has no drop
    drop = "" if has_floor else show.figure(made.drop)
    interval = "" if not drop or made.interval is None else " .. ".join(show.figure(end) for end in made.interval)
    word = {"ok": "ok", "noise": "undecided", "poor": "too much"}[made.status]
    cells = (
        f"{name} *" if made.is_pareto else name, _score(record, made.score), drop, interval, word, operations,
        show.size(made.weight_bytes),
    )  # fmt: skip
    latency = "" if made.latency_ms is None else f"{made.latency_ms:.3g} ms"
    return (*cells, latency) if has_latency else cells


def _score(record: AutoRecord, score: float) -> str:
    return show.figure(score, str(record.metric["unit"]))

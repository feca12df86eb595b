"""What `import` and `apply-encodings` print."""

from fewbits.cli import show
from fewbits.spec.plan import Role
from fewbits.workflow.adopt import AdoptResult


def result_json(result: AdoptResult) -> None:
    """Print what was made."""
    show.print_json(
        {
            "output": result.output,
            "precision": result.record.precision,
            "grids": _counts(result),
            "parity": {"feeds": result.parity.feeds, "sqnr_db": result.parity.sqnr_db, "reason": result.parity.reason},
            "lint": len(result.lint.findings),
            "notes": result.adopted.notes,
            "files": result.record.files,
            "timings": result.seconds,
        }
    )


def result_table(result: AdoptResult, compared: str) -> None:
    """Print grids, precisions, parity, findings and files; `compared` says which two were."""
    out = show.console()
    grids = ", ".join(f"{count} {role}" for role, count in _counts(result).items() if count)
    nodes = ", ".join(f"{count} {precision}" for precision, count in result.record.precision.items())
    out.print(f"grids: {grids or 'none'}; nodes: {nodes}")
    for name, value in result.parity.sqnr_db.items():
        out.print(f"{name}: {show.sqnr(value)} ({compared}, on {result.parity.feeds})")
    if result.parity.reason:
        out.print(f"not compared: {result.parity.reason}")
    for note in result.adopted.notes:
        out.print(f"note: {note}")
    lint = result.lint
    if lint.passed:
        out.print(f"lint for {lint.target.name}: nothing found")
    else:
        command = f"fewbits lint {result.output} --target {lint.target.name}"
        out.print(f"lint for {lint.target.name}: {len(lint.findings)} findings; see `{command}`", soft_wrap=True)
    rows = [(name, show.size(int(facts["bytes"]))) for name, facts in result.record.files.items()]
    show.print_table(out, f"files in {result.output}", ("file", "size"), rows, right=(1,))
    out.print(show.timings(result.seconds))


def _counts(result: AdoptResult) -> dict[str, int]:
    grids = result.adopted.plan.grids.values()
    return {role.value: sum(grid.role is role for grid in grids) for role in Role}

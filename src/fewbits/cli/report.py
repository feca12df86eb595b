"""Commands report and runs: one HTML page from the records of runs, and a list of them."""

from typing import Annotated

import typer

from fewbits.cli.options import Json, Quiet

_Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Output folder of an earlier run, or a folder that holds several of them.")
]
_File = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="Page to write.", show_default="RUN/report.html")
]
_Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="To look in, and up to three levels below.")]


def report(run: _Run, *, output: _File = None, json: Json = False, quiet: Quiet = False) -> None:
    """Write one HTML page, readable offline, from what earlier commands recorded."""
    from fewbits.cli import show
    from fewbits.workflow.report import report as verb

    path = verb(run, output)
    if json:
        show.print_json({"output": path, "bytes": path.stat().st_size})
    elif not quiet:
        typer.echo(f"report: {path} ({show.size(path.stat().st_size)})")


def runs(folder: _Folder = ".", *, json: Json = False, quiet: Quiet = False) -> None:
    """List the runs in a folder: what came of them, and which were stopped and can go on."""
    from dataclasses import asdict

    from fewbits.cli import show
    from fewbits.workflow.runs import runs as verb

    found = verb(folder)
    if json:
        show.print_json({"folder": folder, "runs": [asdict(run) for run in found]})
    elif not quiet:
        rows = [
            (str(run.folder), run.verb, run.created[:19], run.target, run.state, run.result,
             "" if run.stored is None else str(run.stored))
            for run in found
        ]  # fmt: skip
        columns = ("folder", "verb", "written (UTC)", "target", "state", "result", "stored")
        show.print_table(show.console(), f"{len(found)} runs in {folder}", columns, rows, right=(6,))

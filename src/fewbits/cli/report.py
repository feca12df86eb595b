"""Command report: one HTML page from the records of runs."""

from typing import Annotated

import typer

from fewbits.cli.options import Json, Quiet

_Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Output folder of an earlier run, or a folder that holds several of them.")
]
_File = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="Page to write.", show_default="RUN/report.html")
]


def report(run: _Run, *, output: _File = None, json: Json = False, quiet: Quiet = False) -> None:
    """Write one HTML page, readable offline, from what earlier commands recorded."""
    from fewbits.cli import show
    from fewbits.workflow.report import report as verb

    path = verb(run, output)
    if json:
        show.print_json({"output": path, "bytes": path.stat().st_size})
    elif not quiet:
        typer.echo(f"report: {path} ({show.size(path.stat().st_size)})")

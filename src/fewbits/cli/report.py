"""Commands report and runs: one HTML page from the records of runs or of two side by side, and a list of them."""

from typing import Annotated

import typer

from fewbits.cli.options import Json, Quiet
from fewbits.errors import SpecError

_Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Output folder of an earlier run, or a folder that holds several of them.",
        show_default=False,
    ),
]  # fmt: skip
_Two = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare", metavar="RUN_A RUN_B", help="Set two runs side by side instead, of whatever commands.",
        show_default=False,
    ),
]  # fmt: skip
_File = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Page to write.",
        show_default="RUN/report.html, or compare.html with --compare",
    ),
]  # fmt: skip
_Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="To look in, and up to three levels below.")]


def report(
    run: _Run = None, *, compare: _Two = None, output: _File = None, json: Json = False, quiet: Quiet = False
) -> None:
    """Write one HTML page, readable offline, from what earlier commands recorded."""
    from fewbits.cli import show
    from fewbits.workflow.report import compare as compare_verb
    from fewbits.workflow.report import report as verb

    if run is not None and compare is None:
        path = verb(run, output)
    elif compare is not None and run is None:
        path = compare_verb(*compare, output)
    else:
        raise SpecError("Name either a run, fewbits report RUN, or two of them, fewbits report --compare RUN_A RUN_B.")
    if json:
        show.print_json({"output": path, "bytes": path.stat().st_size})
    elif not quiet:
        typer.echo(f"{'report' if compare is None else 'comparison'}: {path} ({show.size(path.stat().st_size)})")


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

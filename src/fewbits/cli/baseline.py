"""Commands baseline and export: step 1 of the workflow, and what is handed over."""

from typing import Annotated, Any

import typer

from fewbits.cli.options import Data, Json, Model, OutputFolder, Quiet
from fewbits.cli.shared import GOAL, GRAPH, HELD, IMAGES, RANGED, RUNNING, SCORED, names_of, takes, verb_options

_Precisions = Annotated[
    str, typer.Option("--precisions", metavar="P,P", help="What to score; add w4a8 or w4a16 for 4-bit weights.")
]
_Version = Annotated[
    str, typer.Option("--encodings-version", metavar="V", help="Layout of the encodings file: 0.6.1, 1.0.0 or 2.0.0.")
]
_Run = Annotated[str, typer.Argument(metavar="RUN", help="Output folder of an earlier command.")]
_Precision = Annotated[
    str | None,
    typer.Option("--precision", "-p", metavar="P", help="Which one.", show_default="the cheapest acceptable"),
]
_Point = Annotated[
    int | None,
    typer.Option("--point", metavar="N", help="Which point of `fewbits amp`.", show_default="the chosen one"),
]


@takes(GOAL, SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD)
def baseline(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precisions: _Precisions = "w8a8,w8a16,w16a16,fp16",
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Step 1: score a model in several precisions, and conclude what it is sensitive to and what to do next."""
    from fewbits.cli import show_baseline
    from fewbits.cli.progress import Bars
    from fewbits.workflow.baseline import baseline as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, precisions=names_of(precisions), output=output, progress=bars, **verb_options(shared)
        )
    if json:
        show_baseline.result_json(result)
    elif not quiet:
        show_baseline.result_table(result)


def export(
    run: _Run,
    *,
    output: OutputFolder,
    precision: _Precision = None,
    point: _Point = None,
    encodings_version: _Version = "1.0.0",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take one precision, or one point of a curve, out of a run, into a folder to hand over."""
    from fewbits.cli import show_baseline
    from fewbits.workflow.export import export as verb

    result = verb(run, output=output, precision=precision, point=point, encodings_version=encodings_version)
    if json:
        show_baseline.export_json(result)
    elif not quiet:
        show_baseline.export_table(result)

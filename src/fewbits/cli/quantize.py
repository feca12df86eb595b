"""Command quantize."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli.options import Data, Json, Model, OutputFolder, Quiet
from fewbits.cli.shared import GRAPH, HELD, IMAGES, RANGED, RUNNING, SCORED, takes, verb_options

_Precision = Annotated[
    str, typer.Option("--precision", "-p", metavar="P", help="w8a8, w8a16, w16a16, w4a8, w4a16, w4a16g32, fp16 ...")
]
_Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="JSON or TOML of node = precision, for nodes that differ."),
]
_Encodings = Annotated[
    Path | None, typer.Option("--encodings", metavar="FILE", help="Encodings file whose grids are used as they are.")
]


@takes(SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD)
def quantize(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precision: _Precision = "w8a8",
    profile: _Profile = None,
    encodings: _Encodings = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Quantize a model in one precision, score it, and write the files for the device."""
    from fewbits.cli import show_quantize
    from fewbits.cli.progress import Bars
    from fewbits.workflow.quantize import quantize as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, precision=precision, data=data, output=output, profile=profile, encodings=encodings, progress=bars,
            **verb_options(shared),
        )  # fmt: skip
    if json:
        show_quantize.result_json(result)
    elif not quiet:
        show_quantize.result_table(result)

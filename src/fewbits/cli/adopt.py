"""Commands that take in grids which others chose: import, apply-encodings."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli.options import Dims, Json, OutputFolder, Quiet, SomeData, Target, parse_dims
from fewbits.cli.shared import IMAGES, SESSION, takes, verb_options

_Qdq = Annotated[Path, typer.Argument(metavar="QDQ_MODEL", help="A QDQ .onnx file, whoever wrote it.")]
_Float = Annotated[Path, typer.Argument(metavar="MODEL", help="The float .onnx file that the encodings were made for.")]
_Encodings = Annotated[Path, typer.Argument(metavar="ENCODINGS", help="Encodings file, version 0.6.1, 1.0.0 or 2.0.0.")]


@takes(IMAGES, SESSION)
def import_qdq(
    model: _Qdq,
    *,
    output: OutputFolder,
    target: Target = "qnn-htp-v73",
    data: SomeData = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Take in anyone's QDQ model: the float model behind it, its grids, and what the target will make of it."""
    from fewbits.cli import show_adopt
    from fewbits.cli.progress import Bars
    from fewbits.workflow.adopt import import_qdq as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, output=output, target=target, data=data, progress=bars, **verb_options(shared),
        )  # fmt: skip
    if json:
        show_adopt.result_json(result)
    elif not quiet:
        show_adopt.result_table(result, "rebuilt from plan and encodings, against the file as it is")


@takes(IMAGES, SESSION)
def apply_encodings(
    model: _Float,
    encodings: _Encodings,
    *,
    output: OutputFolder,
    target: Target = "qnn-htp-v73",
    data: SomeData = None,
    dim: Dims = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Make the QDQ model that a float model and an encodings file describe; no data are needed."""
    from fewbits.cli import show_adopt
    from fewbits.cli.progress import Bars
    from fewbits.workflow.adopt import apply_encodings as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, encodings, output=output, target=target, data=data, dims=parse_dims(dim), progress=bars,
            **verb_options(shared),
        )  # fmt: skip
    if json:
        show_adopt.result_json(result)
    elif not quiet:
        show_adopt.result_table(result, "quantized, against the float model")

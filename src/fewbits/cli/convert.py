"""Command convert."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fewbits.cli.options import Json, OutputFile, Quiet, SomeData
from fewbits.cli.shared import IMAGES, SESSION, takes, verb_options
from fewbits.errors import SpecError

_Torch = Annotated[
    str,
    typer.Argument(
        metavar="TORCH",
        help="pkg.module:factory or file.py:factory, a module or a function that returns one; or a program.pt2. Its "
        "code is run.",
    ),
]
_Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape", metavar="[NAME=]1,3,224,224", help="Shape of an input, in the order of forward or by name."
    ),
]
_Dtypes = Annotated[
    list[str] | None,
    typer.Option("--input-dtype", metavar="[NAME=]TYPE", help="Type of the inputs, such as int64; float32 without it."),
]
_Weights = Annotated[str | None, typer.Option("--weights", metavar="FILE", help="State dict to load (torch.save).")]
_DynamicBatch = Annotated[bool, typer.Option("--dynamic-batch", help="Leave the batch (axis 0) open.")]
_Dynamic = Annotated[
    list[str] | None,
    typer.Option("--dynamic", metavar="INPUT:AXIS=NAME", help="Leave an axis open, such as tokens:1=length; repeat."),
]
_OutputNames = Annotated[
    list[str] | None, typer.Option("--output-name", metavar="NAME", help="Name of an output, in order; repeat.")
]
_MinSqnr = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr", metavar="DB", help="What each output must reach against torch: 60, float16 40, integers 30."
    ),
]


@takes(IMAGES, SESSION)
def convert(
    module: _Torch,
    *,
    output: OutputFile,
    input_shape: _Shapes = None,
    input_dtype: _Dtypes = None,
    weights: _Weights = None,
    dynamic_batch: _DynamicBatch = False,
    dynamic: _Dynamic = None,
    output_name: _OutputNames = None,
    opset: Annotated[int, typer.Option("--opset", min=18, help="ONNX operator set.")] = 21,
    data: SomeData = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of --data at most.")] = 16,
    min_sqnr: _MinSqnr = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Convert a PyTorch model to ONNX, and compare the outputs with torch's."""
    from fewbits.cli import show_model
    from fewbits.cli.progress import Bars
    from fewbits.workflow.convert import convert as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            module, output=output, input_shapes=parse_shapes(input_shape), input_dtypes=parse_dtypes(input_dtype),
            weights=weights, dynamic_batch=dynamic_batch, dynamic=parse_dynamic(dynamic), output_names=output_name,
            opset=opset, data=data, samples=samples, min_sqnr_db=min_sqnr, progress=bars, **verb_options(shared),
        )  # fmt: skip
    if json:
        show_model.convert_json(result)
    elif not quiet:
        show_model.convert_table(result)


def parse_shapes(texts: Sequence[str] | None) -> list[tuple[int, ...]] | dict[str, tuple[int, ...]] | None:
    """Return [(1, 3)] of ["1,3"], {"image": (1, 3)} of ["image=1,3"]; None of none.

    Raises:
        SpecError: a text has another form, or some have names and others none.
    """
    named: dict[str, tuple[int, ...]] = {}
    ordered: list[tuple[int, ...]] = []
    for text in texts or ():
        name, equals, dims = text.rpartition("=")
        parts = [part.strip() for part in dims.split(",")]
        if (equals and not name) or not all(part.isdigit() and int(part) for part in parts):
            raise SpecError(
                f"--input-shape {text!r} is no shape: write --input-shape 1,3,224,224 or image=1,3,224,224."
            )
        shape = tuple(map(int, parts))
        if name in named:
            raise SpecError(f"--input-shape gives {name!r} twice: give each input once.")
        if equals:
            named[name] = shape
        else:
            ordered.append(shape)
    if named and ordered:
        raise SpecError("Some --input-shape have a name and others have none: name all of them, or none.")
    return named or ordered or None


def parse_dtypes(texts: Sequence[str] | None) -> str | dict[str, str] | None:
    """Return "int64" of ["int64"], {"ids": "int64"} of ["ids=int64"]; None of none.

    Raises:
        SpecError: several types without a name, or mixed with named ones.
    """
    pairs = [text.rpartition("=") for text in texts or ()]
    if len(pairs) == 1 and not pairs[0][1]:
        return pairs[0][2]
    if not all(name and dtype for name, _, dtype in pairs):
        raise SpecError("--input-dtype takes one type for all inputs, or NAME=TYPE for each: write ids=int64.")
    return {name: dtype for name, _, dtype in pairs} or None


def parse_dynamic(texts: Sequence[str] | None) -> dict[str, dict[int, str]] | None:
    """Return {"ids": {1: "length"}} of ["ids:1=length"]; None of none.

    Raises:
        SpecError: a text has another form.
    """
    found: dict[str, dict[int, str]] = {}
    for text in texts or ():
        place, _, dim = text.partition("=")
        name, _, axis = place.rpartition(":")
        if not (name and axis.isdigit() and dim):
            raise SpecError(f"--dynamic {text!r} is not INPUT:AXIS=NAME: write --dynamic tokens:1=length.")
        found.setdefault(name, {})[int(axis)] = dim
    return found or None

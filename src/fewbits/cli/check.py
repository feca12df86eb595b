"""Commands that check what was made: evaluate, verify."""

from typing import Annotated, Any

import typer

from fewbits.cli.options import (
    CustomOpLibrary,
    Data,
    Dims,
    EvalSamples,
    HigherIsBetter,
    Json,
    Metric,
    Model,
    Quiet,
    SomeData,
    parse_dims,
)
from fewbits.cli.shared import IMAGES, RUNNING, takes, verb_options

_Reference = Annotated[
    str | None,
    typer.Option("--reference", metavar="MODEL", help="Float model for sqnr and agreement; a folder brings its own."),
]
_Samples = Annotated[int | None, typer.Option("--samples", min=1, help="Samples at most.", show_default="all")]
_Folder = Annotated[str, typer.Argument(metavar="OUT", help="Output folder of `fewbits quantize`.")]
_On = Annotated[
    str, typer.Option("--on", metavar="PLACE", help="Where to run: ort-cpu, qnn-htp (emulator) or openvino.")
]
_TimeLimit = Annotated[float, typer.Option("--time-limit", min=1, help="Seconds for loading and for every answer.")]
_PlaceMetric = Annotated[
    str | None, typer.Option("--metric", metavar="NAME", help="Score there on --data, beside the simulation's score.")
]
_Soc = Annotated[str, typer.Option("--soc", metavar="CHIP", help="The chip that qnn-htp emulates.")]


@takes(IMAGES, RUNNING)
def evaluate(
    model: Model,
    *,
    data: Data,
    metric: Metric = None,
    higher_is_better: HigherIsBetter = None,
    reference: _Reference = None,
    samples: _Samples = None,
    dim: Dims = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Score any ONNX file, or the artifact in an output folder."""
    from fewbits.cli import show_check
    from fewbits.cli.progress import Bars
    from fewbits.workflow.evaluate import evaluate as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, metric=metric, higher_is_better=higher_is_better, reference=reference, samples=samples,
            dims=parse_dims(dim), progress=bars, **verb_options(shared),
        )  # fmt: skip
    if json:
        show_check.evaluate_json(result)
    elif not quiet:
        show_check.evaluate_table(result)


@takes(IMAGES)
def verify(
    output: _Folder,
    *,
    on: _On = "ort-cpu",
    soc: _Soc = "sm8550",
    data: SomeData = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of --data to compare, at most.")] = 16,
    metric: _PlaceMetric = None,
    higher_is_better: HigherIsBetter = None,
    eval_samples: EvalSamples = None,
    time_limit: _TimeLimit = 600,
    custom_op_library: CustomOpLibrary = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Run an artifact in a fresh process, compare it bit for bit with what was scored, and write a certificate."""
    from fewbits.cli import show_check, show_place
    from fewbits.cli.progress import Bars
    from fewbits.workflow.verify import verify as verb
    from fewbits.workflow.verify_place import VerifyPlaceResult

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            output, on=on, soc=soc, data=data, samples=samples, metric=metric, higher_is_better=higher_is_better,
            eval_samples=eval_samples, time_limit_s=time_limit, custom_op_libraries=custom_op_library or (),
            progress=bars, **verb_options(shared),
        )  # fmt: skip
    if isinstance(result, VerifyPlaceResult):
        if json:
            show_place.place_json(result)
        elif not quiet:
            show_place.place_table(result)
        said = "" if result.passed else show_place.failure(result)
    else:
        if json:
            show_check.verify_json(result)
        elif not quiet:
            show_check.verify_table(result)
        said = "" if result.passed else show_check.failure(result)
    if not result.passed:
        if not json:
            typer.echo(f"verify failed: {said}", err=True)
        raise typer.Exit(1)

"""Commands that look at a model and make it ready: inspect, prepare."""

from typing import Annotated, Any

import typer

from fewbits.cli.options import Json, Model, OutputFile, Quiet, SomeData, Target
from fewbits.cli.shared import GRAPH, IMAGES, SESSION, takes, verb_options


@takes(GRAPH)
def inspect(
    model: Model,
    *,
    target: Target = "qnn-htp-v73",
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Show what a model is made of, and what of it can be quantized on a target."""
    from fewbits.cli import show_model
    from fewbits.workflow.inspect import inspect as verb

    result = verb(model, target=target, **verb_options(shared))
    if json:
        show_model.inspect_json(result)
    elif not quiet:
        show_model.inspect_table(result)


@takes(GRAPH, IMAGES, SESSION)
def prepare(
    model: Model,
    *,
    output: OutputFile,
    data: SomeData = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of --data at most.")] = 16,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Take in a quantized model, as the float model behind it.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Write an equivalent model that quantizes well, list what changed, and compare the outputs."""
    from fewbits.cli import show_model
    from fewbits.cli.progress import Bars
    from fewbits.workflow.prepare import prepare as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, output=output, data=data, samples=samples, requantize=requantize, progress=bars,
            **verb_options(shared),
        )  # fmt: skip
    if json:
        show_model.prepare_json(result)
    elif not quiet:
        show_model.prepare_table(result)

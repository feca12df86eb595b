"""Commands that look at a model and make it ready: inspect, prepare."""

from typing import Annotated

import typer

from fewbits.cli.options import (
    ChannelOrder,
    Crop,
    Dims,
    Json,
    Layout,
    Mean,
    Model,
    OutputFile,
    Preset,
    Provider,
    Quiet,
    Resize,
    Scale,
    Simplify,
    SomeData,
    Std,
    Target,
    Threads,
    parse_dims,
    parse_preprocess,
    parse_run_options,
)


def inspect(
    model: Model,
    *,
    target: Target = "qnn-htp-v73",
    dim: Dims = None,
    simplify: Simplify = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a model is made of, and what of it can be quantized on a target."""
    from fewbits.cli import show_model
    from fewbits.workflow.inspect import inspect as verb

    result = verb(model, target=target, dims=parse_dims(dim), simplify=simplify)
    if json:
        show_model.inspect_json(result)
    elif not quiet:
        show_model.inspect_table(result)


def prepare(
    model: Model,
    *,
    output: OutputFile,
    simplify: Simplify = True,
    dim: Dims = None,
    data: SomeData = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of --data at most.")] = 16,
    preset: Preset = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    channel_order: ChannelOrder = None,
    layout: Layout = None,
    provider: Provider = "cpu",
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an equivalent model that quantizes well, list what changed, and compare the outputs."""
    from fewbits.cli import show_model
    from fewbits.cli.progress import Bars
    from fewbits.workflow.prepare import prepare as verb

    preprocess = parse_preprocess(
        preset, resize=resize, crop=crop, mean=mean, std=std, scale=scale, channel_order=channel_order, layout=layout
    )
    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, output=output, simplify=simplify, dims=parse_dims(dim), data=data, samples=samples,
            preprocess=preprocess, run_options=parse_run_options(provider, threads), progress=bars,
        )  # fmt: skip
    if json:
        show_model.prepare_json(result)
    elif not quiet:
        show_model.prepare_table(result)

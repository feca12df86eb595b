"""Command quantize."""

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli.options import (
    BatchSize,
    BiasCorrection,
    ChannelOrder,
    Crop,
    Data,
    Dims,
    EvalData,
    EvalSamples,
    HigherIsBetter,
    Json,
    Layout,
    Mean,
    Metric,
    Model,
    OutputFolder,
    Preset,
    Provider,
    Quiet,
    Ranges,
    Resize,
    Samples,
    Scale,
    Simplify,
    Std,
    Target,
    Threads,
    WeightRanges,
    parse_dims,
    parse_preprocess,
    parse_run_options,
)

_Precision = Annotated[
    str, typer.Option("--precision", "-p", metavar="P", help="w8a8, w8a16, w16a16, w4a8, w4a16, fp16, fp32 ...")
]
_Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="JSON or TOML of node = precision, for nodes that differ."),
]
_Encodings = Annotated[
    Path | None, typer.Option("--encodings", metavar="FILE", help="Encodings file whose grids are used as they are.")
]


def quantize(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precision: _Precision = "w8a8",
    profile: _Profile = None,
    target: Target = "qnn-htp-v73",
    metric: Metric = None,
    higher_is_better: HigherIsBetter = None,
    eval_data: EvalData = None,
    samples: Samples = 400,
    eval_samples: EvalSamples = None,
    ranges: Ranges = "auto",
    weight_ranges: WeightRanges = "auto",
    bias_correction: BiasCorrection = True,
    encodings: _Encodings = None,
    dim: Dims = None,
    simplify: Simplify = True,
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
    batch_size: BatchSize = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize a model in one precision, score it, and write the files for the device."""
    from fewbits.cli import show_quantize
    from fewbits.cli.progress import Bars
    from fewbits.workflow.quantize import quantize as verb

    preprocess = parse_preprocess(
        preset, resize=resize, crop=crop, mean=mean, std=std, scale=scale, channel_order=channel_order, layout=layout
    )
    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, precision=precision, data=data, output=output, target=target, metric=metric,
            higher_is_better=higher_is_better, eval_data=eval_data, profile=profile, ranges=ranges,
            weight_ranges=weight_ranges, bias_correction=bias_correction,
            samples=samples, eval_samples=eval_samples, dims=parse_dims(dim),
            simplify=simplify, encodings=encodings, preprocess=preprocess, batch_size=batch_size,
            run_options=parse_run_options(provider, threads), progress=bars,
        )  # fmt: skip
    if json:
        show_quantize.result_json(result)
    elif not quiet:
        show_quantize.result_table(result)

"""Commands baseline and export: step 1 of the workflow, and what is handed over."""

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
    MaxDrop,
    Mean,
    Metric,
    MinSqnr,
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


def baseline(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precisions: _Precisions = "w8a8,w8a16,w16a16,fp16",
    max_drop: MaxDrop = None,
    min_sqnr: MinSqnr = None,
    target: Target = "qnn-htp-v73",
    metric: Metric = None,
    higher_is_better: HigherIsBetter = None,
    eval_data: EvalData = None,
    samples: Samples = 400,
    eval_samples: EvalSamples = None,
    ranges: Ranges = "auto",
    weight_ranges: WeightRanges = "auto",
    bias_correction: BiasCorrection = True,
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
    """Step 1: score a model in several precisions, and conclude what it is sensitive to and what to do next."""
    from fewbits.cli import show_baseline
    from fewbits.cli.progress import Bars
    from fewbits.workflow.baseline import baseline as verb

    preprocess = parse_preprocess(
        preset, resize=resize, crop=crop, mean=mean, std=std, scale=scale, channel_order=channel_order, layout=layout
    )
    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, precisions=[p.strip() for p in precisions.split(",") if p.strip()], output=output,
            target=target, metric=metric, higher_is_better=higher_is_better, max_drop=max_drop, min_sqnr=min_sqnr,
            eval_data=eval_data, ranges=ranges, weight_ranges=weight_ranges, bias_correction=bias_correction,
            samples=samples, eval_samples=eval_samples, dims=parse_dims(dim), simplify=simplify, preprocess=preprocess,
            batch_size=batch_size, run_options=parse_run_options(provider, threads), progress=bars,
        )  # fmt: skip
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

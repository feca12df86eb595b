"""Command analyze: sensitivity of every layer, and what is wrong with the worst."""

from typing import Annotated

import typer

from fewbits.cli.options import (
    BatchSize,
    BiasCorrection,
    ChannelOrder,
    Crop,
    Dask,
    Data,
    Dims,
    Json,
    Layout,
    Mean,
    Model,
    OutputFolder,
    Preset,
    Provider,
    Quiet,
    Ranges,
    Ray,
    Resize,
    Samples,
    Scale,
    Simplify,
    Std,
    Target,
    Threads,
    WeightRanges,
    Workers,
    parse_dims,
    parse_preprocess,
    parse_run_options,
    parse_workers,
)

_Precisions = Annotated[
    str, typer.Option("--precisions", metavar="P,P", help="To judge groups in; the first is diagnosed.")
]
_Method = Annotated[
    str,
    typer.Option("--method", metavar="M", help="one-pass (needs torch), brute-force (a run for each group), auto."),
]
_AnalysisSamples = Annotated[
    int, typer.Option("--analysis-samples", min=1, help="Calibration samples that the figures rest on, at most.")
]
_Probes = Annotated[
    int | None,
    typer.Option("--probes", min=1, help="Random projections of the output per sample.", show_default="2 or more"),
]
_Outputs = Annotated[
    str | None, typer.Option("--outputs", metavar="NAME,NAME", help="Outputs whose error counts.", show_default="all")
]
_Confirm = Annotated[
    int, typer.Option("--confirm", min=0, help="Most sensitive groups to measure by a real run each (one-pass).")
]
_Worst = Annotated[int, typer.Option("--worst", min=0, help="Groups to diagnose, at most.")]
_Device = Annotated[str, typer.Option("--device", metavar="D", help="Where torch computes: cpu or cuda.")]


def analyze(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precisions: _Precisions = "w8a8,w8a16,fp16",
    method: _Method = "auto",
    analysis_samples: _AnalysisSamples = 64,
    probes: _Probes = None,
    outputs: _Outputs = None,
    confirm: _Confirm = 5,
    worst: _Worst = 10,
    target: Target = "qnn-htp-v73",
    samples: Samples = 400,
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
    device: _Device = "cpu",
    workers: Workers = 1,
    dask: Dask = None,
    ray: Ray = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find what a model is sensitive to, layer by layer, and why; no labels are needed."""
    from fewbits.cli import show_analyze
    from fewbits.cli.progress import Bars
    from fewbits.workflow.analyze import analyze as verb

    preprocess = parse_preprocess(
        preset, resize=resize, crop=crop, mean=mean, std=std, scale=scale, channel_order=channel_order, layout=layout
    )
    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, precisions=_names(precisions) or (), method=method, analysis_samples=analysis_samples,
            probes=probes, outputs=_names(outputs), confirm=confirm, worst=worst, output=output, target=target,
            ranges=ranges, weight_ranges=weight_ranges, bias_correction=bias_correction, samples=samples,
            dims=parse_dims(dim), simplify=simplify, preprocess=preprocess, batch_size=batch_size,
            run_options=parse_run_options(provider, threads), device=device,
            workers=parse_workers(workers, dask, ray), progress=bars,
        )  # fmt: skip
    if json:
        show_analyze.result_json(result)
    elif not quiet:
        show_analyze.result_table(result)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]

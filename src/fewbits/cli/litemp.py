"""Command litemp: step 2 of the workflow."""

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
from fewbits.errors import SpecError

_Base = Annotated[str, typer.Option("--base", metavar="P", help="Precision of the groups that are not lifted.")]
_High = Annotated[str, typer.Option("--high", metavar="P", help="Precision of those that are: w8a16, w16a16, fp16.")]
_Percent = Annotated[
    str, typer.Option("--percent", metavar="X,X", help="Of the groups to lift, one after the other until it suffices.")
]
_All = Annotated[bool, typer.Option("--all", help="Score every percentage, acceptable or not.")]
_MostMacs = Annotated[
    float | None,
    typer.Option("--most-macs", metavar="X", help="Lift at most this percent of the multiply-accumulates."),
]
_Ranking = Annotated[
    str,
    typer.Option("--ranking", metavar="R", help="one-pass (needs torch), brute-force (a run for each group), auto."),
]
_RankSamples = Annotated[int, typer.Option("--rank-samples", min=1, help="Calibration samples to rank on, at most.")]


def litemp(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    base: _Base = "w8a8",
    high: _High = "w8a16",
    percent: _Percent = "5,10,20,40",
    score_all: _All = False,
    most_macs: _MostMacs = None,
    ranking: _Ranking = "auto",
    rank_samples: _RankSamples = 64,
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
    """Step 2: lift the most sensitive groups of operators to a higher precision until the drop is acceptable."""
    from fewbits.cli import show_litemp
    from fewbits.cli.progress import Bars
    from fewbits.workflow.litemp import litemp as verb

    percents = parse_percents(percent)
    preprocess = parse_preprocess(
        preset, resize=resize, crop=crop, mean=mean, std=std, scale=scale, channel_order=channel_order, layout=layout
    )
    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, base=base, high=high, percents=percents, score_all=score_all, most_macs=most_macs,
            ranking=ranking, rank_samples=rank_samples, output=output, target=target, metric=metric,
            higher_is_better=higher_is_better, max_drop=max_drop, min_sqnr=min_sqnr, eval_data=eval_data,
            ranges=ranges, weight_ranges=weight_ranges, bias_correction=bias_correction, samples=samples,
            eval_samples=eval_samples, dims=parse_dims(dim), simplify=simplify, preprocess=preprocess,
            batch_size=batch_size, run_options=parse_run_options(provider, threads), progress=bars,
        )  # fmt: skip
    if json:
        show_litemp.result_json(result)
    elif not quiet:
        show_litemp.result_table(result)


def parse_percents(text: str) -> list[float]:
    """Return [5.0, 10.0] of "5,10" or "5%,10%".

    Raises:
        SpecError: a part is no number.
    """
    try:
        return [float(part.strip().removesuffix("%")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SpecError(f"--percent {text!r} is not a list of numbers: write --percent 5,10,20.") from None

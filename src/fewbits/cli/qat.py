"""Command qat: step 5 of the workflow."""

from pathlib import Path
from typing import Annotated, Any

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
from fewbits.training.schedule import Training

TRAINING = Training()
_PANEL = "Training"

_Precision = Annotated[
    str, typer.Option("--precision", "-p", metavar="P", help="w4a8, w4a4, w8a8 ...: of what --profile does not name.")
]
_Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="JSON or TOML of node = precision, for nodes that differ."),
]
_Methods = Annotated[
    str, typer.Option("--method", metavar="M,M", help="qat last; methods of step 4 before it are where it starts.")
]
_Clips = Annotated[
    str,
    typer.Option("--clips", metavar="C", help="cle, of a Clip (Relu6) between two layers: exact, decline, replace."),
]
_ScoreEach = Annotated[bool, typer.Option("--score-each", help="Score after every method.")]
_Steps = Annotated[int, typer.Option("--steps", min=1, help="Of the optimizer, at most.", rich_help_panel=_PANEL)]
_TrainBatch = Annotated[int, typer.Option("--train-batch", min=1, help="Samples per step.", rich_help_panel=_PANEL)]
_Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="R",
        help="Learning rate: a share of each parameter's own size.",
        rich_help_panel=_PANEL,
        show_default="by a short test",
    ),
]
_Minutes = Annotated[
    float | None,
    typer.Option("--minutes", metavar="T", help="Train no longer than this.", rich_help_panel=_PANEL),
]
_Hints = Annotated[
    bool, typer.Option("--hints/--no-hints", help="Outputs of blocks count, too.", rich_help_panel=_PANEL)
]
_Seed = Annotated[int, typer.Option("--seed", help="Of the order of the samples.", rich_help_panel=_PANEL)]
_Device = Annotated[
    str, typer.Option("--device", metavar="D", help="Where torch computes: cpu or cuda.", rich_help_panel=_PANEL)
]


def qat(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precision: _Precision = "w4a8",
    method: _Methods = "gptq,qat",
    steps: _Steps = TRAINING.steps,
    train_batch: _TrainBatch = TRAINING.batch_size,
    rate: _Rate = None,
    minutes: _Minutes = None,
    hints: _Hints = TRAINING.hints,
    seed: _Seed = TRAINING.seed,
    device: _Device = TRAINING.device,
    clips: _Clips = "exact",
    score_each: _ScoreEach = False,
    profile: _Profile = None,
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
    """Step 5: train the quantized model to give what the float model gives; no labels are needed."""
    _run(locals())


def _run(given: dict[str, Any]) -> None:
    from fewbits.cli import show_improve
    from fewbits.cli.progress import Bars
    from fewbits.improvement.methods import Effort
    from fewbits.workflow.qat import train as verb

    images = ("resize", "crop", "mean", "std", "scale", "channel_order", "layout")
    made = {
        "methods": given.pop("method"),
        "training": Training(
            steps=given.pop("steps"), batch_size=given.pop("train_batch"), rate=given.pop("rate"),
            minutes=given.pop("minutes"), hints=given.pop("hints"), seed=given["seed"], device=given["device"],
        ),
        "effort": Effort(seed=given.pop("seed"), device=given.pop("device")),
        "dims": parse_dims(given.pop("dim")),
        "preprocess": parse_preprocess(given.pop("preset"), **{step: given.pop(step) for step in images}),
        "run_options": parse_run_options(given.pop("provider"), given.pop("threads")),
    }  # fmt: skip
    json, quiet = given.pop("json"), given.pop("quiet")
    with Bars(quiet=quiet or json) as bars:
        result = verb(given.pop("model"), **given, **made, progress=bars)
    if json:
        show_improve.result_json(result)
    elif not quiet:
        show_improve.result_table(result)

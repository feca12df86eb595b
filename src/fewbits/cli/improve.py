"""Commands adaround, improve and qat: steps 4 and 5 of the workflow."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli.options import Data, Json, Model, OutputFolder, Quiet
from fewbits.cli.shared import GOAL, GRAPH, HELD, IMAGES, RANGED, RUNNING, SCORED, Group, takes, verb_options
from fewbits.improvement.methods import NAMES, Effort
from fewbits.training.schedule import Training

EFFORT, TRAINING = Effort(), Training()
_METHODS = ", ".join(NAMES)
_ROUNDING, _TRAINING = "Rounding", "Training"

_Precision = Annotated[
    str, typer.Option("--precision", "-p", metavar="P", help="w4a8, w4a16, w8a8 ...: of what --profile does not name.")
]
_Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="JSON or TOML of node = precision, for nodes that differ."),
]
_Methods = Annotated[str, typer.Option("--method", metavar="M,M", help=f"In the order of application: {_METHODS}.")]
_SomeMethods = Annotated[
    str | None,
    typer.Option("--method", metavar="M,M", help=f"In the order of application: {_METHODS}.", show_default="all"),
]
_Auto = Annotated[
    bool, typer.Option("--auto", help="Keep only what helps; so it is where no --method is named.", show_default=False)
]
_ScoreEach = Annotated[bool, typer.Option("--score-each", help="Score after every method.")]
_Clips = Annotated[
    str,
    typer.Option("--clips", metavar="C", help="cle, of a Clip (Relu6) between two layers: exact, decline, replace."),
]
_Granularity = Annotated[
    str,
    typer.Option("--granularity", metavar="G", help="What adaround learns: layer or block.", rich_help_panel=_ROUNDING),
]
_Iterations = Annotated[
    int, typer.Option("--iterations", min=1, help="Of adaround, for a layer or block.", rich_help_panel=_ROUNDING)
]
_Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn.", rich_help_panel=_ROUNDING)]
_Device = Annotated[
    str, typer.Option("--device", metavar="D", help="Where torch computes: cpu or cuda.", rich_help_panel=_ROUNDING)
]
_Time = Annotated[
    str | None, typer.Option("--time", metavar="T", help="90s, 10m, 1h: no method and no layer is begun after that.")
]
_WithActivations = Annotated[
    bool | None,
    typer.Option(
        "--with-activations/--no-with-activations",
        help="Layers read activations that are rounded.",
        rich_help_panel=_ROUNDING,
        show_default="up to 6 bits",
    ),
]
_Drop = Annotated[
    float,
    typer.Option(
        "--drop",
        metavar="P",
        help="Of the activations that adaround rounds while it learns: this share is not, drawn anew each time.",
        rich_help_panel=_ROUNDING,
    ),
]
_Steps = Annotated[int, typer.Option("--steps", min=1, help="Of the optimizer, at most.", rich_help_panel=_TRAINING)]
_TrainBatch = Annotated[int, typer.Option("--train-batch", min=1, help="Samples per step.", rich_help_panel=_TRAINING)]
_Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="R",
        help="Learning rate: a share of each parameter's own size.",
        rich_help_panel=_TRAINING,
        show_default="by a short test",
    ),
]
_Minutes = Annotated[
    float | None,
    typer.Option("--minutes", metavar="T", help="Train no longer than this.", rich_help_panel=_TRAINING),
]
_Hints = Annotated[
    bool, typer.Option("--hints/--no-hints", help="Outputs of blocks count, too.", rich_help_panel=_TRAINING)
]
_Labels = Annotated[
    bool, typer.Option("--labels", help="Labels of the data count, too: classes or values.", rich_help_panel=_TRAINING)
]
_Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="N",
        min=0,
        help="Size of the windows that samples are cut into; 0: whole samples.",
        rich_help_panel=_TRAINING,
        show_default="where shapes differ",
    ),
]


_ROUNDED: Group = {
    "granularity": (_Granularity, EFFORT.granularity),
    "iterations": (_Iterations, EFFORT.iterations),
    "with_activations": (_WithActivations, EFFORT.with_activations),
    "drop": (_Drop, EFFORT.drop),
    "time": (_Time, None),
}
_IMPROVED: Group = {
    "seed": (_Seed, EFFORT.seed),
    "device": (_Device, EFFORT.device),
    "clips": (_Clips, "exact"),
    "score_each": (_ScoreEach, False),
    "profile": (_Profile, None),
}


@takes(_ROUNDED, _IMPROVED, GOAL, SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD)
def adaround(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precision: _Precision = "w4a8",
    method: _Methods = "gptq,adaround",
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Step 4: learn whether each weight is rounded up or down, and write the model with the better weights."""
    _run("adaround", locals() | shared)


@takes(_ROUNDED, _IMPROVED, GOAL, SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD)
def improve(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    precision: _Precision = "w4a8",
    method: _SomeMethods = None,
    auto: _Auto = False,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Step 4: give a quantized model better weights by the methods that help, the cheap ones first."""
    _run("improve", locals() | shared)


@takes(_IMPROVED, GOAL, SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD)
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
    labels: _Labels = False,
    window: _Window = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Step 5: train the quantized model to give what the float model gives; labels are not needed.

    Stopped at any moment and started again with the same options, it goes on from its last look at held-out samples.
    """
    _run("qat", locals() | shared)


def _run(name: str, given: dict[str, Any]) -> None:
    """Run one of the verbs with the options of its command, and print what came of it."""
    from fewbits.cli import show_improve
    from fewbits.cli.progress import Bars
    from fewbits.workflow import improve, qat

    del given["shared"]
    json, quiet = given.pop("json"), given.pop("quiet")
    made = {
        "methods": given.pop("method"),
        "effort": parse_effort(
            given.pop("granularity", EFFORT.granularity), given.pop("iterations", EFFORT.iterations),
            seed=given["seed"], device=given["device"],
            with_activations=given.pop("with_activations", EFFORT.with_activations),
            drop=given.pop("drop", EFFORT.drop),
        ),
    }  # fmt: skip
    if "steps" in given:
        made["training"] = _training(given)
    if "time" in given:
        made["time_limit"] = given.pop("time")
    if "auto" in given:
        given["auto"] = given["auto"] or None
    given = {key: value for key, value in given.items() if key not in ("seed", "device")}
    verb = {"adaround": improve.adaround, "improve": improve.improve, "qat": qat.train}[name]
    with Bars(quiet=quiet or json) as bars:
        result = verb(given.pop("model"), **verb_options(given), **made, progress=bars)
    if json:
        show_improve.result_json(result)
    elif not quiet:
        show_improve.result_table(result)


def parse_effort(
    granularity: str,
    iterations: int,
    *,
    seed: int,
    device: str,
    with_activations: bool | None,
    drop: float = EFFORT.drop,
) -> Effort:
    """Return how the methods that round work.

    Raises:
        SpecError: an option cannot be.
    """
    return Effort(granularity, iterations, seed=seed, device=device, with_activations=with_activations, drop=drop)


def _training(given: dict[str, Any]) -> Training:
    """Return how training goes; its own options are taken out of `given`."""
    own = {name: given.pop(name) for name in ("steps", "rate", "minutes", "hints", "labels", "window")}
    return Training(**own, batch_size=given.pop("train_batch"), seed=given["seed"], device=given["device"])

"""Commands auto and latency: the whole workflow, and what its models took on the device."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli.options import Json, Quiet
from fewbits.cli.settings import SETTINGS_FILE, effective_settings, open_settings
from fewbits.cli.shared import GOAL, GRAPH, HELD, IMAGES, RUNNING, SCORED, takes, verb_options
from fewbits.errors import SpecError

_SomeModel = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="An .onnx file, or the output folder of an earlier run.")
]
_SomeData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Image folder, .npz, .npy, folder of them, input list (.txt) or file.py:function.",
    ),
]
_SomeOutput = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT", help="Folder for the files.", rich_help_panel="Output")
]
_Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run, by its own settings; flags override.")
]
_Goal = Annotated[
    str, typer.Option("--goal", metavar="G", help="Beyond the goals: enough, fastest, smallest or most-accurate.")
]
_MaxLatency = Annotated[
    str | None,
    typer.Option("--max-latency", metavar="T", help="Of one sample: 2ms or 800us.", show_default="any"),
]
_LatencyBy = Annotated[
    str | None,
    typer.Option(
        "--latency-by",
        metavar="WHO",
        help="ort (measured here), qnn-estimate:CHIP, or device (`fewbits latency`).",
        show_default="ort, with --max-latency",
    ),
]
_Time = Annotated[str | None, typer.Option("--time", metavar="T", help="90s, 10m, 1h: no step is begun after that.")]
_Qat = Annotated[bool, typer.Option("--qat/--no-qat", help="Train, too, whatever the other steps find.")]
_Soc = Annotated[
    str | None,
    typer.Option("--soc", metavar="CHIP", help="To compile for.", show_default="one of the target"),
]
_RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of `fewbits auto`.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the model, as the run's table has it.")]
_Latency = Annotated[str, typer.Argument(metavar="T", help="1.7ms, 800us; of one sample.")]


@takes(GOAL, SCORED, GRAPH, IMAGES, RUNNING, HELD)
def auto(
    ctx: typer.Context,
    model: _SomeModel = None,
    *,
    data: _SomeData = None,
    output: _SomeOutput = None,
    resume: _Resume = None,
    goal: _Goal = "enough",
    max_latency: _MaxLatency = None,
    latency_by: _LatencyBy = None,
    time: _Time = None,
    qat: _Qat = False,
    soc: _Soc = None,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """The whole workflow: find the cheapest model that meets the goals, check it, and write a report."""
    given = {name: value for name, value in locals().items() if name not in ("ctx", "resume", "shared")} | shared
    if resume is not None:
        given = _resumed(ctx, given, resume)
    missing = [text for name, text in (("model", "MODEL"), ("data", "--data"), ("output", "-o")) if not given[name]]
    if missing:
        raise SpecError(f"The run lacks {' and '.join(missing)}: name what is missing, or go on with --resume RUN.")
    _run(given)


def _resumed(ctx: typer.Context, given: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return the options of an earlier run; flags of this command line override them.

    Raises:
        SpecError: the folder is no run of `auto`, or its settings cannot be read.
    """
    path = run / SETTINGS_FILE
    settings = open_settings(path) if path.is_file() else None
    if settings is None:
        raise SpecError(f"There is no {SETTINGS_FILE} in {str(run)!r}: name the output folder of `fewbits auto`.")
    named = {name for name in given if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    if "output" in named and Path(given["output"]).resolve() != run.resolve():
        raise SpecError(f"--resume goes on in {str(run)!r}: leave -o out.")
    # another settings file, of the current folder, has no say in a run that has its own
    plain = {name: item.default for name, item in inspect.signature(auto).parameters.items()}
    flags = [f"--{name.replace('_', '-')}" for name in named]
    kept = {name: item.value for name, item in settings.defaults("auto", flags).items()}
    found = {name: value if name in named else kept.get(name, plain[name]) for name, value in given.items()}
    return {**found, "output": run}


def _run(given: dict[str, Any]) -> None:
    from fewbits.cli import show_auto
    from fewbits.cli.progress import Bars
    from fewbits.workflow.auto import auto as verb

    settings = effective_settings("auto", given)
    json, quiet = given.pop("json"), given.pop("quiet")
    with Bars(quiet=quiet or json) as bars:
        result = verb(given.pop("model"), **verb_options(given), settings=settings, progress=bars)
    if json:
        show_auto.result_json(result)
    elif not quiet:
        show_auto.result_table(result)


def latency(run: _RunFolder, name: _Name, value: _Latency) -> None:
    """Put down what a model of a run took on the device; `fewbits auto --resume RUN` goes on from there."""
    from fewbits.workflow.auto_latency import latency as verb

    for known, figure in verb(run, name, value).items():
        typer.echo(f"{known}: {figure:g} ms")

"""Commands for the device's toolchain: lint, compile, estimate, chips."""

from typing import Annotated

import typer

from fewbits.cli.options import Dims, Json, Quiet, parse_dims

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="QDQ or float16 ONNX file, or the output folder of a run.")
]
Soc = Annotated[str, typer.Option("--soc", metavar="CHIP", help="Chip by name or number; `fewbits chips` lists them.")]
_TimeLimit = Annotated[float, typer.Option("--time-limit", min=1, metavar="SECONDS", help="For each compiler job.")]


def lint(
    model: _Model,
    *,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="TARGET", help="Device rules; left out: those of --soc, or HTP v73."),
    ] = None,
    soc: Annotated[str | None, typer.Option("--soc", metavar="CHIP", help="Chip by name or number.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find what a device will refuse, run in float, or silently change in a QDQ file, whoever wrote it."""
    from fewbits.cli import show_deploy
    from fewbits.workflow.lint import lint as verb

    result = verb(model, target=target, soc=soc)
    if json:
        show_deploy.lint_json(result)
    elif not quiet:
        show_deploy.lint_table(result)
    if not result.passed:
        raise typer.Exit(1)


def compile(  # noqa: A001 - the verb's name
    model: _Model,
    *,
    soc: Soc,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="OUT", help="Folder for the files.")] = None,
    dim: Dims = None,
    dlc: Annotated[bool, typer.Option("--dlc", help="Write a DLC, too.")] = False,
    time_limit: _TimeLimit = 600,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile a model for a Qualcomm chip, and check in which type every operator runs."""
    from fewbits.cli import show_deploy
    from fewbits.cli.progress import Bars
    from fewbits.workflow.compile import compile as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, soc=soc, dims=parse_dims(dim), output=output, dlc=dlc, time_limit_s=time_limit, progress=bars
        )
    if json:
        show_deploy.compile_json(result)
    elif not quiet:
        show_deploy.compile_table(result)
    if not result.passed:
        if not json:
            count = len(result.types.wrong)
            typer.echo(f"compile failed: {count} operators were compiled in another type than the file says.", err=True)
        raise typer.Exit(1)


def estimate(
    model: _Model,
    *,
    soc: Soc,
    dim: Dims = None,
    time_limit: _TimeLimit = 600,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how long Qualcomm's compiler thinks that a model takes on a chip: simulated, nothing runs."""
    from fewbits.cli import show_deploy
    from fewbits.cli.progress import Bars
    from fewbits.workflow.compile import estimate as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(model, soc=soc, dims=parse_dims(dim), time_limit_s=time_limit, progress=bars)
    if json:
        show_deploy.estimate_json(result)
    elif not quiet:
        show_deploy.estimate_table(result)


def chips(*, json: Json = False) -> None:
    """List the chips that models can be compiled for."""
    from fewbits.cli import show_deploy
    from fewbits.workflow.targets import chips as verb

    (show_deploy.chips_json if json else show_deploy.chips_table)(verb())

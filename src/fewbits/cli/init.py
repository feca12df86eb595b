"""Command init: a settings file for a new model, by questions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewbits.cli.options import Dims, EvalData, HigherIsBetter, Metric, Quiet
from fewbits.cli.settings import SETTINGS_FILE
from fewbits.cli.shared import GOAL, IMAGES, takes
from fewbits.errors import OutputError, SpecError

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where fewbits.toml is written.")]
_Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="An .onnx file, or the output folder of an earlier run.")
]
_Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Calibration data: image folder, .npz, .npy, folder of them, input list (.txt) or file.py:function.",
    ),
]
_Target = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="Device, see `fewbits targets`.", show_default="qnn-htp-v73"),
]
_Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="Folder for the files.", show_default="FOLDER/out")
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; what is not given takes its default.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace a fewbits.toml that is there.")]


@takes(GOAL, IMAGES)
def init(
    folder: _Folder = Path(),
    *,
    model: _Model = None,
    data: _Data = None,
    eval_data: EvalData = None,
    metric: Metric = None,
    higher_is_better: HigherIsBetter = None,
    target: _Target = None,
    output: _Output = None,
    dim: Dims = None,
    yes: _Yes = False,
    force: _Force = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Write fewbits.toml, a whole run as a file: asks for model, data, metric, target and goal, and checks them."""
    given = {name.replace("_", "-"): value for name, value in (locals() | shared).items()}
    path = folder / SETTINGS_FILE
    if not _may_write(path, is_silent=yes, force=force):
        typer.echo(f"{path} is kept as it is.")
        return
    from fewbits.cli.init_questions import interview

    write_settings(path, interview(given, output=str(folder / "out"), is_silent=yes))
    if not quiet:
        place = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
        typer.echo(f"{path} is written; the next command is\n  {place}fewbits auto")


def write_settings(path: Path, values: dict[str, Any]) -> None:
    """Write a settings file, whole or not at all; its folder is made where it is missing.

    Args:
        path: the file.
        values: `data.calibration` -> value; paths as seen from the current folder.

    Raises:
        SpecError: a path cannot be written as UTF-8.
        OutputError: the file cannot be written.
    """
    from fewbits.artifact.folder import write_file
    from fewbits.cli.init_text import seen_from, settings_text
    from fewbits.cli.settings_keys import KEYS

    for key in KEYS:
        if key.where in values and key.kind in ("path", "name"):
            values[key.where] = seen_from(path.parent, values[key.where], always=key.kind == "path")
    text = settings_text(values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {str(path.parent)!r}: {error.strerror}.") from error
    write_file(path, text.encode("utf-8"))


def _may_write(path: Path, *, is_silent: bool, force: bool) -> bool:
    """Say whether a file may be written; asks where one is there.

    Raises:
        SpecError: one is there, and nothing may be asked.
    """
    if force or not path.exists():
        return True
    if is_silent:
        raise SpecError(f"{str(path)!r} exists: --force replaces it.")
    return typer.confirm(f"{path} exists. Replace it?", default=False)

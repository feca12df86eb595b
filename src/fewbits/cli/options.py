"""Options that several commands share: each is one annotated type; and how their text becomes values."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewbits.errors import SpecError

if TYPE_CHECKING:
    from fewbits.runtime.data import Preprocess
    from fewbits.runtime.parallel import Workers as Who
    from fewbits.runtime.session import RunOptions

_IMAGES, _RUN, _OUT = "Images", "Running", "Output"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or the output folder of an earlier run.")]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Device: a name from `fewbits targets`, FILE.toml, or aimet:FILE.json (AIMET's quantsim configuration).",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Image folder, .npz, .npy, folder of them, input list (.txt) or file.py:function.",
    ),
]
SomeData = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Samples to compare on: any kind of data that `quantize` takes."),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="top1, top5, miou, psnr, mse, perplexity, sqnr, agreement (each also name@output), or file.py:function. "
        "Chosen by labels and outputs where it is left out.",
    ),
]
HigherIsBetter = Annotated[
    bool | None,
    typer.Option("--higher-is-better/--lower-is-better", help="Direction of your own metric.", show_default=False),
]
Dims = Annotated[
    list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="Fix an open dimension, such as batch=1; repeat.")
]
Simplify = Annotated[bool, typer.Option("--simplify/--no-simplify", help="Let onnxslim rewrite the graph.")]

EvalData = Annotated[
    str | None, typer.Option("--eval-data", metavar="DATA", help="What to score on; without it, the calibration data.")
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Calibration samples at most.")]
EvalSamples = Annotated[
    int | None, typer.Option("--eval-samples", min=1, help="Evaluation samples at most.", show_default="all")
]
Ranges = Annotated[
    str,
    typer.Option("--ranges", metavar="R", help="Activations: auto, minmax, mse, entropy or percentile:99.99."),
]
BiasCorrection = Annotated[
    bool,
    typer.Option("--bias-correction/--no-bias-correction", help="Let biases take up the mean error of the weights."),
]
WeightRanges = Annotated[str, typer.Option("--weight-ranges", metavar="R", help="Weights: auto, absmax or mse.")]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        metavar="X|X%",
        help="Acceptable drop in the metric's unit (0.5), or as a share of the float score (0.5%).",
        show_default="1% of the float score",
    ),
]
MinSqnr = Annotated[
    float | None,
    typer.Option("--min-sqnr", metavar="DB", help="Acceptable SQNR where that is the metric.", show_default="20"),
]

Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="imagenet, imagenet-tf, unit or raw.", rich_help_panel=_IMAGES),
]
Resize = Annotated[
    str | None,
    typer.Option("--resize", metavar="N|H,W", help="Shorter side, or height,width.", rich_help_panel=_IMAGES),
]
Crop = Annotated[
    str | None, typer.Option("--crop", metavar="N|H,W", help="Side of the centre crop.", rich_help_panel=_IMAGES)
]
Mean = Annotated[
    str | None, typer.Option("--mean", metavar="R,G,B", help="Subtracted per channel.", rich_help_panel=_IMAGES)
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="R,G,B", help="Divisor per channel.", rich_help_panel=_IMAGES)
]
Scale = Annotated[
    float | None, typer.Option("--scale", help="Factor of the pixels 0..255 (1/255).", rich_help_panel=_IMAGES)
]
ChannelOrder = Annotated[
    str | None, typer.Option("--channel-order", metavar="rgb|bgr", help="Order of colours.", rich_help_panel=_IMAGES)
]
Layout = Annotated[
    str | None, typer.Option("--layout", metavar="nchw|nhwc", help="Order of axes.", rich_help_panel=_IMAGES)
]

Provider = Annotated[
    str, typer.Option("--provider", metavar="NAME", help="onnxruntime's provider: cpu, cuda ...", rich_help_panel=_RUN)
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="0 lets onnxruntime choose.", rich_help_panel=_RUN)]
CustomOpLibrary = Annotated[
    list[str] | None,
    typer.Option(
        "--custom-op-library",
        metavar="FILE",
        help="Shared library with operators of your own, which onnxruntime loads; repeat.",
        rich_help_panel=_RUN,
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, metavar="N", help="Processes of this machine.", rich_help_panel=_RUN)
]
Dask = Annotated[
    str | None,
    typer.Option("--dask", metavar="ADDRESS", help="Dask scheduler whose workers compute.", rich_help_panel=_RUN),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Ray cluster that computes; or: local.", rich_help_panel=_RUN),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Samples per call.", rich_help_panel=_RUN, show_default=False)
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="That the process may take, 4GB: what cannot fit is refused, all else does less at once.",
        rich_help_panel=_RUN,
        show_default="no limit",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.", rich_help_panel=_OUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=_OUT)]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the files.", rich_help_panel=_OUT)
]
OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The .onnx file to write.", rich_help_panel=_OUT)
]


def parse_dims(texts: Sequence[str] | None) -> dict[str, int] | None:
    """Return {"batch": 1} of ["batch=1"]; None of none.

    Raises:
        SpecError: a text has another form.
    """
    dims: dict[str, int] = {}
    for text in texts or ():
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.lstrip("-").isdigit():
            raise SpecError(f"--dim {text!r} is not NAME=SIZE: write --dim batch=1.")
        dims[name] = int(size)
    return dims or None


def parse_preprocess(preset: str | None, **steps: Any) -> "Preprocess | None":
    """Return the preset with the given steps replaced; None where nothing is given.

    Args:
        preset: its name, or None.
        steps: fields of `Preprocess` as the user wrote them, None for those left out.

    Raises:
        SpecError: a value cannot be used.
    """
    given = {name: _step(name, value) for name, value in steps.items() if value is not None}
    if preset is None and not given:
        return None
    from fewbits.runtime.data import Preprocess, parse_preset

    base = Preprocess() if preset is None else parse_preset(preset)
    return replace(base, **given)


def parse_run_options(provider: str, threads: int, libraries: Sequence[str] | None = None) -> "RunOptions":
    """Return provider, threads and custom operator libraries as a value."""
    from fewbits.runtime.session import RunOptions

    return RunOptions(provider, threads, tuple(libraries or ()))


def parse_workers(count: int, dask: str | None, ray: str | None) -> "Who | None":
    """Return who computes; None is this process.

    Raises:
        SpecError: two of the three are named at once.
    """
    from fewbits.runtime.parallel import Workers as Who

    who = Who(count, dask, ray)
    return None if who.is_alone else who


def _step(name: str, value: Any) -> Any:
    if name in ("resize", "crop"):
        numbers = _numbers(name, value, int)
        return numbers[0] if len(numbers) == 1 else numbers
    return _numbers(name, value, float) if name in ("mean", "std") else value


def _numbers(name: str, text: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise SpecError(
            f"--{name} {text!r} is not a list of numbers: write --{name} 224 or --{name} 224,224."
        ) from None

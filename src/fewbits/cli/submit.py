"""Command submit: the artifact on a real device of Qualcomm AI Hub."""

from typing import Annotated

import typer

from fewbits.cli.options import Dims, Json, Quiet, parse_dims


def submit(
    run: Annotated[str, typer.Argument(metavar="OUT", help="Output folder of a run.")],
    *,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help='Exact name, such as "Samsung Galaxy S24".')],
    device_os: Annotated[
        str, typer.Option("--device-os", metavar="VERSION", help="Of its operating system.", show_default="the newest")
    ] = "",
    upload: Annotated[
        str, typer.Option("--upload", metavar="KIND", help="qdq: the artifact; aimet: the float model with encodings.")
    ] = "qdq",
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime", metavar="NAME", help="qnn_dlc, qnn_context_binary, precompiled_qnn_onnx, onnx or tflite."
        ),
    ] = "qnn_dlc",
    dim: Dims = None,
    inference: Annotated[
        bool, typer.Option("--inference/--no-inference", help="Run the stored samples there and compare.")
    ] = True,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, metavar="SECONDS", help="To wait for each job, its queue included.")
    ] = 3600,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Folder for hub.json.", show_default="OUT"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile, profile and run an artifact on a device of Qualcomm AI Hub; model and samples are uploaded there.

    Call it again to go on: jobs that were submitted are in hub.json, and are not submitted twice.
    """
    from fewbits.cli import show_submit
    from fewbits.cli.progress import Bars
    from fewbits.workflow.submit import submit as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            run, device=device, device_os=device_os, upload=upload, runtime=runtime, dims=parse_dims(dim),
            inference=inference, time_limit_s=time_limit, output=output, progress=bars,
        )  # fmt: skip
    if json:
        show_submit.submit_json(result)
    elif not quiet:
        show_submit.submit_table(result)

"""Command analyze: sensitivity of every layer, and what is wrong with the worst."""

from typing import Annotated, Any

import typer

from fewbits.cli.options import Data, Json, Model, OutputFolder, Quiet, Samples, Target
from fewbits.cli.shared import GRAPH, HELD, IMAGES, RANGED, RUNNING, SPREAD, names_of, takes, verb_options

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


@takes(RANGED, GRAPH, IMAGES, RUNNING, HELD, SPREAD)
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
    device: _Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Find what a model is sensitive to, layer by layer, and why; no labels are needed."""
    from fewbits.cli import show_analyze
    from fewbits.cli.progress import Bars
    from fewbits.workflow.analyze import analyze as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, precisions=names_of(precisions), method=method, analysis_samples=analysis_samples,
            probes=probes, outputs=None if outputs is None else names_of(outputs), confirm=confirm, worst=worst,
            output=output, target=target, samples=samples, device=device, progress=bars, **verb_options(shared),
        )  # fmt: skip
    if json:
        show_analyze.result_json(result)
    elif not quiet:
        show_analyze.result_table(result)

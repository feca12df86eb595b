"""Command amp: step 3 of the workflow."""

from typing import Annotated, Any

import typer

from fewbits.cli.options import Data, Json, Model, OutputFolder, Quiet
from fewbits.cli.shared import GOAL, GRAPH, HELD, IMAGES, RANGED, RUNNING, SCORED, SPREAD, names_of, takes, verb_options

_Candidates = Annotated[str, typer.Option("--candidates", metavar="P,P", help="Precisions to choose from.")]
_Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="X", help="Cost at most: a number in its unit, or 60% of the costliest candidate."
    ),
]
_MaxShare = Annotated[
    list[str] | None,
    typer.Option("--max-share", metavar="P=X%", help="w8a16=20%: of the groups at most; w8a16=20%macs: of the MACs."),
]
_Time = Annotated[
    str | None, typer.Option("--time", metavar="T", help="90s, 10m, 1h: a round that would not fit is not begun.")
]
_Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="P:PATTERN", help="fp16:head/*: what matches has this precision."),
]
_AtLeast = Annotated[
    list[str] | None,
    typer.Option("--at-least", metavar="P:PATTERN", help="w8a16:head/*: what matches has no lower precision."),
]
_Cost = Annotated[
    str, typer.Option("--cost", metavar="C", help="bitops, bytes, ort-latency, qnn-estimate:CHIP or FILE.csv.")
]
_MaxEvaluations = Annotated[int, typer.Option("--max-evaluations", min=1, help="Profiles to score, at most.")]
_AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Profiles per round of the search.")]
_Ranking = Annotated[
    str,
    typer.Option("--ranking", metavar="R", help="one-pass (needs torch), brute-force (a run for each group), auto."),
]
_RankSamples = Annotated[int, typer.Option("--rank-samples", min=1, help="Calibration samples to predict from.")]


@takes(GOAL, SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD, SPREAD)
def amp(
    model: Model,
    *,
    data: Data,
    output: OutputFolder,
    candidates: _Candidates = "w8a8,w8a16,fp16",
    budget: _Budget = None,
    max_share: _MaxShare = None,
    time: _Time = None,
    keep: _Keep = None,
    at_least: _AtLeast = None,
    cost: _Cost = "bitops",
    max_evaluations: _MaxEvaluations = 12,
    at_once: _AtOnce = 2,
    ranking: _Ranking = "auto",
    rank_samples: _RankSamples = 64,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Step 3: find the cheapest mix of precisions whose drop is acceptable; the best so far is always on disk."""
    from fewbits.cli import show_amp
    from fewbits.cli.progress import Bars
    from fewbits.workflow.amp import amp as verb

    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, candidates=names_of(candidates), budget=budget, max_share=max_share or (),
            time_limit=time, keep=keep or (), at_least=at_least or (), cost=cost, max_evaluations=max_evaluations,
            at_once=at_once, ranking=ranking, rank_samples=rank_samples, output=output, progress=bars,
            **verb_options(shared),
        )  # fmt: skip
    if json:
        show_amp.result_json(result)
    elif not quiet:
        show_amp.result_table(result)

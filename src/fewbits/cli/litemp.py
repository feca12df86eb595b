"""Command litemp: step 2 of the workflow."""

from typing import Annotated, Any

import typer

from fewbits.cli.options import Data, Json, Model, OutputFolder, Quiet
from fewbits.cli.shared import GOAL, GRAPH, HELD, IMAGES, RANGED, RUNNING, SCORED, takes, verb_options
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
_Time = Annotated[
    str | None, typer.Option("--time", metavar="T", help="90s, 10m, 1h: no percentage is begun after that.")
]
_Ranking = Annotated[
    str,
    typer.Option("--ranking", metavar="R", help="one-pass (needs torch), brute-force (a run for each group), auto."),
]
_RankSamples = Annotated[int, typer.Option("--rank-samples", min=1, help="Calibration samples to rank on, at most.")]


@takes(GOAL, SCORED, RANGED, GRAPH, IMAGES, RUNNING, HELD)
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
    time: _Time = None,
    ranking: _Ranking = "auto",
    rank_samples: _RankSamples = 64,
    json: Json = False,
    quiet: Quiet = False,
    **shared: Any,
) -> None:
    """Step 2: lift the most sensitive groups of operators to a higher precision until the drop is acceptable."""
    from fewbits.cli import show_litemp
    from fewbits.cli.progress import Bars
    from fewbits.workflow.litemp import litemp as verb

    percents = parse_percents(percent)
    with Bars(quiet=quiet or json) as bars:
        result = verb(
            model, data=data, base=base, high=high, percents=percents, score_all=score_all, most_macs=most_macs,
            time_limit=time, ranking=ranking, rank_samples=rank_samples, output=output, progress=bars,
            **verb_options(shared),
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

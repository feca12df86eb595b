"""Options that many commands have alike: written once as groups, which a command takes with `@takes`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fewbits.cli.options import (
    BatchSize,
    BiasCorrection,
    ChannelOrder,
    Crop,
    CustomOpLibrary,
    Dask,
    Dims,
    EvalData,
    EvalSamples,
    HigherIsBetter,
    Layout,
    MaxDrop,
    Mean,
    Memory,
    Metric,
    MinSqnr,
    Preset,
    Provider,
    Ranges,
    Ray,
    Resize,
    Samples,
    Scale,
    Simplify,
    Std,
    Target,
    Threads,
    WeightRanges,
    Workers,
    parse_dims,
    parse_preprocess,
    parse_run_options,
    parse_workers,
)

Group = Mapping[str, tuple[Any, Any]]
"""Parameter -> (its annotated type, its default)."""

GOAL: Group = {"max_drop": (MaxDrop, None), "min_sqnr": (MinSqnr, None)}
SCORED: Group = {
    "target": (Target, "qnn-htp-v73"),
    "metric": (Metric, None),
    "higher_is_better": (HigherIsBetter, None),
    "eval_data": (EvalData, None),
    "samples": (Samples, 400),
    "eval_samples": (EvalSamples, None),
}
RANGED: Group = {
    "ranges": (Ranges, "auto"),
    "weight_ranges": (WeightRanges, "auto"),
    "bias_correction": (BiasCorrection, True),
}
GRAPH: Group = {"dim": (Dims, None), "simplify": (Simplify, True)}
IMAGES: Group = {
    "preset": (Preset, None),
    "resize": (Resize, None),
    "crop": (Crop, None),
    "mean": (Mean, None),
    "std": (Std, None),
    "scale": (Scale, None),
    "channel_order": (ChannelOrder, None),
    "layout": (Layout, None),
}
SESSION: Group = {
    "provider": (Provider, "cpu"),
    "threads": (Threads, 0),
    "custom_op_library": (CustomOpLibrary, None),
}
RUNNING: Group = {**SESSION, "batch_size": (BatchSize, None)}
HELD: Group = {"memory": (Memory, None)}
SPREAD: Group = {"workers": (Workers, 1), "dask": (Dask, None), "ray": (Ray, None)}

Command = Callable[..., None]


def takes(*groups: Group) -> Callable[[Command], Command]:
    """Give a command the options of some groups; it finds their texts and numbers in its `**shared`.

    Args:
        groups: in the order in which `--help` lists them, behind the command's own options.
    """

    def give(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for group in groups
            for name, (kind, default) in group.items()
        ]

        @functools.wraps(command)
        def run(*args: Any, **given: Any) -> None:
            command(*args, **given)

        parameters = [*kept, *shared]
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": own.return_annotation}
        return run

    return give


def verb_options(shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of groups as the verbs take them: what stands for a value becomes that value.

    Raises:
        SpecError: a text cannot be read.
    """
    made = dict(shared)
    if "dim" in made:
        made["dims"] = parse_dims(made.pop("dim"))
    if "preset" in made:
        images = {name: made.pop(name) for name in IMAGES}
        made["preprocess"] = parse_preprocess(images.pop("preset"), **images)
    if "provider" in made:
        made["run_options"] = parse_run_options(
            made.pop("provider"), made.pop("threads"), made.pop("custom_op_library")
        )
    if "dask" in made:
        made["workers"] = parse_workers(made.pop("workers"), made.pop("dask"), made.pop("ray"))
    return made


def names_of(text: str) -> list[str]:
    """Return ["w8a8", "w8a16"] of "w8a8, w8a16"."""
    return [part.strip() for part in text.split(",") if part.strip()]

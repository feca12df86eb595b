"""What follows from an improvement: whether a method is kept, and what to do next."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewbits.analysis.evaluate import Evaluation, drop
from fewbits.errors import SpecError
from fewbits.improvement.methods import METHODS, Effort, Kind, Method
from fewbits.spec.precision import Precision
from fewbits.workflow.baseline import PRECISIONS
from fewbits.workflow.next_step import Steps, command_line
from fewbits.workflow.verdict import Status

_LEAST_GAIN = 0.01
"""Share by which the output error must fall, or may grow where the caller named the method."""
_UNKNOWN = " (its noise is not known: this metric has one value for all samples)"
_SHARED = ("data", "eval_data", "metric", "target", "samples", "eval_samples", "batch_size")
_ON = (*_SHARED, "ranges", "weight_ranges", "max_drop", "min_sqnr")


@dataclass(frozen=True, slots=True)
class OutputError:
    """How far the outputs are from those of the float model, on calibration samples.

    Attributes:
        error: squared error over the variance of each channel, averaged over channels and outputs; None where no output
            can be compared.
        sqnr_db: of the outputs; None likewise, or where there is no error.
    """

    error: float | None
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class MethodRow:
    """What one method did.

    Attributes:
        name: of the method.
        seconds: that it took, with calibrating and quantizing again.
        changed: how many layers it changed.
        declined: reason -> the layers that were left as they are.
        objective: mean over the layers of the method's own objective, (before, after); None where it has none.
        layers: (layer, before, after).
        output: error of the quantized model with it; None where nothing was made.
        score: of that model; None where it was not scored.
        kept: whether the result has it.
        reason: why.
    """

    name: str
    seconds: float
    changed: int
    declined: Mapping[str, tuple[str, ...]]
    objective: tuple[float, float] | None
    layers: tuple[tuple[str, float, float], ...]
    output: OutputError | None
    score: float | None
    kept: bool
    reason: str


def decide(before: tuple[OutputError, Evaluation], after: tuple[OutputError, Evaluation]) -> tuple[bool, str]:
    """Return whether a method is kept, and why: the error falls, or the score rises, and the score does not fall.

    Args:
        before: output error and score without it.
        after: output error and score with it.
    """
    errors, (old, new) = (before[0].error, after[0].error), (before[1], after[1])
    lost = drop(old, new)
    low, high = lost.interval or (lost.value, lost.value)
    said = f"{_figure(old)} to {_figure(new)}"
    beyond, unknown = (" beyond noise", "") if lost.interval else ("", _UNKNOWN)
    if lost.value > 0 and low > 0:
        return False, f"the score gets worse{beyond}, from {said}{unknown}"
    if errors[0] is not None and errors[1] is not None and errors[1] < errors[0] * (1 - _LEAST_GAIN):
        return True, f"the output error falls from {errors[0]:.4g} to {errors[1]:.4g}"
    if lost.value < 0 and high < 0:
        return True, f"the score gets better{beyond}, from {said}{unknown}"
    told = "" if None in errors else f" (error {errors[0]:.4g} to {errors[1]:.4g}, score {said})"
    return False, f"neither output error nor score improves{told}"


def not_worse(before: OutputError, after: OutputError) -> tuple[bool, str]:
    """Return whether a method that the caller named is kept, and why not: the outputs may not get worse.

    A fall of the error is not asked for, and the score is not, which few samples tell less of.
    """
    if before.error is None or after.error is None or after.error <= before.error * (1 + _LEAST_GAIN):
        return True, ""
    return False, f"the output error on calibration data would grow from {before.error:.4g} to {after.error:.4g}"


def _figure(score: Evaluation) -> str:
    return f"{score.value:.2f} {score.unit}".rstrip()


def steps_after(
    verb: str, rows: Sequence[MethodRow], status: Status, options: Mapping[str, Any], output: Path | None
) -> Steps:
    """Return (why, command) pairs: a stronger method where the goal is not met, then steps 1 to 3 on what was made.

    Args:
        verb: that ran.
        rows: what the methods did.
        status: of the score.
        options: of the run, by option name.
        output: folder of the run; None where nothing was kept.
    """
    stronger = () if status is Status.OK else tuple(_stronger(verb, rows, options))
    return (*stronger, *_repeated(options, output))


def _stronger(verb: str, rows: Sequence[MethodRow], options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tried = [row.name for row in rows]
    equalizers = [method.name for method in METHODS if method.kind is Kind.EQUALIZE]
    equalizations = [row.name for row in rows if row.kept and row.name in equalizers]
    effort = options["effort"]
    given = {**options, "output": options.get("output") or "OUT"}
    only = ("precision", "profile", *_ON, "clips", "output")
    if options["clips"] == "exact":
        given["clips"] = None
    usual = Effort()
    spent = {name: getattr(effort, name) for name in ("iterations", "seed", "device", "drop")}
    flags: dict[str, Any] = {name: value for name, value in spent.items() if value != getattr(usual, name)}
    if "qat" in tried or ("adaround" in tried and effort.granularity == "block"):
        return
    if "adaround" in tried:
        why, names, flags = (
            "learn the rounding of whole blocks together",
            "gptq,adaround",
            flags | {"granularity": "block"},
        )
    elif "gptq" in tried:
        why, names = "learn the rounding", "gptq,adaround"
    else:
        why, names = "choose the rounding of weights together", "gptq"
    method = ",".join((*equalizations, names))
    line = command_line(verb, given, only=only, method=method, **flags)
    yield why, line + _activations_flag(effort, Precision.parse(options["precision"]))


def _activations_flag(effort: Effort, precision: Precision) -> str:
    if effort.with_activations == usual_effort(Effort(), (precision,)).with_activations:
        return ""
    return " --with-activations" if effort.with_activations else " --no-with-activations"


def usual_effort(effort: Effort, precisions: Sequence[Precision]) -> Effort:
    """Return an effort with what it leaves open decided for a model in some precisions."""
    return effort.on(min((p.activation_bits for p in precisions if not p.is_float), default=16))


def _repeated(options: Mapping[str, Any], output: Path | None) -> Iterator[tuple[str, str]]:
    """Steps 1 to 3 again, as the workflow says, on the improved model: it is prepared, and its weights are pinned."""
    if output is None:
        return
    precision = Precision.parse(options["precision"])
    low, wide = str(precision), str(replace(precision, activation_bits=16))
    high = "fp16" if wide == low else wide
    given = {**options, "model": output, "dims": None, "simplify": None}

    def line(verb: str, **more: Any) -> str:
        return command_line(verb, given, only=_ON, **more, output=f"{output}-{verb}")

    yield "check what is handed over", shlex.join(["fewbits", "verify", str(output)])
    precisions = None if low in PRECISIONS else ",".join((low, *PRECISIONS))
    yield "step 1 again, with the better weights", line("baseline", precisions=precisions)
    if precision.is_float:
        return
    yield "step 2 again", line("litemp", base=low, high=high)
    yield "step 3 again", line("amp", candidates=",".join(dict.fromkeys((low, high, "fp16"))))


def check_order(methods: Sequence[Method]) -> None:
    """Refuse methods that would undo others.

    Raises:
        SpecError: weights are equalized after they were rounded, or rounded anew after they were trained.
    """
    rounding: str | None = None
    for position, method in enumerate(methods):
        if method.kind is Kind.TRAIN and position < len(methods) - 1:
            raise SpecError(f"{methods[position + 1].name} would undo {method.name}: name {method.name} last.")
        if method.kind is Kind.ROUND:
            rounding = method.name
        elif method.kind is Kind.EQUALIZE and rounding is not None:
            raise SpecError(
                f"{method.name} changes float weights and would undo {rounding}: name it before the methods that round."
            )

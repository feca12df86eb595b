"""What to do after a verdict: commands that can be pasted."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fewbits.runtime.data import Preprocess
from fewbits.runtime.session import RunOptions
from fewbits.spec.target import DEFAULT_TARGET, Target
from fewbits.workflow.calibrate import SAMPLES
from fewbits.workflow.verdict import Finding, Verdict

Steps = tuple[tuple[str, str], ...]

_DEFAULTS: Mapping[str, Any] = {"target": DEFAULT_TARGET, "samples": SAMPLES, "ranges": "auto", "weight_ranges": "auto"}
_SHARED = ("data", "eval_data", "metric", "target", "samples", "eval_samples", "batch_size")
_GOAL = ("max_drop", "min_sqnr")
_ANALYZED = ("data", "target", "samples", "batch_size", "ranges", "weight_ranges")
_LIFTED = {
    Finding.ACTIVATIONS: ("w8a8", "w8a16"),
    Finding.BOTH: ("w8a8", "w16a16"),
    Finding.WEIGHTS: ("w8a16", "w16a16"),
    Finding.HALF_ONLY: ("w8a16", "fp16"),
}
"""Finding -> the base of step 2, and what its most sensitive groups are lifted to."""


def next_steps(verdict: Verdict, options: Mapping[str, Any], output: Path | None) -> Steps:
    """Return (why, command) pairs: first how to take the accepted precision, then how to find a cheaper one.

    Args:
        verdict: what step 1 concluded.
        options: of the run, by option name; what has no text on a command line becomes a word in capitals.
        output: folder of the run; None where nothing was kept.
    """
    return (*_accepted(verdict, options, output), *_cheaper(verdict.finding, options))


def _accepted(verdict: Verdict, options: Mapping[str, Any], output: Path | None) -> Iterator[tuple[str, str]]:
    precision = verdict.accepted
    if precision is None:
        return
    if output is None:
        yield f"write {precision}", command_line("quantize", options, precision=precision, output="OUT")
        return
    folder = output / "deploy"
    words = ["fewbits", "export", str(output), "--precision", precision, "-o", str(folder)]
    yield f"hand over {precision}, if its latency suffices", shlex.join(words)
    yield "check what is handed over", shlex.join(["fewbits", "verify", str(folder)])


def _cheaper(finding: Finding, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if finding in (Finding.ACTIVATIONS, Finding.BOTH) and options["ranges"] != "auto":
        yield "choose activation ranges by the error at the output", _again(options, ranges="auto")
    if finding in (Finding.WEIGHTS, Finding.BOTH) and options["weight_ranges"] != "auto":
        yield "choose weight scales by the error at each layer's output", _again(options, weight_ranges="auto")
    if finding in (Finding.WEIGHTS, Finding.BOTH) and options["bias_correction"] is False:
        yield "let biases take up the mean error of the weights", _again(options, bias_correction=True)
    if finding in (Finding.WEIGHTS, Finding.BOTH):
        base = _LIFTED[finding][0]
        only = (*_SHARED, "ranges", "weight_ranges", *_GOAL)
        yield (
            "better weights without training",
            command_line("improve", options, only=only, precision=base, output="OUT"),
        )
    if finding in _LIFTED:
        base, high = _LIFTED[finding]
        yield f"stay at {base}, with the most sensitive groups of operators in {high}", _lite(options, base, high)
        unscored = {**options, "higher_is_better": None}
        yield "see which those are, and why", command_line("analyze", unscored, only=_ANALYZED, output="OUT")
    if finding is Finding.UNDECIDED:
        yield "score on more samples", _again(options, eval_data="MORE_DATA", eval_samples=None)
    if finding is Finding.NONE:
        scored = {
            **options,
            "data": options.get("eval_data") or options["data"],
            "simplify": None,
            "bias_correction": None,
        }
        yield "check the score of the float model itself", command_line("evaluate", scored, only=("data", "metric"))
    if finding in (Finding.INCOMPLETE, Finding.WIDE_ONLY):
        yield "run all precisions of step 1", _again(options, precisions=None)


def _again(options: Mapping[str, Any], **changes: Any) -> str:
    given = {**options, "output": options.get("output") or "OUT", **changes}
    return command_line("baseline", given, only=(*_SHARED, "precisions", "ranges", "weight_ranges", *_GOAL, "output"))


def _lite(options: Mapping[str, Any], base: str, high: str) -> str:
    only = (*_SHARED, "ranges", "weight_ranges", *_GOAL)
    return command_line("litemp", options, only=only, base=base, high=high, output="OUT")


def command_line(verb: str, options: Mapping[str, Any], *, only: tuple[str, ...] = (), **more: Any) -> str:
    """Return a command line of `only` these options (those that all verbs share, without), and of `more`."""
    names = only or (*_SHARED, "ranges", "weight_ranges")
    chosen = {name: options.get(name) for name in names} | more
    words = ["fewbits", verb, _text("model", options["model"])]
    for name, value in chosen.items():
        if value is None or _DEFAULTS.get(name) == value:
            continue
        words += ["-o" if name == "output" else f"--{name.replace('_', '-')}", _text(name, value)]
    return shlex.join([*words, *_lists(options)])


def _lists(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is no single option: dimensions, preprocessing, direction, simplification."""
    for name, size in (options.get("dims") or {}).items():
        yield from ("--dim", f"{name}={size}")
    preprocess, plain = options.get("preprocess"), Preprocess()
    for field in fields(plain) if isinstance(preprocess, Preprocess) else ():
        value = getattr(preprocess, field.name)
        if field.name != "resample" and value is not None and value != getattr(plain, field.name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield from (f"--{field.name.replace('_', '-')}", text)
    if options.get("higher_is_better") is not None:
        yield "--higher-is-better" if options["higher_is_better"] else "--lower-is-better"
    run, ordinary = options.get("run_options"), RunOptions()
    for name in ("provider", "threads") if isinstance(run, RunOptions) else ():
        if getattr(run, name) != getattr(ordinary, name):
            yield from (f"--{name}", str(getattr(run, name)))
    for library in run.custom_op_libraries if isinstance(run, RunOptions) else ():
        yield from ("--custom-op-library", library)
    for name in ("simplify", "bias_correction"):
        if options.get(name) is False:
            yield f"--no-{name.replace('_', '-')}"


def _text(name: str, value: Any) -> str:
    if isinstance(value, Target):
        return value.name
    if name == "precisions" and not isinstance(value, str):
        return ",".join(value)
    return str(value) if isinstance(value, str | Path | int | float) else name.upper()

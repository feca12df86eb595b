"""What a workflow came to, in sentences and commands."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewbits.analysis.evaluate import Evaluation
from fewbits.reporting.auto_record import AutoRecord, Contender
from fewbits.workflow.auto_checks import chip_of, has_failed
from fewbits.workflow.auto_facts import is_acceptable, unmeasured_of
from fewbits.workflow.auto_latency import DEVICE
from fewbits.workflow.next_step import Steps, command_line

_TRAINED = ("data", "eval_data", "metric", "target", "samples", "eval_samples", "batch_size", "max_drop", "min_sqnr")


def figures(made: Contender, before: Evaluation) -> str:
    """Return a model with its score, drop and latency, as a person reads them.

    Args:
        made: the model.
        before: score of the float model.
    """
    return f"{made.name} ({_figures(made, before.unit, is_sqnr=before.metric.startswith('sqnr'))})"


def _figures(made: Contender, unit: str, *, is_sqnr: bool) -> str:
    after = f" {unit}".rstrip()
    said = f"{made.score:.1f} dB" if is_sqnr else f"{made.score:.2f}{after}, drop {made.drop:.2f}{after}"
    return said if made.latency_ms is None else f"{said}, {made.latency_ms:.3g} ms"


def summary(record: AutoRecord) -> tuple[str, ...]:
    """Return verdict, recommendation, and what they rest on or leave open: three sentences."""
    chosen = chosen_of(record)
    said = _figures(chosen, str(record.metric["unit"]), is_sqnr=str(record.metric["name"]).startswith("sqnr"))
    name = chosen.name if chosen.precision == chosen.name else f"{chosen.name}, that is {chosen.precision}"
    goals = str(record.goal["text"])
    if record.max_latency_ms is not None:
        goals += f", latency of at most {record.max_latency_ms:g} ms"
    verdict = f"Step 1 finds the model {record.verdict['finding']}: {record.verdict['reason']}"
    if record.is_met:
        advice = f"Ship {name} ({said}{_saving(record, chosen)}): it meets the goal, {goals}."
    else:
        advice = f"Nothing meets the goal, {goals}; what comes nearest is {name} ({said}{_saving(record, chosen)})."
    return verdict, advice, _ground(record)


def chosen_of(record: AutoRecord) -> Contender:
    """Return the model whose files the run's folder holds."""
    return next(made for made in record.contenders if made.name == record.chosen)


def _saving(record: AutoRecord, chosen: Contender) -> str:
    wide = next((made for made in record.contenders if made.name == "w16a16"), None)
    if wide is None or not wide.bit_operations or chosen.bit_operations is None or wide is chosen:
        return ""
    return f", {chosen.bit_operations / wide.bit_operations:.0%} of the bit operations of w16a16"


def _ground(record: AutoRecord) -> str:
    samples, where = record.metric["samples"], ""
    if record.metric["is_on_calibration_data"]:
        where = ", which are the calibration data: score on others before you rely on it"
    failed = [f"{name} {result}" for name, result in record.checks.items() if has_failed(result)]
    if failed:
        return f"Scored on {samples} samples{where}; of the checks, {'; '.join(failed).rstrip('.')}."
    passed = ", ".join(name for name in record.checks if not record.checks[name].startswith("not done"))
    return f"Scored on {samples} samples{where}{f'; checks that passed: {passed}' if passed else ''}."


def next_steps(record: AutoRecord, options: Mapping[str, Any], folder: Path) -> Steps:
    """Return (why, command) pairs: what is left to do on the device, and what to do where the goals are not met."""
    return tuple(_next(record, options, folder))


def _next(record: AutoRecord, options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    run = str(folder)
    if options["latency_by"] == DEVICE and record.max_latency_ms is not None:
        unmeasured = unmeasured_of(record.contenders)
        for name in unmeasured:
            yield f"measure {name} on the device, and put the figure down", _words("latency", run, name, "MILLISECONDS")
        if unmeasured:
            yield "go on with what was measured", _words("auto", "--resume", run)
    is_htp = record.target.startswith("qnn-htp")
    chip = options["soc"] or chip_of(record.target)
    if chip and not any(name.startswith("compile") and not _is_open(r) for name, r in record.checks.items()):
        yield "compile it for your chip", _words("compile", run, "--soc", chip, "-o", str(folder / "compiled"))
    if is_htp:
        yield "run it on Qualcomm's emulator", _words("verify", run, "--on", "qnn-htp")
    if not record.is_met and not any(fork.step == "qat" for fork in record.forks):
        given = {**options, "model": run if _is_improved(record) else options["model"]}
        yield "train it, without labels", command_line("qat", given, only=_TRAINED, precision="w8a8", output="OUT")
    if not any(is_acceptable(made) for made in record.contenders):
        yield (
            "see which operators lose the accuracy, and why",
            command_line(
                "analyze", {**options, "higher_is_better": None}, only=("data", "target", "samples"), output="OUT"
            ),
        )


def _is_open(result: str) -> bool:
    return result.startswith("not done") or has_failed(result)


def _is_improved(record: AutoRecord) -> bool:
    return chosen_of(record).step in ("improve", "adaround")


def _words(*words: str) -> str:
    return shlex.join(("fewbits", *words))

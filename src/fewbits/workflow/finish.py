"""The end of every verb that makes a model: write it, score the file that was written, record the run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.analysis.evaluate import Drop, Evaluation, drop
from fewbits.reporting.record import RunRecord
from fewbits.runtime.session import Runner
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.writing import (
    Options,
    open_artifact,
    record_run,
    write_commands,
    write_models,
    write_record,
    write_samples_of,
)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A quantized model that was written and scored.

    Attributes:
        quantized: the model and how it was decided.
        score: of the file that was written.
        drop: what was lost against float, in the metric's direction.
        record: what was written to record.json.
    """

    quantized: Quantized
    score: Evaluation
    drop: Drop
    record: RunRecord


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A quantized model that was written.

    Attributes:
        folder: holds the files.
        made: the model.
        runner: of the file that was written.
    """

    folder: Path
    made: Quantized
    runner: Runner


def finish(
    verb: str,
    folder: Path,
    calibration: Calibration,
    scoring: Scoring,
    made: Quantized,
    *,
    before: Evaluation,
    stages: Stages,
    options: Options,
    label: str = "quantized",
) -> Finished:
    """Write a quantized model, score what was written, and record it.

    Args:
        verb: the command that ran.
        folder: where the files go, usually a scratch folder that is published when all of it is there.
        calibration: what the model was made from.
        scoring: how models are scored.
        made: the model.
        before: score of the float model.
        stages: told of the two stages.
        options: what the caller asked for.
        label: what the stages call the model.

    Raises:
        FewbitsError: it cannot be written, run or scored.
    """
    runner = write_made(folder, calibration, made, stages=stages, label=label)
    with stages.stage(f"score {label}", before.samples) as told:
        after = scoring.score(runner, told)
    return complete(
        verb, Written(folder, made, runner), calibration, scoring, scores=(before, after), stages=stages,
        options=options,
    )  # fmt: skip


def write_made(folder: Path, calibration: Calibration, made: Quantized, *, stages: Stages, label: str) -> Runner:
    """Write a quantized model and open the file that was written.

    Raises:
        FewbitsError: it cannot be written or loaded.
    """
    with stages.stage(f"write {label}"):
        write_models(folder, calibration, made)
        return open_artifact(folder, calibration.subject.options)


def complete(
    verb: str,
    written: Written,
    calibration: Calibration,
    scoring: Scoring,
    *,
    scores: tuple[Evaluation, Evaluation],
    stages: Stages,
    options: Options,
) -> Finished:
    """Add samples, command lines and the record to a model that was written and scored.

    Args:
        verb: the command that ran.
        written: the model.
        calibration: what it was made from.
        scoring: how models are scored.
        scores: of the float model and of the file.
        stages: how long everything took.
        options: what the caller asked for.

    Raises:
        FewbitsError: it cannot be run, or the files cannot be written.
    """
    folder, made, (before, after) = written.folder, written.made, scores
    write_samples_of(folder, written.runner, calibration)
    write_commands(folder, made.plan.target, made.counts)
    lost = drop(before, after)
    facts = _scores(scoring, before, after, lost)
    record = record_run(verb, folder, calibration, scoring, made, scores=facts, seconds=stages.seconds, options=options)
    write_record(folder, record)
    return Finished(made, after, lost, record)


def _scores(scoring: Scoring, before: Evaluation, after: Evaluation, lost: Drop) -> dict[str, Any]:
    return {
        "metric": before.metric,
        "unit": before.unit,
        "higher_is_better": before.higher_is_better,
        "float": before.value,
        "quantized": after.value,
        "drop": lost.value,
        "drop_interval": lost.interval,
        "samples": after.samples,
        "is_on_calibration_data": scoring.is_on_calibration_data,
    }

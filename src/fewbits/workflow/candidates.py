"""Candidates: several profiles of one network, each made, written and scored alike, and the rows that records hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fewbits.analysis.cost import Cost, cost_of, sizes_of
from fewbits.analysis.evaluate import Drop, Evaluation
from fewbits.artifact.folder import staged
from fewbits.quantization.profile import Profile
from fewbits.reporting.baseline_record import Row
from fewbits.reporting.record import RunRecord
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.finish import finish
from fewbits.workflow.goal import Goal
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.verdict import Status
from fewbits.workflow.writing import Options, data_facts, described, model_facts


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One profile that was written and scored.

    Attributes:
        precision: its name.
        score: of the file that was written.
        drop: against float, with its interval.
        cost: bit operations and bytes.
        status: whether it is within the goal.
        record: what its folder's record.json says.
        output: its folder, or None where nothing is kept.
    """

    precision: str
    score: Evaluation
    drop: Drop
    cost: Cost
    status: Status
    record: RunRecord
    output: Path | None

    @property
    def row(self) -> Row:
        """The candidate as records hold it."""
        return Row(
            self.precision, self.score.value, drop=self.drop.value, interval=self.drop.interval,
            status=self.status.value, **asdict(self.cost),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Contest:
    """What all candidates of one run share.

    Attributes:
        calibration: what they are made from.
        scoring: how they are scored.
        before: score of the float model.
        goal: what is acceptable.
        stages: told of every stage.
        options: what the caller asked for.
        output: folder of the run; each candidate gets one inside it. None keeps nothing.
    """

    calibration: Calibration
    scoring: Scoring
    before: Evaluation
    goal: Goal
    stages: Stages
    options: Options
    output: Path | None

    def make(self, name: str, profile: Profile | str) -> Quantized:
        """Quantize a candidate with the ranges that the caller asked for.

        Raises:
            SpecError: the profile cannot be used on this model and target.
        """
        with self.stages.stage(f"quantize {name}"):
            return quantize_calibrated(
                self.calibration, profile, ranges=self.options["ranges"], weight_ranges=self.options["weight_ranges"],
                bias_correction=self.options["bias_correction"],
            )  # fmt: skip

    def score(self, name: str, made: Quantized, folder: str, options: Mapping[str, Any]) -> Candidate:
        """Write a candidate into a folder of the run and score what was written.

        Args:
            name: what stages and records call it.
            made: the model.
            folder: name of its folder.
            options: with which `quantize` would make it again, as its record tells them.

        Raises:
            FewbitsError: it cannot be written, run or scored.
        """
        where = None if self.output is None else self.output / folder
        with staged(where) as stage:
            done = finish(
                "quantize", stage, self.calibration, self.scoring, made, before=self.before, stages=self.stages,
                options={**options, "output": where}, label=name,
            )  # fmt: skip
        cost = cost_of(self.calibration.model, made.model, made.plan, self.sizes)
        status = self.goal.judge(done.drop, done.score)
        return Candidate(name, done.score, done.drop, cost, status, done.record, where)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Open dimension -> size, as the first sample has it."""
        first = next(iter(self.calibration.subject.data.batches(1, 1)))
        return sizes_of(self.calibration.model, first.feeds)

    @property
    def float_row(self) -> Row:
        """The float model as records hold it."""
        cost = cost_of(self.calibration.model, self.calibration.model, None, self.sizes)
        return Row("float", self.before.value, **asdict(cost))

    def facts(self) -> dict[str, Any]:
        """Return the fields that the records of all such runs have in common."""
        before = self.before
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": {name: described(value) for name, value in self.options.items() if value is not None},
            "model": model_facts(self.calibration.source),
            "data": data_facts(self.calibration, self.scoring, self.options),
            "target": self.calibration.target.name,
            "metric": {
                "name": before.metric,
                "unit": before.unit,
                "higher_is_better": before.higher_is_better,
                "samples": before.samples,
                "is_on_calibration_data": self.scoring.is_on_calibration_data,
            },
            "goal": asdict(self.goal),
            "float_row": self.float_row,
            "timings": {name: round(value, 4) for name, value in self.stages.seconds.items()},
        }


def figures(candidate: Candidate, before: Evaluation) -> str:
    """Return score and drop of a candidate as a person reads them; `before` is the score of the float model."""
    if before.metric.startswith("sqnr"):
        return f"{candidate.score.value:.1f} dB"
    unit = f" {before.unit}".rstrip()
    text = f"{candidate.score.value:.2f}{unit}, drop {candidate.drop.value:.2f}{unit}"
    if candidate.drop.interval is not None:
        low, high = candidate.drop.interval
        text += f" [{low:.2f} to {high:.2f}]"
    return text

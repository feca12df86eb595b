"""Candidates: several profiles of one network, each made, written and scored alike, and the rows that records hold."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fewbits.analysis.cost import Cost, cost_of, sizes_of
from fewbits.analysis.evaluate import Drop, Evaluation
from fewbits.artifact import names
from fewbits.artifact.folder import staged
from fewbits.errors import OutputError
from fewbits.quantization.encode import Ranges
from fewbits.quantization.profile import Profile
from fewbits.reporting.baseline_record import Row
from fewbits.reporting.record import RunRecord, write_json
from fewbits.runtime.session import Runner
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.finish import Finished, Written, complete, write_made
from fewbits.workflow.goal import Goal
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.ready import Ready
from fewbits.workflow.score_memory import ScoreMemory, artifact_hash
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.verdict import Status
from fewbits.workflow.workers_scoring import ScoreFiles
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


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A candidate that is to be scored.

    Attributes:
        name: what stages and records call it.
        made: the model.
        folder: name of its folder.
        options: with which `quantize` would make it again, as its record tells them.
    """

    name: str
    made: Quantized
    folder: str
    options: Mapping[str, Any]


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
        memory: knows scores of files that were scored before.
        score_files: scores several files at once in workers; None scores one after the other in this process.
    """

    calibration: Calibration
    scoring: Scoring
    before: Evaluation
    goal: Goal
    stages: Stages
    options: Options
    output: Path | None
    memory: ScoreMemory = field(default_factory=ScoreMemory)
    score_files: ScoreFiles | None = None

    @classmethod
    def of(cls, ready: Ready, stages: Stages, options: Options, score_files: ScoreFiles | None = None) -> "Contest":
        """Return the contest of a run with these options."""
        output = None if options["output"] is None else Path(options["output"])
        given = (ready.calibration, ready.scoring, ready.before, ready.goal)
        return cls(*given, stages, options, output, ready.memory, score_files)

    def make(self, name: str, profile: Profile | str, *, ranges: Ranges | None = None) -> Quantized:
        """Quantize a candidate with the ranges that the caller asked for, or with those that another one came to.

        Raises:
            SpecError: the profile cannot be used on this model and target.
        """
        with self.stages.stage(f"quantize {name}"):
            return quantize_calibrated(
                self.calibration, profile, ranges=ranges or self.options["ranges"],
                weight_ranges=self.options["weight_ranges"], bias_correction=self.options["bias_correction"],
            )  # fmt: skip

    def score(self, name: str, made: Quantized, folder: str, options: Mapping[str, Any]) -> Candidate:
        """Write a candidate into a folder of the run and score what was written; see `score_all`."""
        return self.score_all([Entry(name, made, folder, options)])[0]

    def score_all(self, entries: Sequence[Entry]) -> list[Candidate]:
        """Write candidates into folders of the run and score what was written.

        Raises:
            FewbitsError: one cannot be written, run or scored.
        """
        with ExitStack() as stack:
            where = [None if self.output is None else self.output / entry.folder for entry in entries]
            folders = [stack.enter_context(staged(path)) for path in where]
            runners = [
                write_made(folder, self.calibration, entry.made, stages=self.stages, label=entry.name)
                for entry, folder in zip(entries, folders, strict=True)
            ]
            scores = self._scores(entries, folders, runners)
            done = [
                complete(
                    "quantize", Written(folder, entry.made, runner), self.calibration, self.scoring,
                    scores=(self.before, after), stages=self.stages, options={**entry.options, "output": path},
                )
                for entry, path, folder, runner, after in zip(entries, where, folders, runners, scores, strict=True)
            ]  # fmt: skip
        return [self._candidate(*of) for of in zip(entries, where, done, strict=True)]

    def _candidate(self, entry: Entry, where: Path | None, done: Finished) -> Candidate:
        made = entry.made
        cost = cost_of(self.calibration.model, made.model, made.plan, self.sizes)
        status = self.goal.judge(done.drop, done.score)
        return Candidate(entry.name, done.score, done.drop, cost, status, done.record, where)

    def _scores(self, entries: Sequence[Entry], folders: Sequence[Path], runners: Sequence[Runner]) -> list[Evaluation]:
        """Return the scores; those that are remembered take no run, the others are put down as they come."""
        contents = [artifact_hash(folder) for folder in folders]
        found = {i: known for i, content in enumerate(contents) if (known := self.memory.get(content)) is not None}
        missing = [i for i in range(len(entries)) if i not in found and i == contents.index(contents[i])]
        if self.score_files is None:
            for i in missing:
                with self.stages.stage(f"score {entries[i].name}", self.before.samples) as told:
                    found[i] = self.memory.put(contents[i], self.scoring.score(runners[i], told))
        elif missing:
            with self.stages.stage("score", len(missing) * self.before.samples) as told:
                for index, score in self.score_files([folders[i] / names.ARTIFACT for i in missing]):
                    found[missing[index]] = self.memory.put(contents[missing[index]], score)
                    told.advance(score.samples)
        return [found[contents.index(content) if i not in found else i] for i, content in enumerate(contents)]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Open dimension -> size, as the first sample has it."""
        return sizes_of(self.calibration.model, self.calibration.subject.first_feeds)

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


def publish(source: Path, made: RunRecord, record: Any, folder: Path) -> None:
    """Make `folder` that of the best model, with a record that is the model's as well as the run's.

    Args:
        source: folder of the best model.
        made: its record.
        record: of the run, a dataclass.
        folder: where the files go.

    Raises:
        OutputError: they cannot be copied.
    """
    for name in (*made.files, names.COMMANDS):
        try:
            shutil.copyfile(source / name, folder / name)
        except OSError as error:
            raise OutputError(
                f"Cannot write {name} to {str(source.parent)!r}: {error.strerror or error}. Choose another folder "
                f"with -o."
            ) from error
    options = {**record.options, "precision": made.options["precision"]}
    write_json(folder / names.RECORD, asdict(made) | asdict(record) | {"options": options})


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

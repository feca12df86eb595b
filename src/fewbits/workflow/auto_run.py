"""One run of the workflow: decide, do, note, until nothing is left to decide; the best so far is always on disk."""

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from fewbits.artifact import names
from fewbits.artifact.folder import staged
from fewbits.reporting.auto_record import AutoRecord, Contender, Fork
from fewbits.reporting.preflight_record import Preflight
from fewbits.reporting.record import read_record
from fewbits.runtime.memory import peak_mb
from fewbits.workflow.auto_checks import check_made
from fewbits.workflow.auto_facts import (
    base_of,
    best_of,
    is_acceptable,
    nearest_of,
    quickest_of,
    standing_of,
    unmeasured_of,
    wide_of,
    with_pareto,
)
from fewbits.workflow.auto_folders import forget_others
from fewbits.workflow.auto_latency import DEVICE, Clock
from fewbits.workflow.auto_rules import Aim, Facts, decide
from fewbits.workflow.auto_steps import Steps
from fewbits.workflow.auto_words import figures, next_steps, summary
from fewbits.workflow.candidates import Contest, publish
from fewbits.workflow.next_step import command_line
from fewbits.workflow.report import report
from fewbits.workflow.stages import Stages, Watcher
from fewbits.workflow.verdict import Finding, Verdict
from fewbits.workflow.writing import Options

OWN_OPTIONS = ("goal", "max_latency", "latency_by", "time", "qat", "soc", "memory")
"""Options of `auto` that the verbs it calls do not have."""
_NO_TORCH = "Better weights and training need torch, which is not installed: pip install 'fewbits[torch]'."
_COMMAND = (
    "data", "eval_data", "metric", "target", "samples", "eval_samples", "batch_size", "max_drop", "min_sqnr",
    *OWN_OPTIONS, "output",
)  # fmt: skip


@dataclass(eq=False)
class AutoRun:
    """One run.

    Attributes:
        steps: what can be done, with options, folder and what is ready.
        clock: who tells latencies.
        aim: what is wanted beyond the goals.
        max_latency_ms: that is acceptable; None sets no limit.
        stages: told of what the run does itself.
        preflight: what was known before; None where nothing was looked at.
        begin: time.monotonic() when the run began.
        watcher: told of the stages of every step.
        forks: the decisions so far.
        contenders: the models that were scored so far.
        verdict: of step 1.
        last: of the last time that uniform precisions were scored and told anything.
        checks: of what is handed over.
        notes: sentences for the user.
    """

    steps: Steps
    clock: Clock
    aim: Aim
    max_latency_ms: float | None
    stages: Stages
    preflight: Preflight | None
    begin: float
    watcher: Watcher | None = None
    forks: list[Fork] = field(default_factory=list)
    contenders: list[Contender] = field(default_factory=list)
    verdict: Verdict | None = None
    last: Verdict | None = None
    checks: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> AutoRecord:
        """Decide and do until a rule says stop; then check what is handed over.

        Raises:
            FewbitsError: something cannot be made, run or written.
        """
        while True:
            facts = self._facts()
            step, why = decide(facts)
            self._note_lack(facts, step)
            if step == "stop":
                self.forks.append(Fork(step, why))
                break
            self._do(step, why, facts)
            self._publish()
        forget_others(self.steps.folder, {fork.folder for fork in self.forks})
        with self.stages.stage("check"):
            self.checks = check_made(
                self.steps.folder, self.steps.ready, soc=self.steps.options["soc"], progress=self.watcher
            )
        record = self._publish()
        report(self.steps.folder)
        return record

    def _note_lack(self, facts: Facts, step: str) -> None:
        wanted, _ = decide(replace(facts, has_torch=True, may_improve=True))
        if wanted != step and not facts.has_torch and _NO_TORCH not in self.notes:
            self.notes.append(_NO_TORCH)

    def _do(self, step: str, why: str, facts: Facts) -> None:
        begin = time.perf_counter()
        made = self.steps.run(step, wide=facts.wide, aim=self.aim, fails=facts.base_fails)
        for found in made.contenders:
            self.contenders.append(self._timed(found) if is_acceptable(found) else found)
        if made.verdict is not None:
            self.verdict = self.verdict or made.verdict
            if self.last is None or made.verdict.finding is not Finding.INCOMPLETE:
                self.last = made.verdict
        seconds = time.perf_counter() - begin
        self.stages.seconds[step] = seconds
        self.forks.append(Fork(step, why, made.found, made.folder, seconds, made.evaluations))

    def _timed(self, found: Contender) -> Contender:
        with self.stages.stage(f"time {found.name}"):
            latency_ms = self.clock.latency_ms(found)
        by = "" if latency_ms is None else str(self.clock.by)
        return replace(found, latency_ms=latency_ms, latency_by=by)

    def _facts(self) -> Facts:
        """Return what the table of rules needs to know."""
        found, limit = self.contenders, self.max_latency_ms
        best, nearest, quickest = best_of(found, self.aim, limit), nearest_of(found), quickest_of(found)
        base, last, left = base_of(found), self.last, self.steps.left_s
        is_late = best is None and limit is not None and quickest is not None
        operations = None if base is None else base.bit_operations
        waits = limit is not None and self.clock.by == DEVICE
        return Facts(
            aim=self.aim,
            done=tuple(fork.step for fork in self.forks),
            finding=None if last is None else last.finding,
            reason="" if last is None else last.reason.rstrip("."),
            base=standing_of(base, operations, self._said(base)),
            best=standing_of(best, operations, self._said(best)),
            nearest=standing_of(nearest, operations, self._said(nearest)),
            wide=wide_of(found),
            too_slow=self._said(quickest) if is_late else "",
            unmeasured=unmeasured_of(found) if waits else (),
            has_better_weights=self.steps.has_better_weights,
            has_torch=importlib.util.find_spec("torch") is not None,
            may_improve=self.steps.room.may_improve,
            asks_qat=bool(self.steps.options["qat"]),
            has_time=left is not None and left > 0,
            is_over=left is not None and left <= 0,
        )

    def _said(self, made: Contender | None) -> str:
        return "" if made is None else figures(made, self.steps.ready.before)

    def _publish(self) -> AutoRecord:
        """Make the run's folder that of the best so far, with the record of what was decided."""
        record, folder = self.record(), self.steps.folder
        source = folder / next(made.folder or "" for made in record.contenders if made.name == record.chosen)
        made = read_record(source / names.RECORD)
        record = replace(record, model=made.model)
        with staged(folder) as stage:
            publish(source, made, record, stage)
        return record

    def record(self) -> AutoRecord:
        """Return the record of the run as it stands; at least one model was scored."""
        contenders = with_pareto(self.contenders)
        best = best_of(contenders, self.aim, self.max_latency_ms)
        chosen = best or nearest_of(contenders)
        assert chosen is not None
        options, verdict, given = self.steps.options, self.verdict, self._contest.calibration
        draft = AutoRecord(
            verb="auto",
            aim=self.aim.value,
            max_latency_ms=self.max_latency_ms,
            verdict={} if verdict is None else {**asdict(verdict), "finding": verdict.finding.value},
            forks=tuple(self.forks),
            contenders=contenders,
            chosen=chosen.name,
            is_met=best is not None,
            summary=(),
            checks=self.checks,
            preflight=self.preflight,
            command=_command(options),
            next_steps=(),
            notes=(*given.target.notes, *given.source.notes, *self.steps.room.notes, *self.notes),
            wall_s=time.monotonic() - self.begin,
            peak_mb=peak_mb() or 0.0,
            **self._contest.facts(),
        )
        steps = next_steps(draft, options, Path(self.steps.folder))
        return replace(draft, summary=summary(draft), next_steps=steps)

    @cached_property
    def _contest(self) -> Contest:
        """What all models of the run are compared by, with the weights that the caller gave."""
        return Contest.of(self.steps.begin.ready, self.stages, self.steps.options)


def _command(options: Options) -> str:
    """Return the command line that makes the run again."""
    flags = {"goal": None if options["goal"] == Aim.ENOUGH.value else options["goal"], "qat": None}
    return command_line("auto", {**options, **flags}, only=_COMMAND) + " --qat" * bool(options["qat"])

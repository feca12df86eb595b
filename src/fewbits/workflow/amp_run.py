"""One run of automatic mixed precision: profiles become files, files become scores, and the best so far is on disk."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, cast

from scipy.stats import spearmanr

from fewbits.analysis.costs import Costs, activation_type
from fewbits.analysis.sensitivity import Noise
from fewbits.artifact import names
from fewbits.artifact.folder import staged
from fewbits.quantization.encode import Ranges
from fewbits.quantization.groups import profile_of
from fewbits.reporting.amp_record import AmpRecord, GroupFacts, Origin, Point
from fewbits.runtime.store import Store
from fewbits.spec.precision import Precision
from fewbits.workflow.amp_noise import Noises, corrected, find_noise
from fewbits.workflow.amp_search import Limits, Outcome, Profile, Search, key_of_profile
from fewbits.workflow.amp_steps import reason_of, steps_after
from fewbits.workflow.amp_wishes import Wishes, widest
from fewbits.workflow.assign_precisions import Assigner
from fewbits.workflow.assignment_memory import AssignmentMemory
from fewbits.workflow.candidates import Candidate, Contest, Entry, publish
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.judge import OutputJudge
from fewbits.workflow.lifting import mac_shares
from fewbits.workflow.measured_error import measured_error
from fewbits.workflow.precision_problem import Problem, predicted_error
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.report import report

CURVE_POINTS = 16
_MEASURED = 32
"""Calibration samples on which errors of outputs are measured, at most."""
OWN_OPTIONS = (
    "candidates", "budget", "max_share", "time_limit", "keep", "at_least", "cost", "max_evaluations", "at_once",
    "ranking", "rank_samples", "workers",
)  # fmt: skip
"""Options of `amp` that `quantize` does not have."""


@dataclass(slots=True, eq=False)
class Known:
    """A profile that was considered.

    Attributes:
        number: by which the user takes it.
        origin: where it comes from.
        profile: group -> precision.
        cost: in the unit of the cost model.
        predicted: error of the outputs when it was chosen; None while noise is not known.
        measured: the same, of the file that was written.
        whole_cost: see `Point`.
        candidate: its score; None where it was not scored.
    """

    number: int
    origin: Origin
    profile: Profile
    cost: float
    predicted: float | None
    measured: float | None = None
    whole_cost: float | None = None
    candidate: Candidate | None = None

    @property
    def price(self) -> float:
        """The cost by which it is chosen: of the network as a whole where that is known."""
        return self.cost if self.whole_cost is None else self.whole_cost


@dataclass(eq=False)
class AmpRun:
    """One run.

    Attributes:
        contest: how candidates are made and scored.
        wishes: what the caller asks for besides accuracy.
        context: the network as cost models see it; its store is the run's.
        costs: of groups and conversions.
        wants_least_drop: see `Limits`.
        begin: time.monotonic() when the run began.
    """

    contest: Contest
    wishes: Wishes
    context: CostContext
    costs: Costs
    wants_least_drop: bool
    begin: float
    known: dict[tuple[tuple[str, str], ...], Known] = field(default_factory=dict)
    outcomes: list[tuple[Profile, Outcome]] = field(default_factory=list)
    noise: Noises = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ended: str = ""
    _longest_round: float = 0.0
    _published_runs: int = 0

    def run(self) -> AmpRecord:
        """Search; every round ends with the best so far in the output folder.

        Raises:
            FewbitsError: nothing is within what was asked for, or something cannot be written or run.
        """
        self._note_absent()
        cheapest = self._cheapest()
        outcome = self._score([("uniform", cheapest)])[0][1]
        if outcome.is_ok and not self.wants_least_drop:
            self.ended = "the cheapest profile of all is within the goal"
        elif not self._is_out_of_time():
            self._search()
        record = self.record(is_finished=True)
        self._publish(record, final=True)
        return record

    @property
    def store(self) -> Store:
        """What was found before."""
        return self.context.store

    @property
    def best(self) -> Known:
        """The profile that the output folder holds."""
        scored = [known for known in self.known.values() if known.candidate is not None]
        lost = {id(k): self._outcome(k).lost for k in scored}
        passed = [k for k in scored if self._outcome(k).is_ok]
        if passed and not self.wants_least_drop:
            return min(passed, key=lambda k: (k.price, lost[id(k)]))
        return min(scored, key=lambda k: (lost[id(k)], k.cost))

    def _outcome(self, known: Known) -> Outcome:
        assert known.candidate is not None
        drop = self.contest.goal.drop(known.candidate.drop, known.candidate.score)
        return Outcome(known.candidate.status.value == "ok", drop)

    def _is_accepted(self, known: Known) -> bool:
        is_within = self.budget is None or known.cost <= self.budget * (1 + 1e-9)
        return is_within and (self.wants_least_drop or self._outcome(known).is_ok)

    @cached_property
    def budget(self) -> float | None:
        """The budget in the unit of the cost."""
        if self.wishes.budget is None or not self.wishes.is_relative:
            return self.wishes.budget
        costliest = max(self.costs.total(self._uniform(p)) for p in self.wishes.candidates)
        return self.wishes.budget * costliest

    @cached_property
    def _allowed(self) -> Mapping[str, tuple[str, ...]]:
        return self.wishes.allowed(self.context.groups)

    @cached_property
    def _macs(self) -> dict[str, float] | None:
        return mac_shares(self.contest.calibration, self.context.groups, self.context.sizes)

    @property
    def _no_noise(self) -> Noises:
        return dict.fromkeys(self.wishes.precisions, Noise({}, {}, {}))

    def _problem(self, noise: Mapping[str, Noise]) -> Problem:
        """Return the problem; noise that is not known yet counts as none."""
        return Problem({**self._no_noise, **noise}, self.costs, self._allowed, self.wishes.limits(self._macs))

    def _note_absent(self) -> None:
        for name in self.wishes.candidates:
            if not any(name in costs for costs in self.costs.groups.values()):
                self.notes.append(f"{name} was left out: no group of this network can run in it on {self._target}.")

    @property
    def _target(self) -> str:
        return self.contest.calibration.target.name

    def _uniform(self, precision: str) -> dict[str, str]:
        """Return the profile with one precision for all, or the widest where a group cannot have it."""
        found = {}
        for group, costs in self.costs.groups.items():
            possible = [p for p in self.wishes.precisions if p in costs and p in self._allowed[group]]
            found[group] = precision if precision in possible else widest(possible or costs)
        return found

    def _cheapest(self) -> dict[str, str]:
        """Return the cheapest profile.

        Raises:
            SpecError: not even that is within the budget.
        """
        assigner = Assigner(self._problem({}))
        found = assigner.least_cost()
        if self.budget is not None:
            assigner.least_error(self.budget)  # says what the least is, where that is more
        return dict(found.profile)

    def _search(self) -> None:
        made = self._whole()
        options = self.contest.options
        limits = Limits(
            options["max_evaluations"], options["at_once"], self.contest.goal.error_shares, self.budget,
            self.wants_least_drop,
        )  # fmt: skip
        problem = self._problem(self.noise)
        with self.contest.stages.stage("predict the curve"):
            search = Search(AssignmentMemory(problem, self.store), limits, points=CURVE_POINTS)
        for known in self.known.values():
            known.predicted = predicted_error(problem.noise, known.profile)
        for assignment in search.curve:
            self._note("curve", assignment.profile, assignment.error)
        for profile, outcome in self.outcomes:
            search.tell(profile, outcome)
        self._publish(self.record(is_finished=False))
        while not self._is_out_of_time():
            if (doubtful := search.wants_correction) is not None:
                self.noise, _ = corrected(
                    self.noise, doubtful, self.contest.calibration, made, store=self.store,
                    stages=self.contest.stages, workers=options["workers"],
                )  # fmt: skip
                search.correct(AssignmentMemory(self._problem(self.noise), self.store))
            asked = search.ask()
            if not asked:
                self.ended = search.ended
                return
            for origin, assignment in asked:
                self._note(origin, assignment.profile, assignment.error)
            for profile, outcome in self._score([(origin, a.profile) for origin, a in asked]):
                search.tell(profile, outcome)

    def _is_out_of_time(self) -> bool:
        limit = self.wishes.time_limit_s
        if limit is None or time.monotonic() - self.begin + self._longest_round <= limit:
            return False
        self.ended = f"the {limit:g} s that were allowed have no room for another round"
        return True

    def _whole(self) -> dict[str, Quantized]:
        """Return the network in every precision, and find its noise."""
        contest, options = self.contest, self.contest.options
        names = [p for p in self.wishes.precisions if p != "fp32" and any(p in c for c in self.costs.groups.values())]
        made = {name: contest.make(name, name, ranges=self._ranges) for name in names}
        found = find_noise(
            contest.calibration, list(made.values()), method=options["ranking"], samples=options["rank_samples"],
            store=self.store, stages=contest.stages, workers=options["workers"],
        )  # fmt: skip
        self.noise = {**self._no_noise, **found}
        return made

    @cached_property
    def _ranges(self) -> Ranges | None:
        """What all profiles have in common: ranges of 8-bit activations as the network in one precision chose them."""
        narrow = [p for p in map(Precision.parse, self.wishes.candidates) if 0 < p.activation_bits <= 8]
        if not narrow:
            return None
        name = str(max(narrow, key=lambda p: (p.activation_bits, p.weight_bits)))
        return self.contest.make(name, name).ranges

    def _note(self, origin: Origin, profile: Profile, predicted: float | None) -> Known:
        key = key_of_profile(profile)
        if key not in self.known:
            cost = self.costs.total(profile)
            self.known[key] = Known(len(self.known) + 1, origin, dict(profile), cost, predicted)
        return self.known[key]

    def _score(self, asked: Sequence[tuple[Origin, Profile]]) -> list[tuple[Profile, Outcome]]:
        """Score a round of profiles, and put the best so far into the output folder."""
        begin, contest = time.monotonic(), self.contest
        round_ = [self._note(origin, profile, None) for origin, profile in asked]
        entries = [self._entry(known) for known in round_]
        candidates = contest.score_all(entries)
        for known, entry, candidate in zip(round_, entries, candidates, strict=True):
            known.candidate = candidate
            if self.costs.whole is not None:
                with contest.stages.stage("find costs"):
                    known.whole_cost = self.costs.whole(known.profile)
            with contest.stages.stage("measure errors"):
                known.measured = measured_error(
                    self._judge, contest.calibration, entry.made, store=self.store,
                    with_torch=contest.options["ranking"] == "one-pass",
                )  # fmt: skip
        found = [(known.profile, self._outcome(known)) for known in round_]
        self.outcomes += found
        self._longest_round = max(self._longest_round, time.monotonic() - begin)
        self._publish(self.record(is_finished=False))
        return found

    @cached_property
    def _judge(self) -> OutputJudge:
        return OutputJudge(
            self.contest.calibration, min(_MEASURED, self.contest.options["rank_samples"]), None, "channel",
            is_against_reference=True,
        )  # fmt: skip

    def _entry(self, known: Known) -> Entry:
        usual = Counter(known.profile.values()).most_common(1)[0][0]
        others = {g: known.profile[g.name] for g in self.context.groups if known.profile[g.name] != usual}
        profile = profile_of({g: Precision.parse(p) for g, p in others.items()}, Precision.parse(usual))
        name = f"point {known.number}"
        options = {k: v for k, v in self.contest.options.items() if k not in OWN_OPTIONS}
        nodes = {node: p for group, p in others.items() for node in group.nodes}
        options |= {"precision": usual, "profile": nodes or None}
        return Entry(name, self.contest.make(name, profile, ranges=self._ranges), folder_of(known.number), options)

    def record(self, *, is_finished: bool) -> AmpRecord:
        """Return the record of what is known so far."""
        contest, best = self.contest, self.best
        points = tuple(self._point(known) for known in sorted(self.known.values(), key=lambda k: (k.cost, k.number)))
        scored = [known for known in self.known.values() if known.candidate is not None]
        notes = [note for known in scored if known.candidate for note in known.candidate.record.notes]
        facts = contest.facts()
        draft = AmpRecord(
            verb="amp",
            candidates=self.wishes.candidates,
            cost={"name": self.costs.name, "unit": self.costs.unit, "is_estimate": self.costs.is_estimate},
            budget=self.budget,
            sensitivity=cast('Literal["one-pass", "brute-force"]', contest.options["ranking"]),
            groups=self._groups,
            points=points,
            chosen=best.number,
            is_accepted=self._is_accepted(best),
            is_finished=is_finished,
            ended=self.ended,
            evaluations=len(scored),
            rank_correlation=_rank_correlation(points),
            reason="",
            next_steps=(),
            notes=(*self.notes, *dict.fromkeys(notes)),
            **facts,
        )
        reason = reason_of(draft)
        return replace(draft, reason=reason, next_steps=steps_after(draft, contest.options, contest.output))

    @cached_property
    def _groups(self) -> tuple[GroupFacts, ...]:
        macs = self._macs
        return tuple(
            GroupFacts(g.name, len(g.nodes), None if macs is None else macs[g.name]) for g in self.context.groups
        )

    def _point(self, known: Known) -> Point:
        profile, count = known.profile, len(known.profile)
        types = {group: activation_type(precision) for group, precision in profile.items()}
        point = Point(
            number=known.number,
            origin=known.origin,
            profile=profile,
            shares={p: n / count for p, n in Counter(profile.values()).most_common()},
            cost=known.cost,
            conversions=sum(types[writer] != types[reader] for writer, reader in self._passed),
            conversion_cost=self.costs.converting(profile),
            predicted=known.predicted,
            measured=known.measured,
            whole_cost=known.whole_cost,
        )
        if known.candidate is None:
            return point
        row, output = known.candidate.row, known.candidate.output
        return replace(
            point, score=row.score, drop=row.drop, interval=row.interval, status=row.status,
            bit_operations=row.bit_operations, weight_bytes=row.weight_bytes,
            folder=None if output is None else output.name,
        )  # fmt: skip

    @cached_property
    def _passed(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.context.layout(self.wishes.precisions).passed)

    def _publish(self, record: AmpRecord, *, final: bool = False) -> None:
        """Make the output folder that of the best so far.

        What a run that was stopped had left there stays until something new is known, or all is.
        """
        output, best, runs = self.contest.output, self.best, self.contest.memory.runs
        is_known = output is not None and runs == self._published_runs and (output / names.RECORD).is_file()
        if output is None or (is_known and not final):
            return
        self._published_runs = runs
        assert best.candidate is not None
        with staged(output) as folder:
            publish(output / folder_of(best.number), best.candidate.record, record, folder)
            if final:
                report(folder)


def folder_of(number: int) -> str:
    """Return the name of the folder of a point.

    >>> folder_of(7)
    'point07'
    """
    return f"point{number:02}"


def _rank_correlation(points: Sequence[Point]) -> float | None:
    pairs = [(p.predicted, p.measured) for p in points if p.predicted is not None and p.measured is not None]
    if len(pairs) < 3:
        return None
    predicted, measured = zip(*pairs, strict=True)
    found = float(spearmanr(predicted, measured).statistic)
    return None if found != found else found  # noqa: PLR0124 - not defined where all are equal

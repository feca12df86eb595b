"""What every verb that scores several models begins with: the float model scored and judged by, and calibrated."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from fewbits.analysis.evaluate import Evaluation
from fewbits.analysis.scores import Metric
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.runtime.memory import Ceiling
from fewbits.runtime.parallel import Workers
from fewbits.runtime.store import Store
from fewbits.training.schedule import Training
from fewbits.workflow.calibrate import Calibration, calibrate_subject
from fewbits.workflow.ceiling import Load, hold
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.goal import Goal, open_goal
from fewbits.workflow.score_memory import ScoreMemory
from fewbits.workflow.scoring import Scoring, open_scoring
from fewbits.workflow.stages import Stages
from fewbits.workflow.subject import Subject, open_subject
from fewbits.workflow.writing import Options

_SUBJECT = ("data", "target", "dims", "simplify", "preprocess", "batch_size", "run_options")


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A float model with its data and the way of scoring; nothing ran yet.

    Attributes:
        subject: the model, its data and target.
        scoring: how it and all models derived from it are scored.
    """

    subject: Subject
    scoring: Scoring

    @classmethod
    def of(
        cls,
        options: Options,
        metric: Metric | None,
        stages: Stages,
        *,
        later: Collection[str] = (),
        training: Training | None = None,
    ) -> "Opened":
        """Open what the options of a verb name.

        Args:
            options: by name.
            metric: from `check_metric`.
            stages: told of the stage.
            later: what follows calibration and takes memory of its own, see `ceiling.hold`.
            training: how long and on what, where it follows.

        Raises:
            FewbitsError: the model, the data or an option cannot be used, or the memory does not suffice.
        """
        ceiling = Ceiling.of(options.get("memory"))
        with stages.stage("prepare"):
            subject = open_subject(options["model"], **{name: options[name] for name in _SUBJECT})
            subject = hold(subject, ceiling, Load(options["samples"], later, options.get("workers"), training))
            scoring = open_scoring(
                subject, samples=options["samples"], eval_data=options["eval_data"], metric=metric,
                eval_samples=options["eval_samples"], preprocess=options["preprocess"],
            )  # fmt: skip
        return cls(subject, scoring)

    def check(self, precisions: Iterable[str]) -> "Opened":
        """Refuse precisions that the target does not take.

        Raises:
            SpecError: there is one.
        """
        for precision in precisions:
            resolve(self.subject.model, Profile.parse(precision), self.subject.target)
        return self

    def score(self, options: Options, stages: Stages, store: Store | None = None) -> "Scored":
        """Score the float model, and read the goal.

        Args:
            options: of the verb, by name.
            stages: told of the stage.
            store: where scores are remembered; None remembers none.

        Raises:
            FewbitsError: it cannot be run or scored, or the goal does not suit the metric.
        """
        memory = ScoreMemory() if store is None else ScoreMemory.open(store, self.scoring, self.subject)
        with stages.stage("score float", self.scoring.limit) as told:
            key = "" if store is None else f"float {model_key(self.subject.reference_model)}"
            before = memory.remember(key, lambda: self.scoring.score_float(told))
        goal = open_goal(options["max_drop"], options["min_sqnr"], before)
        return Scored(self.subject, self.scoring, before, goal, memory)


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A float model that is scored, and not calibrated yet.

    Attributes:
        subject: the model, its data and target.
        scoring: how it and all models derived from it are scored.
        before: score of the float model.
        goal: what is acceptable.
        memory: knows scores of files that were scored before.
    """

    subject: Subject
    scoring: Scoring
    before: Evaluation
    goal: Goal
    memory: ScoreMemory

    def calibrate(self, options: Options, stages: Stages, workers: Workers | None = None) -> "Ready":
        """Run the float model once over its calibration data.

        Raises:
            DataError: the data cannot be used, or a tensor becomes NaN or Inf on them.
            SpecError: there are no such workers.
        """
        found = calibrate_subject(self.subject, samples=options["samples"], stages=stages, workers=workers)
        return Ready(self.scoring, self.before, self.goal, found, self.memory)


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """What a verb can be given by another one of the same process, so that nothing is done twice.

    Attributes:
        scoring: how models are scored.
        before: score of the float model.
        goal: what is acceptable.
        calibration: of the float model.
        memory: knows scores of files that were scored before.
    """

    scoring: Scoring
    before: Evaluation
    goal: Goal
    calibration: Calibration
    memory: ScoreMemory

    @property
    def subject(self) -> Subject:
        """The float model, its data and target."""
        return self.calibration.subject

    def again(self, calibration: Calibration | None = None) -> "Ready":
        """Return the same, or the same for another calibration, with a count of scores that begins anew."""
        memory = ScoreMemory(self.memory.store, self.memory.how)
        return replace(self, memory=memory, calibration=calibration or self.calibration)

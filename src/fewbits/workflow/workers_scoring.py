"""Scores from several workers: how models are scored, in a form that can be sent; several files scored at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fewbits.analysis.evaluate import Evaluation
from fewbits.analysis.score_types import Metric, Predict
from fewbits.analysis.score_user import UserMetric
from fewbits.analysis.scores import CachedPredict, parse_metric
from fewbits.graph.save import EXTERNAL_BYTES
from fewbits.runtime.data.types import Array, Dataset
from fewbits.runtime.parallel import Workers
from fewbits.runtime.progress import Progress
from fewbits.runtime.session import RunOptions, open_session
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.subject import Subject
from fewbits.workflow.workers_sent import KeptData, LateRunner, SentModel, on_threads, sent_data

ScoreFiles = Callable[[Sequence[str | Path]], Iterator[tuple[int, Evaluation]]]


@dataclass(frozen=True, slots=True, eq=False)
class SentScoring:
    """A `Scoring` that can be sent.

    Attributes:
        metric: the metric; for one in the user's own file, (file.py:function, whether higher is better).
        data: by path or by value; none for the user's own metric, which brings its own.
        limit: samples at most.
        batch_size: samples per call.
        is_on_calibration_data: no other data were given.
    """

    metric: Metric | tuple[str, bool]
    data: Dataset
    limit: int | None
    batch_size: int
    is_on_calibration_data: bool

    @classmethod
    def of(cls, scoring: Scoring) -> "SentScoring":
        """Return what is to be sent.

        Raises:
            DataError: the data cannot be read.
        """
        metric, data = scoring.metric, scoring.data
        sent: Metric | tuple[str, bool] = metric
        if isinstance(metric, UserMetric):
            data = KeptData(data.name, data.has_labels, ())
            if metric.path is not None:
                sent = (f"{metric.path}:{metric.name.rpartition(':')[2]}", metric.higher_is_better)
        else:
            data = sent_data(data, scoring.batch_size, scoring.limit)
        return cls(sent, data, scoring.limit, scoring.batch_size, scoring.is_on_calibration_data)

    def open(self, reference: Predict) -> Scoring:
        """Return the scoring.

        Args:
            reference: the float model.

        Raises:
            MetricError: the user's file is not there.
        """
        metric = self.metric
        if isinstance(metric, tuple):
            metric = parse_metric(metric[0], higher_is_better=metric[1])
        return Scoring(
            metric, self.data, self.limit, self.batch_size, CachedPredict(reference), self.is_on_calibration_data
        )


@contextmanager
def file_scorers(scoring: Scoring, subject: Subject, workers: Workers | None = None) -> Iterator[ScoreFiles]:
    """Lend a function that scores artifact files, several at once; what it needs reaches each worker once.

    Args:
        scoring: how models are scored.
        subject: the float model, and how models run.
        workers: who computes; None is this process.

    Returns:
        What takes paths of .onnx files and yields (index of the path, its score), as they finish.

    Raises:
        FewbitsError: there are no such workers, or what they need cannot be sent.
    """
    who = workers or Workers()
    with who.team(lambda: _Scorer(scoring, subject.options), lambda: _recipe(scoring, subject)) as team:
        yield lambda paths: team.map(_score, [_sent_file(Path(path), who) for path in paths])


def score_files(
    scoring: Scoring,
    subject: Subject,
    paths: Sequence[str | Path],
    workers: Workers | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Evaluation]]:
    """Yield (index of the path, its score) of several artifact files, as they finish.

    Args:
        scoring: how models are scored.
        subject: the float model, and how models run.
        paths: .onnx files.
        workers: who computes; None is this process.
        progress: told the samples of each file as it is done.

    Raises:
        FewbitsError: a file cannot be run or scored, or there are no such workers.
    """
    with file_scorers(scoring, subject, workers) as score:
        for index, found in score(paths):
            if progress is not None:
                progress.advance(found.samples)
            yield index, found


@dataclass(frozen=True, slots=True, eq=False)
class _Scorer:
    scoring: Scoring
    options: RunOptions


@dataclass(frozen=True, slots=True, eq=False)
class _ScorerRecipe:
    scoring: SentScoring
    model: SentModel | None
    options: RunOptions

    def open(self, threads: int) -> _Scorer:
        options = on_threads(self.options, threads)
        reference: Predict = _not_needed if self.model is None else LateRunner(self.model, options)
        return _Scorer(self.scoring.open(reference), options)


def _recipe(scoring: Scoring, subject: Subject) -> _ScorerRecipe:
    model = SentModel(subject.reference_model) if scoring.metric.needs_float else None
    return _ScorerRecipe(SentScoring.of(scoring), model, subject.options)


def _not_needed(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    raise AssertionError(f"the metric compares with the float model, which was not sent; fed {', '.join(feeds)}")


def _sent_file(path: Path, workers: Workers) -> Path | bytes:
    """Return the file's bytes for other machines, where they hold the whole model; else its path."""
    is_whole = not path.with_name(f"{path.name}.data").exists() and path.stat().st_size <= EXTERNAL_BYTES
    return path.read_bytes() if workers.is_cluster and is_whole else path.absolute()


def _score(scorer: _Scorer, file: Path | bytes) -> Evaluation:
    return scorer.scoring.score(open_session(file, options=scorer.options))

"""Probe runs: a few samples through the float model and its candidates, with the clock running."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import MetricError
from fewbits.numerics.ranges import MinMax, Mse, Percentile
from fewbits.quantization.encode import Encoded, Ranges, encode
from fewbits.quantization.insert import insert_qdq
from fewbits.quantization.observe import Feeds, Watchlist, observe, seen_by_softmax, watchlist
from fewbits.quantization.overflow import half_overflows
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.quantization.select import CANDIDATES, MOST_TRIALS
from fewbits.runtime.session import Runner
from fewbits.workflow.calibrate import Calibration, batch_size_for
from fewbits.workflow.scoring import Scoring
from fewbits.workflow.sessions import open_graph, with_outputs
from fewbits.workflow.subject import Subject

F64 = npt.NDArray[np.float64]

MOST_LOOKED_AT = 128
"""Calibration samples that are looked at one by one, at most."""
LOOK_S = 3.0
"""Seconds after which no further batch of them is taken."""
_TAIL = Percentile(99.99)
_TAILS = sum(isinstance(one, Percentile) for one in CANDIDATES)
_CALLS, _CALLS_S = 8, 0.5  # of the scoring whose feeds are looked at
_PATTERN_RUNS = 2  # onnxruntime lays out the memory of a shape in its second run, and takes more from then on
_RUNS, _RUNS_S = 4, 0.1  # of one model on the same feeds


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the first calibration samples showed.

    Attributes:
        calibration: statistics of those samples alone; serves the probes.
        magnitudes: largest magnitude of each sample in each tensor, [samples, tensors].
        tensors: names of the columns.
        inputs: those that are fed.
        feeds: the first batch.
        feeds_size: samples in it.
        open_s: opening the session that hands out all watched tensors.
        sample_s: calibrating on one sample.
        sample_bytes: fed or watched tensor, or output -> bytes per sample, of the largest.
        feeds_share: bytes of the average sample, relative to those of the first batch.
        is_by_sample: the first axis of every tensor counts samples.
        is_all: there are no more samples.
    """

    calibration: Calibration
    magnitudes: F64
    tensors: tuple[str, ...]
    inputs: tuple[str, ...]
    feeds: Feeds
    feeds_size: int
    open_s: float
    sample_s: float
    sample_bytes: Mapping[str, float]
    feeds_share: float
    is_by_sample: bool
    is_all: bool

    @property
    def samples(self) -> int:
        """How many were looked at."""
        return len(self.magnitudes)


def look(subject: Subject, samples: int) -> Look:
    """Calibrate on a few samples of the data, at the batch size of calibration, and see what each sample reaches.

    Args:
        subject: the float model and its data.
        samples: that calibration will take, at most.

    Raises:
        DataError: the data cannot be used, or a tensor becomes NaN or Inf on them.
    """
    watch = watchlist(subject.model.graph, subject.target)
    size = batch_size_for(subject)
    size = min(size, subject.options.at_once or size)
    begin = time.perf_counter()
    runner = open_graph(with_outputs(subject.model, tuple(watch.names)), subject.options)
    open_s = time.perf_counter() - begin
    seen = _Seen(runner, watch, min(samples, MOST_LOOKED_AT))
    statistics = observe(seen.run, watch, seen.batches(subject, size))
    assert seen.feeds is not None
    rows = [row for row in seen.rows if len(row) == len(seen.rows[0])]  # the same tensors: always, but for odd feeds
    return Look(
        Calibration(subject, statistics, size, {}), np.concatenate(rows), tuple(seen.names), tuple(seen.feeds),
        seen.feeds, seen.first_size, open_s, seen.sample_s(), seen.sample_bytes,
        seen.fed_bytes / sum(map(len, rows)) / (seen.first_bytes / seen.first_size), seen.is_by_sample, seen.is_all,
    )  # fmt: skip


@dataclass(eq=False)
class _Seen:
    """Stands between the model and its observer, and notes what each sample reaches and how long batches take."""

    runner: Runner
    watch: Watchlist
    limit: int
    names: tuple[str, ...] = ()
    rows: list[F64] = field(default_factory=list)
    feeds: Feeds | None = None
    first_size: int = 0
    is_all: bool = False
    sample_bytes: dict[str, float] = field(default_factory=dict)
    fed_bytes: int = 0
    first_bytes: int = 0
    is_by_sample: bool = True
    _size: int = 0
    _own_s: float = 0.0
    _times: list[tuple[float, int]] = field(default_factory=list)

    def batches(self, subject: Subject, size: int) -> Iterator[tuple[Feeds, int]]:
        """Yield batches until there are enough, or until they have taken long."""
        total, begin, last = 0, time.perf_counter(), time.perf_counter()
        for batch in subject.data.batches(size, self.limit):
            if self.feeds is None:
                self.feeds, self.first_size = batch.feeds, batch.size
            self._size = batch.size
            yield batch.feeds, batch.size
            now = time.perf_counter()
            self._times.append((now - last - self._own_s, batch.size))
            total, last, self._own_s = total + batch.size, now, 0.0
            if now - begin > LOOK_S:
                return
        self.is_all = total < self.limit

    def run(self, names: list[str], feeds: Feeds) -> Mapping[str, npt.NDArray[np.generic]]:
        """Run the model and note what each sample reaches."""
        values = self.runner.run(names, feeds)
        begin = time.perf_counter()
        found: dict[str, F64] = {}
        for name in dict.fromkeys((*feeds, *self.watch.tensors)):
            x: npt.NDArray[Any] = feeds[name] if name in feeds else values[name]
            if x.dtype.kind == "f":
                axis = self.watch.softmax_axes.get(name)
                found[name] = _reached(x if axis is None else seen_by_softmax(x, axis), self._size)
        self.names = tuple(found)
        fed = sum(x.nbytes for x in feeds.values())
        self.fed_bytes, self.first_bytes = self.fed_bytes + fed, self.first_bytes or fed
        self.is_by_sample &= all(x.ndim > 0 and len(x) == self._size for x in values.values())
        for name, x in (*feeds.items(), *values.items()):
            self.sample_bytes[name] = max(self.sample_bytes.get(name, 0.0), x.nbytes / self._size)
        self.rows.append(np.stack(list(found.values()), axis=1))
        self._own_s += time.perf_counter() - begin
        return values

    def sample_s(self) -> float:
        """Return the seconds of one sample; the first batch, which warms up, counts only where it is the only one."""
        times = self._times[1:] or self._times
        return sum(seconds for seconds, _ in times) / sum(size for _, size in times)


def _reached(x: npt.NDArray[Any], size: int) -> F64:
    """Return the largest finite magnitude of each sample, [size]; the same for all where they are not kept apart."""
    if not x.size:
        return np.zeros(size)
    rows = x.reshape(size, -1) if x.ndim and x.shape[0] % size == 0 else x.reshape(1, -1)
    found = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    if not np.isfinite(found).all():
        found = np.where(np.isfinite(rows), np.abs(rows), 0).max(axis=1)
    return np.asarray(np.broadcast_to(found, (size,)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Probe:
    """How long one model takes.

    Attributes:
        encode_s: deciding on a plan and its encodings for the first time.
        trials_s: encodings of all trials of ranges; 0 where nothing is tried.
        open_s: building the graph and loading it into onnxruntime.
        calibration_s: running it on one calibration sample.
        scoring_s: running it on one of the scored samples.
    """

    encode_s: float
    trials_s: float
    open_s: float
    calibration_s: float
    scoring_s: float


@dataclass(frozen=True, slots=True)
class Fed:
    """Feeds and their samples."""

    feeds: Feeds
    size: int


def probe_float(seen: Look, scored: Fed) -> Probe:
    """Time the float model."""
    runner = seen.calibration.subject.runner
    first = Fed(seen.feeds, seen.feeds_size)
    return Probe(0.0, 0.0, 0.0, run_seconds(runner, first), run_seconds(runner, scored))


def probe(seen: Look, precision: str, scored: Fed, *, is_tried: bool) -> Probe:
    """Make a candidate from the few samples that were looked at, and time what is done with it.

    Args:
        seen: the samples.
        precision: of the candidate.
        scored: feeds as scoring gives them.
        is_tried: its ranges will be chosen by trial: time other ranges, and calibration samples, too.

    Raises:
        SpecError: the target does not take the precision.
    """
    calibration = seen.calibration
    graph, statistics, memo = calibration.model.graph, calibration.statistics, calibration.memo
    begin = time.perf_counter()
    refused = half_overflows(graph, statistics)
    plan = resolve(calibration.model, Profile.parse(precision), calibration.target, half_refused=refused)

    def encoded(ranges: Ranges) -> Encoded:
        return encode(graph, plan, statistics, ranges, memo=memo)

    first = encoded(Ranges(MinMax(), wide=MinMax()))
    encode_s, trials_s = time.perf_counter() - begin, 0.0
    if is_tried:
        times = [_clock(lambda e=e: encoded(Ranges(e, wide=MinMax()))) for e in (Mse(), _TAIL, _TAIL)]  # type: ignore[misc]
        trials_s = times[0] + _TAILS * times[1] + (MOST_TRIALS - 1 - _TAILS) * times[2]
    begin = time.perf_counter()
    runner = open_graph(insert_qdq(calibration.model, plan, first), calibration.subject.options)
    open_s = time.perf_counter() - begin
    few = run_seconds(runner, Fed(seen.feeds, seen.feeds_size)) if is_tried else 0.0
    return Probe(encode_s, trials_s, open_s, few, run_seconds(runner, scored, _PATTERN_RUNS))


def run_seconds(runner: Runner, fed: Fed, least: int = 1) -> float:
    """Return the seconds that one sample takes: of the fastest of a few runs, or of `least` if they are long."""
    times: list[float] = []
    while len(times) < least or (len(times) < _RUNS and sum(times) < _RUNS_S):
        times.append(_clock(lambda: runner(fed.feeds)))
    return min(times) / fed.size


def _clock(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


class _EnoughError(Exception):
    """Ends a scoring run of which enough was seen."""


def scored_feeds(scoring: Scoring) -> Fed:
    """Return the largest feeds among the first that scoring gives a model.

    The metric is started once more, answered from what the float model gave before, and stopped after a few calls: only
    so a user's own function shows what it feeds.

    Raises:
        FewbitsError: the metric fails before it runs the model.
    """
    taken: list[Feeds] = []
    end = time.perf_counter() + _CALLS_S

    def predict(feeds: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        if len(taken) >= _CALLS or (taken and time.perf_counter() > end):
            raise _EnoughError
        taken.append(dict(feeds))
        return scoring.reference(feeds)

    try:
        scoring.score(predict)
    except (_EnoughError, MetricError):
        if not taken:
            raise
    feeds = max(taken, key=lambda some: sum(x.nbytes for x in some.values()))
    first = next(iter(feeds.values()))
    return Fed(feeds, len(first) if first.ndim else 1)

"""The memory that a process may take: told before work begins, held by doing less at once, refused where it cannot be.

What is told rests on the sizes of tensors of the largest sample, and on what was measured of everything else
(`benchmarks/ceilings.py`): it is an upper figure, of one sample at a time.
"""

import logging
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fewbits.errors import SpecError
from fewbits.improvement.methods import Effort, Kind, Method
from fewbits.quantization.observe import watchlist
from fewbits.reporting.preflight_record import Preflight
from fewbits.runtime.heap import return_large_blocks
from fewbits.runtime.memory import MB, Ceiling, available_mb, resident_mb
from fewbits.runtime.parallel import Workers
from fewbits.training.schedule import Training
from fewbits.training.windows import most_positions, open_axes
from fewbits.workflow import preflight_memory as figures
from fewbits.workflow.calibrate import MOST_TORCH_BYTES, Calibration, batch_size_for
from fewbits.workflow.preflight_memory import TORCH_MB, Improving
from fewbits.workflow.sessions import measured_bytes
from fewbits.workflow.subject import Subject

logger = logging.getLogger(__name__)

ONE_PASS, BALANCING, TRAINING = "one-pass", "balance", "training"
ROUNDING, LEARNING, BLOCKS = "rounding", "adaround", "adaround by block"
"""What may follow calibration and scoring, and takes memory of its own."""
_KEPT = 1 / 8
"""Share of the memory that is spare for what is kept to save time: samples, and outputs of the float model, each."""
_WAYS_OUT = {
    "": "allow more, or give smaller samples",
    ONE_PASS: "allow more, or rank by brute force (--method or --ranking brute-force)",
    BALANCING: "allow more, make batches smaller with --batch-size, or choose other methods (--method gptq)",
    ROUNDING: "allow more, or make batches smaller with --batch-size",
    LEARNING: "allow more, make batches smaller with --batch-size, or choose other methods (--method gptq)",
    BLOCKS: "allow more, make batches smaller with --batch-size, or learn layer by layer (--granularity layer)",
    TRAINING: "allow more, or take fewer samples: --train-batch of a step, --samples in all",
}


@dataclass(frozen=True, slots=True)
class _Told:
    """What a process is expected to take, in MB.

    Attributes:
        fixed: whatever the number of samples at once.
        each: per sample at once, while all of its tensors are there.
        later: step -> at least, with all that stays of what was before.
        workers: all worker processes together.
    """

    fixed: float
    each: float
    later: Mapping[str, float]
    workers: float = 0.0

    def needs(self) -> Iterator[tuple[str, float]]:
        """Yield (step, or "" for calibration and scoring; its least memory), workers included."""
        yield "", self.fixed + self.each + self.workers
        for step, least in self.later.items():
            yield step, least + self.workers


@dataclass(frozen=True, slots=True)
class _Largest:
    """The largest sample.

    Attributes:
        sizes: tensor -> bytes.
        samples: how many there are, at most.
        positions: along the open axes; 0 where all samples have one shape.
    """

    sizes: Mapping[str, float]
    samples: int
    positions: int = 0

    def drawn(self, training: Training | None, axes: int) -> float:
        """Return how many such samples the batch of one step of training amounts to, at most."""
        if training is None:
            return 0.0
        if not self.positions:
            return min(training.batch_size, self.samples)
        windows = 0.0 if training.window == 0 else most_positions(training.window, axes) / self.positions
        return min(training.batch_size, max(windows, 1.0))


@dataclass(frozen=True, slots=True)
class Load:
    """What a verb will do with a model.

    Attributes:
        samples: that calibration will take, at most.
        later: what follows calibration, of the names above.
        workers: who computes; None is this process.
        training: how long and on what, where it follows.
    """

    samples: int
    later: Collection[str] = ()
    workers: Workers | None = None
    training: Training | None = None


def hold(subject: Subject, ceiling: Ceiling | None, load: Load) -> Subject:
    """Return the subject as it runs below a ceiling: with fewer samples at once where that is needed.

    Results are the same to the last bit. Without a ceiling nothing changes; where more is expected than the system has
    left, a warning says so.

    Args:
        subject: nothing of it ran yet.
        ceiling: of the process, and of its workers on this machine, together; None sets none.
        load: what will be done.

    Raises:
        SpecError: it does not fit; the message has the figure.
        DataError: the data cannot be used.
    """
    if ceiling is None:
        usual = _Largest(figures.tensor_bytes(subject.model.graph, {}), load.samples)
        _warn(_told(subject, usual, load), batch_size_for(subject))
        return subject
    return_large_blocks()
    told = _told(subject, _largest(subject, load.samples), load)
    step, least = max(told.needs(), key=lambda need: need[1])
    allowed = ceiling.size_bytes / MB
    if least > allowed:
        way_out = _WAYS_OUT[step] + (", or take fewer --workers" if told.workers else "")
        what = f"The {step} step" if step else "The run"
        raise SpecError(
            f"{what} is expected to take {least:.0f} MB at least, one sample at a time, and --memory allows "
            f"{allowed:.0f} MB: {way_out}."
        )
    spare = allowed - least
    kept = int(_KEPT * spare * MB)
    more = int((spare - 2 * kept / MB) / max(told.each, 1e-6))  # what `least` takes, later steps need beside them
    at_once = min(1 + more, batch_size_for(subject))
    options = replace(subject.options, at_once=at_once)
    runner, reference = (replace(one, at_once=at_once) for one in (subject.runner, subject.reference))
    held = replace(ceiling, size_bytes=int((allowed - told.workers) * MB), kept_bytes=kept)
    return replace(subject, options=options, runner=runner, reference=reference, ceiling=held)


def _told(subject: Subject, largest: _Largest, load: Load) -> _Told:
    """Return what a process is expected to take, given the largest sample."""
    model, watch = subject.model, watchlist(subject.model.graph, subject.target)
    graph, sizes, samples = model.graph, largest.sizes, largest.samples
    passed = sum(sizes.get(str(value.name), 0.0) for value in (*graph.inputs, *graph.outputs))  # constants have none
    base = resident_mb() or 0.0
    added = figures.step1_mb(model, watch, passed, samples)
    each = figures.sample_mb(sum(sizes.get(name, 0.0) for name in watch.names))
    torch_mb, stays = (0.0 if "torch" in sys.modules else TORCH_MB), base + added
    better, drawn = _improving(subject, largest), largest.drawn(load.training, len(_axes(subject)))
    more = {
        ONE_PASS: lambda: figures.least_one_pass_mb(model, sizes),
        BALANCING: lambda: better.balancing_mb,
        ROUNDING: lambda: better.rounding_mb,
        LEARNING: lambda: better.learning_mb,
        BLOCKS: lambda: better.block_learning_mb,
        TRAINING: lambda: figures.training_mb(model, sizes, samples, passed, drawn),
    }
    count = load.workers.count if load.workers is not None and load.workers.count > 1 else 0
    worker = figures.WORKER_MB + added + each
    return _Told(
        stays, each, {step: stays + torch_mb + more[step]() for step in more if step in load.later}, count * worker
    )


def _largest(subject: Subject, samples: int) -> _Largest:
    """Return the largest sample; all data are read where samples may differ in size."""
    graph, feeds, positions = subject.model.graph, subject.first_feeds, 0
    axes = _axes(subject)
    if axes:
        count, most, shapes = 0, 0, set()
        for batch in subject.data.batches(1, samples):
            size, count = sum(x.nbytes for x in batch.feeds.values()), count + batch.size
            shapes.add(tuple(x.shape for x in batch.feeds.values()))
            if size > most:
                feeds, most = batch.feeds, size
        samples = min(samples, count)
        positions = math.prod(feeds[name].shape[i] for name, i in axes.values()) if len(shapes) > 1 else 0
    names = [str(value.name) for value in (*graph.inputs, *(v for node in graph for v in node.outputs))]
    sizes = figures.tensor_bytes(graph, measured_bytes(subject.model, names, feeds, subject.options))
    return _Largest(sizes, samples, positions)


def _axes(subject: Subject) -> dict[str, tuple[str, int]]:
    """Return every open axis of the inputs but that of samples -> an input and which of its axes it is."""
    found = open_axes(subject.model)
    return {name: (of, i) for of, names in found.items() for i, name in enumerate(names) if name is not None}


def _improving(subject: Subject, largest: _Largest) -> Improving:
    return Improving(subject.model, largest.sizes, largest.samples, batch_size_for(subject, most=MOST_TORCH_BYTES))


def _warn(told: _Told, batch: int) -> None:
    """Say where more is expected than there is, before work begins."""
    there, expected = available_mb(), max(told.fixed + batch * told.each, *(least for _, least in told.needs()))
    more = expected - (resident_mb() or 0.0)
    if there is not None and more > there:
        logger.warning(
            "The run is expected to take %.0f MB of memory, and %.0f MB are left: a smaller --batch-size, fewer "
            "--workers, or --memory, which does less at once, may help.",
            more, there,
        )  # fmt: skip


def later_steps(methods: Iterable[Method], effort: Effort) -> tuple[str, ...]:
    """Return what methods of step 4 do that takes memory of its own."""
    found = (_step(method, effort) for method in methods if method.needs_torch)
    return tuple(dict.fromkeys(found))


def _step(method: Method, effort: Effort) -> str:
    if method.name == "adaround":
        return BLOCKS if effort.granularity == "block" else LEARNING
    if method.kind is Kind.ROUND:
        return ROUNDING
    return TRAINING if method.kind is Kind.TRAIN else BALANCING


def effort_within(method: Method, effort: Effort, calibration: Calibration, samples: int) -> Effort:
    """Return the effort with a ceiling of activations that the memory left allows."""
    subject = calibration.subject
    if subject.ceiling is None:
        return effort
    better = _improving(subject, _largest(subject, samples))
    step = _step(method, effort)
    if step == LEARNING:
        taken = better.learning_mb
    else:
        taken = better.block_learning_mb if step == BLOCKS else better.rounding_mb
    return replace(effort, ceiling=max(1, min(effort.ceiling, int(subject.ceiling.left_bytes - taken * MB))))


@dataclass(frozen=True, slots=True)
class Room:
    """What of the later steps of `auto` fits into the memory that the run may take.

    Attributes:
        ranking: how groups are ranked: "auto", or "brute-force" where one pass with gradients does not fit.
        may_improve: the methods of step 4 fit.
        notes: sentences for the user, about what is done otherwise.
    """

    ranking: str = "auto"
    may_improve: bool = True
    notes: tuple[str, ...] = ()

    @classmethod
    def within(cls, memory: Ceiling | None, known: Preflight) -> "Room":
        """Return what fits below a ceiling; None sets no limit.

        Raises:
            SpecError: not even step 1 fits.
        """
        if memory is None:
            return cls()
        allowed = memory.size_bytes / MB
        assert known.step1_mb is not None, "a ceiling is refused where the system does not tell memory"
        if known.step1_mb > allowed:
            raise SpecError(
                f"Step 1 is expected to take {known.step1_mb:.0f} MB, and --memory allows {allowed:.0f} MB: allow "
                f"more, or take fewer samples with --samples."
            )
        notes = ["Memory for training is not told beforehand, and --memory does not hold there."]
        ranking, may_improve = "auto", True
        if (one_pass := known.later_mb["litemp"]) > allowed:
            ranking = "brute-force"
            notes.append(f"Groups are ranked by brute force, since one pass may take {one_pass:.0f} MB.")
        if (least := known.later_mb["improve"] - known.waiting_mb) > allowed:
            may_improve = False
            notes.append(f"Better weights are left out, since they may take {least:.0f} MB.")
        return cls(ranking, may_improve, tuple(notes))

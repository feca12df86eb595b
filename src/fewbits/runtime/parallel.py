"""Many jobs of one kind on several workers: processes of this machine, or those of a Dask or Ray cluster.

In: a task, what all its jobs need, the jobs. Out: (index of the job, result), as they finish. A job's result does not
depend on who computes it, nor on how many workers there are; a worker that is lost costs its jobs a second try.
Reading order: this (the parent's side), parallel_pools (where jobs run), parallel_worker (the worker's side).
"""

import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from fewbits.errors import FewbitsError, SpecError
from fewbits.runtime import parallel_pools
from fewbits.runtime.parallel_pools import Pool
from fewbits.runtime.parallel_worker import Answer, Call, Recipe, perform, versions

__all__ = ["Recipe", "Team", "Workers"]

Ready = TypeVar("Ready")
Job = TypeVar("Job")
Result = TypeVar("Result")

_MOST_LOSSES = 3
"""Workers that may be lost in a row without one job finished in between."""
_SENDS_PER_PROCESS = 4  # of a recipe, until a process that lacks it has to ask


class Team(Protocol):
    """Workers who have all that jobs of one kind need."""

    def map(self, task: Callable[[Any, Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        """Yield (index of the job, what the task gave), as they finish.

        Args:
            task: takes what the team was given, and a job; a function of a module.
            jobs: anything that can be pickled; read as workers become free, perhaps in another thread.

        Raises:
            FewbitsError: that of the first job, in their order, which failed; or workers are lost again and again.
        """


@dataclass(frozen=True, slots=True)
class Workers:
    """Who computes.

    Attributes:
        count: processes on this machine; 1 is this very process.
        dask: address of a Dask scheduler, whose workers are used instead.
        ray: address of a Ray cluster, likewise; "local" starts one on this machine.

    Raises:
        SpecError: fewer than one, or two of the three at once.
    """

    count: int = 1
    dask: str | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SpecError(f"--workers {self.count} is impossible: write at least 1.")
        given = [f"--{name}" for name in ("dask", "ray") if getattr(self, name) is not None]
        if self.count > 1:
            given.insert(0, "--workers")
        if len(given) > 1:
            raise SpecError(
                f"{' and '.join(given)} say different things about who computes (a cluster brings its own workers): "
                f"keep one of them."
            )

    @property
    def is_alone(self) -> bool:
        """Whether all is computed in this process."""
        return self.count == 1 and not self.is_cluster

    @property
    def is_cluster(self) -> bool:
        """Whether workers may be on other machines."""
        return self.dask is not None or self.ray is not None

    @contextmanager
    def team(self, here: Callable[[], Ready], recipe: Callable[[], Recipe]) -> Iterator[Team]:
        """Lend workers for jobs of one kind; leaving it early ends what still runs.

        Args:
            here: makes what the jobs need in this process; called where it computes alone.
            recipe: returns the same in a form that can be sent; called elsewhere, when the first jobs come.

        Raises:
            MissingExtraError: the cluster's package is not installed.
            SpecError: the cluster does not answer; or what is needed cannot be sent.
        """
        if self.is_alone:
            yield _Alone(here())
            return
        with _Several(self._pool, recipe) as several:
            yield several

    def _pool(self) -> AbstractContextManager[Pool]:
        if self.dask is not None:
            return parallel_pools.dask(self.dask)
        if self.ray is not None:
            return parallel_pools.ray(self.ray)
        return parallel_pools.processes(self.count)


class _Alone:
    """A `Team` of this process."""

    def __init__(self, ready: Any) -> None:
        self._ready = ready

    def map(self, task: Callable[[Any, Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        """Do one job after the other."""
        for index, job in enumerate(jobs):
            yield index, task(self._ready, job)


class _Several:
    """A `Team` of other processes."""

    def __init__(
        self, open_pool: Callable[[], AbstractContextManager[Pool]], make_recipe: Callable[[], Recipe]
    ) -> None:
        self._open_pool, self._make_recipe = open_pool, make_recipe
        self._recipe, self._key, self._kept = b"", "", cast("Recipe | None", None)
        self._stack, self._holders, self._sends = ExitStack(), set[str](), 0
        self._pool: Pool
        self._file: Path | None = None
        self._is_ready = False  # not where a worker was lost, or a run ended early: joblib's Parallel is spoiled then
        self._running: Generator[Answer] | None = None

    def __enter__(self) -> "_Several":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _renew(self) -> None:
        """Let go of the workers that there are, and open others."""
        self._close()
        if self._kept is None:
            self._kept = self._make_recipe()  # what it sends by path lasts as long as it
            self._recipe = _pickled(self._kept, "What jobs need")
            self._key = hashlib.sha256(self._recipe).hexdigest()
        with ExitStack() as stack:
            self._pool = stack.enter_context(self._open_pool())
            if self._pool.is_here:
                self._file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewbits."))) / "recipe"
                self._file.write_bytes(self._recipe)
            self._stack = stack.pop_all()
        self._holders, self._sends, self._is_ready = set(), 0, True

    def _close(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None
        self._stack.close()

    def map(self, task: Callable[[Any, Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        """Hand the jobs out, and again those whose worker was lost."""
        book, losses = _Book(jobs), 0
        while book.is_open:
            if not self._is_ready:
                self._renew()
            try:
                self._is_ready = False
                calls = (self._sent(task, book, index) for index in book.handed_out())
                self._running = self._pool.run(perform, calls)
                with closing(self._running) as answers:
                    for answer in answers:
                        if book.is_done(answer):
                            losses = 0
                            self._holders.add(answer.worker)
                            yield answer.index, answer.result
                        if book.is_lost:
                            break
                    else:
                        self._is_ready = True
            except self._pool.lost as error:
                losses += 1
                if losses == _MOST_LOSSES:
                    raise _given_up(error) from error
            except ModuleNotFoundError as error:
                raise FewbitsError(
                    f"A worker has no module {error.name!r}: install there what is installed here."
                ) from error
        book.require_success()

    def _sent(self, task: Callable[[Any, Any], Any], book: "_Book", index: int) -> bytes:
        with_recipe = book.is_lacking(index) or (
            len(self._holders) < self._pool.processes and self._sends < _SENDS_PER_PROCESS * self._pool.processes
        )
        self._sends += with_recipe
        recipe: bytes | Path | None = self._file or (self._recipe if with_recipe else None)
        is_here = self._pool.is_here
        whose = (os.getpid(), {}) if is_here else (None, versions())
        return _pickled(Call(index, task, book.job(index), self._key, recipe, self._pool.threads, *whose), "A job")


class _Book:
    """Which jobs are out, and what is to be done yet; jobs are fetched in joblib's threads."""

    def __init__(self, jobs: Iterable[Any]) -> None:
        self._lock = threading.Lock()
        self._source, self._fetched, self._is_read = iter(jobs), 0, False
        self._out: dict[int, Any] = {}
        self._again: deque[int] = deque()
        self._lacking: set[int] = set()
        self._failed: dict[int, BaseException] = {}

    @property
    def is_open(self) -> bool:
        """Whether there is something to do yet: all jobs, or those before the first that failed."""
        with self._lock:
            return not (self._is_read or self._failed) or any(self._counts(index) for index in self._out)

    @property
    def is_lost(self) -> bool:
        """Whether a job failed, and none before it is left to do."""
        return bool(self._failed) and not self.is_open

    def _counts(self, index: int) -> bool:
        return not self._failed or index < min(self._failed)

    def handed_out(self) -> Iterator[int]:
        """Yield the jobs of one round: first those that came back undone from the round before."""
        with self._lock:
            self._again = deque(sorted(index for index in self._out if self._counts(index)))
        while (index := self._next()) is not None:
            yield index

    def _next(self) -> int | None:
        with self._lock:
            if self._again:
                return self._again.popleft()
            if self._is_read or self._failed:
                return None
        try:
            job = next(self._source)
        except StopIteration:
            self._is_read = True
            return None
        except Exception as error:  # data that cannot be read: what comes before is finished first
            with self._lock:
                self._failed[self._fetched] = error
            return None
        with self._lock:
            index, self._fetched = self._fetched, self._fetched + 1
            self._out[index] = job
            return index

    def job(self, index: int) -> Any:
        """Return a job that is out."""
        return self._out[index]

    def is_lacking(self, index: int) -> bool:
        """Whether a worker could not do this job for want of the recipe."""
        return index in self._lacking

    def is_done(self, answer: Answer) -> bool:
        """Take an answer in; whether it holds a result."""
        with self._lock:
            if answer.is_lacking:
                self._lacking.add(answer.index)
                self._again.append(answer.index)
                return False
            del self._out[answer.index]
            if answer.error is not None:
                self._failed[answer.index] = answer.error
            return answer.error is None

    def require_success(self) -> None:
        """Raise what the first job that failed raised."""
        if self._failed:
            raise self._failed[min(self._failed)]


def _given_up(error: BaseException) -> FewbitsError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return FewbitsError(
        f"Workers were lost {_MOST_LOSSES} times in a row without finishing one job ({said}): most often the machine "
        f"has no memory left. Use fewer --workers, or a smaller --batch-size."
    )


def _pickled(thing: Any, what: str) -> bytes:
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(thing))
    except Exception as error:  # whatever the user's objects raise
        raise SpecError(
            f"{what} cannot be sent to workers ({type(error).__name__}: {error}): give data and metrics as a path or "
            f"as file.py:function, or compute in one process (--workers 1)."
        ) from error

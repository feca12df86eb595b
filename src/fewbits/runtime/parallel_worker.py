"""What happens in a worker: one call in, as bytes; one answer out. What all calls need is made ready once and kept.

A call names what it needs by its content hash. A worker that does not have it takes it from the call, or answers that
it lacks it, and gets it with the next one: so that a worker which joins or is replaced halfway needs no special care.
"""

import os
import pickle
import signal
import socket
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from fewbits.errors import FewbitsError

_MOST_KEPT = 2
"""Things made ready that a worker keeps: the one in use, and the one before."""


class Recipe(Protocol):
    """What every job of a kind needs, in a form that can be sent; a worker makes it ready once."""

    def open(self, threads: int) -> Any:
        """Return what the jobs need, models on that many threads where the user did not say how many."""


@dataclass(frozen=True, slots=True)
class Call:
    """One job on its way to a worker.

    Attributes:
        index: number of the job.
        task: takes what the recipe gave, and the job.
        job: what differs between the jobs.
        key: content hash of the recipe.
        recipe: pickled, or the file where it lies; None where the worker is likely to have it.
        threads: threads for the worker; or, on a cluster, machine -> workers that share it.
        sender: process of this machine that sent it; None on a cluster.
        versions: of the packages that results depend on, which the worker's must equal; empty on the same machine.
    """

    index: int
    task: Callable[[Any, Any], Any]
    job: Any
    key: str
    recipe: bytes | Path | None
    threads: int | Mapping[str, int]
    sender: int | None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call.

    Attributes:
        index: number of the job.
        worker: the process that it ran in.
        result: of the task.
        error: what the task raised.
        is_lacking: nothing ran: the worker does not have the recipe.
    """

    index: int
    worker: str
    result: Any = None
    error: BaseException | None = None
    is_lacking: bool = False


def perform(sent: bytes) -> Answer:
    """Do the job of a pickled `Call`; whatever it raises comes back as a value."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    call: Call = pickle.loads(sent)
    try:
        if call.sender not in (None, os.getpid()):
            _leave_interrupts_to_the_parent()
        _require_versions(call.versions, worker)
        ready = _READY.get(call)
        if ready is _LACKING:
            return Answer(call.index, worker, is_lacking=True)
        return Answer(call.index, worker, call.task(ready, call.job))
    except Exception as error:
        return Answer(call.index, worker, error=_sendable(error))


_LACKING = object()


class _Ready:
    """What recipes gave, by key; a Dask worker runs several calls in threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, call: Call) -> Any:
        with self._lock:
            if call.key not in self._kept:
                if call.recipe is None:
                    return _LACKING
                while len(self._kept) >= _MOST_KEPT:
                    self._kept.popitem(last=False)
                recipe: Recipe = pickle.loads(
                    call.recipe.read_bytes() if isinstance(call.recipe, Path) else call.recipe
                )
                self._kept[call.key] = recipe.open(_threads(call.threads))
            self._kept.move_to_end(call.key)
            return self._kept[call.key]


_READY = _Ready()


def _threads(given: int | Mapping[str, int]) -> int:
    if isinstance(given, int):
        return given
    from joblib import cpu_count

    worker: Any = import_module("distributed").get_worker()
    sharing = int(given.get(worker.ip, worker.state.nthreads))
    return max(1, int(cpu_count()) // max(sharing, 1))


def _leave_interrupts_to_the_parent() -> None:
    """Let Ctrl-C, which reaches every process of a terminal, be the parent's affair: it ends its workers."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {name: version(name) for name in ("fewbits", "numpy", "onnxruntime")}


def _require_versions(wanted: Mapping[str, str], worker: str) -> None:
    have = versions() if wanted else {}
    for name, needed in wanted.items():
        if have[name] != needed:
            raise FewbitsError(
                f"The worker {worker} has {name} {have[name]}, and this process has {needed}: results would depend on "
                f"who computed them. Install the same version on both."
            )


def _sendable(error: Exception) -> Exception:
    """Return the error with the lines where it arose; what cannot be pickled is told in words."""
    if not isinstance(error, FewbitsError):
        error.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error

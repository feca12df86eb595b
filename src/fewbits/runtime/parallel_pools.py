"""Where jobs run, each by a backend of joblib: processes of this machine, a Dask cluster, a Ray cluster.

joblib's own backends for the two clusters cannot say that a worker was lost for good (Dask), or give results before the
last one is there (Ray), and its processes may fall over a job that came while they are ended; the small subclasses here
do better.
"""

import logging
import socket
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from queue import Empty
from typing import Any

from fewbits.errors import FewbitsError, MissingExtraError, SpecError

_TIMEOUT_S = 20.0  # for a cluster to answer, and to have a first worker


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Workers that are there.

    Attributes:
        parallel: joblib's Parallel, results as they come; `run` calls it.
        processes: how many processes there are.
        threads: threads for each; or, where every machine decides for itself, machine -> workers that share it.
        lost: what is raised where a worker is gone.
        is_here: the workers are processes of this machine.
    """

    parallel: Any
    processes: int
    threads: int | Mapping[str, int]
    lost: tuple[type[BaseException], ...]
    is_here: bool

    def run(self, function: Callable[[bytes], Any], calls: Iterable[bytes]) -> Generator[Any]:
        """Yield what `function` gives for each of the calls, as they finish; closing it ends what still runs."""
        from joblib import delayed

        with _quiet(), closing(self.parallel(delayed(function)(call) for call in calls)) as results:
            yield from results


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the libraries warn of and fewbits deals with itself."""
    with warnings.catch_warnings():
        # Closing early is how a run that failed or was interrupted ends its workers.
        warnings.filterwarnings("ignore", message=r"[\s\S]*tasks (have been successfully|which were still)")
        # A recipe is sent to each worker once.
        warnings.filterwarnings("ignore", message="Sending large graph")
        # loky replaces workers that were idle for long, or grew.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield


@contextmanager
def processes(count: int) -> Iterator[Pool]:
    """Lend processes of this machine; they stay for a while, so that the next call need not start them."""
    from joblib import Parallel, cpu_count

    threads = max(1, cpu_count() // count)
    parallel = _parallel(Parallel, count, backend=_loky_backend()(inner_max_num_threads=threads))
    yield Pool(parallel, count, threads, (BrokenProcessPool,), is_here=True)


def _loky_backend() -> Any:
    from joblib._parallel_backends import LokyBackend

    class Backend(LokyBackend):  # type: ignore[misc]
        """loky's thread drops the jobs of an executor that is ended, then looks for one that was just queued."""

        def abort_everything(self, ensure_ready: bool = True) -> None:
            flags, queued = self._workers._flags, self._workers._work_ids  # noqa: SLF001
            with flags.shutdown_lock:  # nothing is queued from here on
                flags.shutdown = flags.kill_workers = True
                with suppress(Empty):
                    while True:
                        queued.get_nowait()
            super().abort_everything(ensure_ready)

    return Backend


def _parallel(kind: Any, count: int, **options: Any) -> Any:
    # Jobs are few and long, and arrive as bytes: nothing to gather into batches, or to map from files.
    return kind(n_jobs=count, return_as="generator_unordered", batch_size=1, max_nbytes=None, **options)


@contextmanager
def dask(address: str) -> Iterator[Pool]:
    """Lend the workers of a Dask cluster.

    Raises:
        MissingExtraError: Dask is not installed.
        SpecError: no scheduler answers there, or it has no worker.
    """
    distributed = _installed("distributed", "Dask", "dask")
    from joblib import Parallel

    try:
        client = distributed.Client(address, timeout=_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise _unreachable("Dask scheduler", address, error, "tcp://HOST:8786") from error
    try:
        try:
            client.wait_for_workers(1, timeout=_TIMEOUT_S)
        except TimeoutError as error:
            raise SpecError(
                f"The Dask scheduler at {address!r} has no worker: start `dask worker {address}`."
            ) from error
        there = client.scheduler_info(n_workers=-1)["workers"].values()
        slots: dict[str, int] = {}
        for worker in there:
            slots[worker["host"]] = slots.get(worker["host"], 0) + worker["nthreads"]
        parallel = _parallel(Parallel, -1, backend=_dask_backend()(client=client, pure=False))
        yield Pool(parallel, len(there), slots, (distributed.KilledWorker, CancelledError), is_here=False)
    finally:
        client.close()


def _dask_backend() -> Any:
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        """joblib tells its Parallel of results only: one that waits for a lost job would wait for ever."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            """Return the workers there are, but 2 at least: of a single one joblib would do the work itself, here."""
            return max(2, int(super().effective_n_jobs(n_jobs)))

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)

            def tell(done: Any) -> None:
                error = CancelledError() if done.cancelled() else done.exception()
                if error is not None and callback is not None:
                    callback(_Failed(error))

            future.add_done_callback(tell)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, _Failed):
                raise out.error
            return super().retrieve_result_callback(out)

    return Backend


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


@contextmanager
def ray(address: str) -> Iterator[Pool]:
    """Lend one worker for each processor of a Ray cluster; "local" starts one on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        SpecError: no cluster answers there.
    """
    library = _installed("ray", "Ray", "ray")
    exceptions, joined = (import_module(f"ray.{name}") for name in ("exceptions", "util.joblib.ray_backend"))
    from joblib import Parallel

    # Ray's pool calls back as each result is there, which is all that a generator of results takes
    backend = type("Backend", (joined.RayBackend,), {"supports_return_generator": True})
    starts = not library.is_initialized()
    if starts:
        options = {} if address == "local" else {"address": address}
        try:
            _require_listener(address)
            library.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreachable("Ray cluster", address, error, "HOST:6379, ray://HOST:10001 or local") from error
    try:
        count = int(library.cluster_resources().get("CPU", 0))
        if not count:
            raise SpecError(f"The Ray cluster at {address!r} has no free processor: start a node with `ray start`.")
        with _parallel(Parallel, count, backend=backend()) as parallel:  # its actors stay until the end
            yield Pool(
                parallel, count, 1, (exceptions.RayError,), is_here=False
            )  # Ray grants each of them one processor
    finally:
        if starts:
            library.shutdown()


def _require_listener(address: str) -> None:
    """Raise an OSError where nobody listens at HOST:PORT: Ray would try for minutes, and then end this process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()


def _installed(module: str, name: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"Workers of a {name} cluster need {name}: pip install 'fewbits[{extra}]'.") from error


def _unreachable(what: str, address: str, error: BaseException, form: str) -> FewbitsError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return SpecError(f"No {what} answers at {address!r} ({said}): check that it runs, and write {form}.")

"""A model that runs in a process of its own: call it with feeds, as often as wanted.

The process may crash, hang, or fail to tear down: whoever asks gets an error after a time limit, and it is ended.
"""

import contextlib
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from fewbits.artifact.samples import Arrays, pack_runs, unpack_runs
from fewbits.deployment.frames import read_frame, write_frame
from fewbits.deployment.fresh import environment
from fewbits.errors import ModelError

_GOODBYE_S = 5.0


class Served:
    """Answers feeds through a worker process; use it as a context.

    Args:
        module: of the worker, `fewbits.deployment....`.
        arguments: of the worker.
        time_limit_s: for loading the model, and for every answer.
        what: what messages call it.
        failed: makes an error of the exit code and what the process said on stderr.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        time_limit_s: float,
        what: str,
        failed: Callable[[int, str], Exception],
    ) -> None:
        # -P: the user's folder is not on the path, so that no file of theirs stands for a library
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._limit_s, self._what, self._failed = time_limit_s, what, failed
        self._answers: queue.Queue[bytes | None] = queue.Queue()

    def __enter__(self) -> "Served":
        """Start the process and wait until the model is loaded.

        Raises:
            ModelError: the process failed, or took too long.
        """
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._end()

    def __call__(self, feeds: Arrays) -> Arrays:
        """Return every output of the model for one feed.

        Raises:
            ModelError: the process failed, or took too long.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process is gone: its exit code says why
            write_frame(self._process.stdin, pack_runs({"feeds": [feeds]}))
        data = self._answer()
        try:
            (outputs,) = unpack_runs(data)["outputs"]
        except (ValueError, KeyError) as error:
            raise ModelError(f"{self._what} gave an answer that cannot be read ({error}): run it again.") from error
        return outputs

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while (data := read_frame(self._process.stdout)) is not None:
            self._answers.put(data)
        self._answers.put(None)

    def _answer(self) -> bytes:
        try:
            data = self._answers.get(timeout=self._limit_s)
        except queue.Empty:
            raise ModelError(
                f"{self._what} took longer than {self._limit_s:g} s: allow more with --time-limit."
            ) from None
        if data is None:
            code = self._process.wait(_GOODBYE_S)
            self._said.seek(0)
            raise self._failed(code, self._said.read().decode(errors="replace"))
        return data

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE_S)
        self._process.kill()
        self._process.wait()
        self._listener.join(_GOODBYE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()

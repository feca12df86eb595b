"""Keep the standard output to ourselves: some native libraries print there, into the middle of somebody's JSON."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT, _STDERR = 1, 2


@contextmanager
def native_output_to_stderr() -> Iterator[None]:
    """Send what native code prints to the standard output to the standard error while the block runs."""
    try:
        sys.stdout.flush()
        saved = os.dup(_STDOUT)
    except (OSError, ValueError):  # there is none
        yield
        return
    try:
        os.dup2(_STDERR, _STDOUT)
        yield
    finally:
        with contextlib.suppress(
            OSError, AttributeError, TypeError
        ):  # where the C library cannot be named, as on Windows
            ctypes.CDLL(None).fflush(None)
        os.dup2(saved, _STDOUT)
        os.close(saved)

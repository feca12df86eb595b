"""Keep the standard output to ourselves: some native libraries print there, into the middle of somebody's JSON."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT = 1


@contextmanager
def native_output_dropped() -> Iterator[None]:
    """Drop what native code prints to the standard output while the block runs."""
    try:
        sys.stdout.flush()
        saved = os.dup(_STDOUT)
    except (OSError, ValueError):  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
            os.dup2(nowhere.fileno(), _STDOUT)
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError, TypeError):  # the C library has no name on Windows
            ctypes.CDLL(None).fflush(None)
        os.dup2(saved, _STDOUT)
        os.close(saved)

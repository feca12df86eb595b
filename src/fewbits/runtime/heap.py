"""Memory that was freed and that the C library keeps for later, or gives back."""

import ctypes
import sys
from functools import cache
from typing import Any


def trim_heap() -> None:
    """Give freed memory back to the system where the C library can (glibc on Linux); elsewhere nothing happens.

    Rounds that make and free many large tensors of many sizes otherwise grow, round by round, by what lies free between
    the blocks that are still in use.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def return_large_blocks() -> None:
    """Let the C library give large blocks back to the system as they are freed, from now on (glibc on Linux).

    By default its bound for them rises to 32 MB with the first ones that are freed; the heap then grows by what lies
    free between blocks in use. Fetching pages anew costs time.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


_M_MMAP_THRESHOLD = -3  # as in malloc.h
_LARGE_BYTES = 1 << 20


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

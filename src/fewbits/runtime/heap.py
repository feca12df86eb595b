"""Memory that was freed and that the C library keeps for later."""

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


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

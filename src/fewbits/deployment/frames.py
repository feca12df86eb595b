"""How a process answers feeds over its standard input and output: frames of a length and the bytes of a .npz file.

The worker's side. Whatever libraries print goes to stderr, so that nothing but frames is on stdout.
"""

import os
import sys
from collections.abc import Callable
from typing import IO

from fewbits.artifact.samples import Arrays, pack_runs, unpack_runs

_LENGTH = 8
_PART = 1 << 24


def take_stdout() -> IO[bytes]:
    """Return stdout for frames alone, and send everything else that is printed to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def answer_feeds(predict: Callable[[Arrays], Arrays], out: IO[bytes]) -> None:
    """Say that the model is ready, then answer every feed on stdin until it ends.

    Args:
        predict: runs the model.
        out: from `take_stdout`.
    """
    write_frame(out, b"")
    while (data := read_frame(sys.stdin.buffer)) is not None:
        (feed,) = unpack_runs(data)["feeds"]
        write_frame(out, pack_runs({"outputs": [predict(feed)]}))


def write_frame(out: IO[bytes], data: bytes) -> None:
    """Write one frame."""
    out.write(len(data).to_bytes(_LENGTH, "big"))
    out.write(data)
    out.flush()


def read_frame(source: IO[bytes]) -> bytes | None:
    """Return the next frame, or None where there is none or it is cut short."""
    head = source.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    left, parts = int.from_bytes(head, "big"), []
    while left and (part := source.read(min(left, _PART))):  # in parts: a length that is a mistake allocates nothing
        parts.append(part)
        left -= len(part)
    return None if left else b"".join(parts)

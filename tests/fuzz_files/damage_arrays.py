"""Hostile archives of arrays: declared shapes of terabytes, zip bombs, object arrays, headers that are no headers."""

import io
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

CANARY = "FEWBITS_CANARY"
"""Of the environment: the file that code hidden in a pickle would make."""

_SHAPES = (
    "(10000000000000,)",
    "(2305843009213693952, 16)",
    "(-1,)",
    "(4294967296, 4294967296)",
    "(3.5,)",
    "('a',)",
    "()",
    "(0,)",
    "(1 << 40,)",
    "(0, 9223372036854775807)",
    "(99999999999999999999999,)",
    "None",
    "((((1,),),),)",
    "(1000000, 1000000, 0)",
)
_TYPES = (
    "'|O'",
    "'<f8'",
    "'<f2'",
    "'|S4000000000'",
    "'<U1000000000'",
    "'<M8[ns]'",
    "'<c16'",
    "[('a', '<f4'), ('b', '|O')]",
    "'|V8'",
    "'>f4'",
    "'f4,f4'",
    "'nonsense'",
    "3",
    "None",
    "'|b1'",
    "'<i8'",
    "[]",
    "'|S0'",
    "'<U0'",
    "('<f4', (1000000, 1000000))",
)


class _Touch:
    """A value that makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, (f"__import__('pathlib').Path(__import__('os').environ[{CANARY!r}]).touch()",)


def pickled() -> bytes:
    """Return a pickle that runs code."""
    return pickle.dumps(_Touch())


def damaged_npy(data: bytes, rng: random.Random) -> bytes:
    """Return an array in a .npy file, its header exchanged."""
    if rng.random() < 0.15:
        return _npy("'|O'", "(1,)", pickled())
    if rng.random() < 0.1:
        return rng.choice((pickled(), b"\x93NUMPY" + pickled(), _header(b"(" * 5000), _header(b"{'descr': " * 900)))
    body = data[128:] if data[:6] == b"\x93NUMPY" else data
    return _npy(
        rng.choice(("'<f4'", "'<f4'", *_TYPES)), rng.choice(_SHAPES), body[: rng.choice((0, 8, len(body)))], rng
    )


def damaged_npz(data: bytes, rng: random.Random) -> bytes:
    """Return an archive of which members are exchanged, doubled, compressed, encrypted, or lie about their size."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    match rng.randrange(8):
        case 0 | 1 | 2:
            members[name] = damaged_npy(members[name], rng)
        case 3:
            members[
                rng.choice(("../../evil.npy", "/tmp/evil.npy", "labels.npy", "x", "x.npy.npy", "\ud7ff\x00.npy", ""))
            ] = members[name]
        case 4:
            members[name] = _bomb(rng)
        case 5:
            del members[name]
        case 6:
            members[name] = rng.randbytes(300)
        case _:
            members[name] = _long(members[name], rng)
    made = _zipped(members, rng)
    return _lying(made, rng) if rng.random() < 0.3 else made


def _zipped(members: dict[str, bytes], rng: random.Random) -> bytes:
    out = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name or "empty"), content, kind)
    return out.getvalue()


def _lying(data: bytes, rng: random.Random) -> bytes:
    """Change a size, a method or a flag in the directory of an archive."""
    place = data.rfind(b"PK\x01\x02")
    offset, width = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
    value = rng.choice((0, 1, 99, 0x7FFF, 2 ** (8 * width) - 1, rng.randrange(2 ** (8 * width))))
    return data[: place + offset] + value.to_bytes(width, "little") + data[place + offset + width :]


def _bomb(rng: random.Random) -> bytes:
    """Return zeros that compress a thousandfold, under a header that is honest or claims far more."""
    count = rng.choice((1 << 20, 1 << 23))
    claimed = rng.choice((count, count, count << 24, 1 << 45))
    return _npy("'<f4'", f"({claimed},)", bytes(4 * count))


def _long(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.5 else content * 3


def _npy(kind: str, shape: str, body: bytes, rng: random.Random | None = None) -> bytes:
    is_fortran = "True" if rng is not None and rng.random() < 0.3 else "False"
    return _header(f"{{'descr': {kind}, 'fortran_order': {is_fortran}, 'shape': {shape}, }}".encode(), rng) + body


def _header(text: bytes, rng: random.Random | None = None) -> bytes:
    version = 1 if rng is None else rng.choice((1, 1, 2, 3, 9))
    padded = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", min(len(padded), 65535))
    return b"\x93NUMPY" + bytes((version, 0)) + size + padded


def canary(folder: Path) -> Path:
    """Return the file that hidden code would make."""
    return folder / "code-was-run"


def stored(**arrays: Any) -> bytes:
    """Return arrays as the bytes of a .npz file."""
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()

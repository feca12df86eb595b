"""numpy's files, within bounds: what a header claims is checked before anything is allocated, nothing is unpickled.

Whatever is wrong with a file becomes a ValueError, whose text says what.
"""

import io
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from fewbits.runtime.data.types import Array

OBJECTS = "it holds Python objects"
_MAP_FROM_BYTES = 1 << 20  # smaller arrays are read at once: a map costs a file handle
_MOST_AXES = 64  # of numpy
_DEFLATED_MOST = 1040  # zlib never packs tighter than 1032 to 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of numpy; others pack without a bound
_HEADERS = {b"\1\0": np.lib.format.read_array_header_1_0, b"\2\0": np.lib.format.read_array_header_2_0}
_Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def map_array(path: Path) -> Array:
    """Return the array in a .npy file, mapped.

    Raises:
        ValueError: the file is no such array, is shorter than it claims, or holds Python objects.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        return _mapped(path, file.tell(), path.stat().st_size - file.tell(), header)


def read_archive(source: Path | bytes) -> dict[str, Array]:
    """Return the arrays in a .npz file, or in its bytes; large ones that are not compressed are mapped, not read.

    Raises:
        ValueError: it is no such file, a member is not what it claims, holds Python objects, or all of them together
            are larger than the memory of this machine.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            members = _members(archive, len(source) if isinstance(source, bytes) else source.stat().st_size)
            path = None if isinstance(source, bytes) else source
            return {name: _member(archive, info, path) for name, info in members.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as cause:
        raise ValueError(_said(cause)) from cause
    except MemoryError as cause:
        raise ValueError("its arrays do not fit into memory") from cause


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return array name -> member of an archive of `size` bytes; what members claim is checked."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in found:
            raise ValueError(f"it holds {name!r} twice")
        if info.compress_type not in _METHODS or info.flag_bits & 1:
            raise ValueError(f"{name!r} is encrypted, or packed in a way that numpy has not")
        most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _DEFLATED_MOST)
        if info.compress_size > size or info.file_size > most:
            raise ValueError(f"{name!r} claims {info.file_size} bytes, more than the file can hold")
        found[name] = info
    packed = sum(info.file_size for info in found.values() if info.compress_type != zipfile.ZIP_STORED)
    if packed > _memory_bytes():
        raise ValueError(f"unpacked it takes {packed / 1e9:.1f} GB, more than this machine has")
    return found


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path | None) -> Array:
    with archive.open(info) as file:
        shape, is_fortran, dtype = header = _read_header(file)
        start, wanted = file.tell(), math.prod(shape) * dtype.itemsize
        if wanted > info.file_size - start:
            raise ValueError(_short(wanted, info.file_size - start))
        if path is not None and info.compress_type == zipfile.ZIP_STORED and info.file_size >= _MAP_FROM_BYTES:
            return _mapped(path, _offset(path, info) + start, wanted, header)
        data = file.read(wanted)
    if len(data) < wanted:
        raise ValueError(_short(wanted, len(data)))
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if is_fortran else "C")


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where the content of a stored member begins in the file."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)  # the fixed part of a zip local header; bytes 26-29: lengths of name and extra field
        return file.tell() + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _mapped(path: Path, offset: int, there: int, header: _Header) -> Array:
    shape, is_fortran, dtype = header
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > there:
        raise ValueError(_short(wanted, there))
    if not wanted:  # what is empty cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if is_fortran else "C")


def _read_header(file: IO[bytes]) -> _Header:
    """Return shape, whether the order is Fortran's, and dtype; `file` stands behind the header afterwards."""
    magic = file.read(6)
    if magic != b"\x93NUMPY":
        raise ValueError("it does not begin as an array")
    try:
        version = file.read(2)
        read = _HEADERS.get(version)
        if read is None:
            raise ValueError(f"its format has the version {version.hex()}")
        shape, is_fortran, dtype = read(file)
    except Exception as cause:  # numpy reads it by ast, tokenize and struct, which raise kinds of their own
        raise ValueError(f"its header is damaged: {_said(cause)}") from cause
    if dtype.hasobject:
        raise ValueError(OBJECTS)
    is_shape = len(shape) <= _MOST_AXES and all(0 <= size < 1 << 62 for size in shape)
    if not is_shape or dtype.itemsize == 0 or math.prod(size for size in shape if size) >= 1 << 62:
        raise ValueError(f"it claims the shape {str(shape)[:60]} of {dtype.name}")
    return shape, is_fortran, dtype


def _short(wanted: int, there: int) -> str:
    return f"an array in it claims {wanted} bytes, and {there} are there"


def _said(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(cause).__name__


def _memory_bytes() -> float:
    """Return the memory of the machine; infinity where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))

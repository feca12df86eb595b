"""Write an output folder: files are made in a hidden folder inside it and moved out whole, the record last."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewbits.artifact.names import FLOAT, KNOWN, REFERENCE, SHIPPED
from fewbits.errors import OutputError


@contextmanager
def staged(output: str | Path | None) -> Iterator[Path]:
    """Lend a scratch folder whose files are moved into `output` when the block ends well, and dropped when it does not.

    Files of an earlier run that this one did not write again are removed from `output`. Without `output` the scratch
    folder is dropped in any case.

    Args:
        output: made where it is missing, and removed again where the block fails.

    Raises:
        OutputError: `output` is a file, cannot be written, or the disk is full.
    """
    if output is None:
        with temporary_folder() as scratch:
            yield scratch
        return
    folder = Path(output)
    made: list[Path] = []
    stage: Path | None = None
    try:
        with _said(folder):
            made = _make(folder)
            stage = Path(tempfile.mkdtemp(prefix=".fewbits.", dir=folder))
        yield stage
        with _said(folder):
            _publish(stage, folder)
        made = []
    except OutputError as error:
        # the scratch folder is nothing that the caller named
        raise OutputError(str(error).replace(str(stage), str(folder))) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Lend a folder of the system's that is dropped when the block ends.

    Raises:
        OutputError: the system's folder for temporary files cannot be written.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix="fewbits.")
    except OSError as error:
        raise OutputError(f"Cannot write temporary files: {error}. Set TMPDIR to a folder with space.") from error
    with scratch as path:
        yield Path(path)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    with _said(path):
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(scratch).chmod(0o666 & ~_umask())
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise


def sha256(path: Path) -> str:
    """Return the content hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_facts(folder: Path) -> dict[str, dict[str, str | int]]:
    """Return name -> {"sha256", "bytes"} for every file in `folder` that a record vouches for."""
    names = [name for name in SHIPPED if (folder / name).is_file()]
    return {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}


def reference_file(folder: Path) -> Path:
    """Return the float model in `folder` that scores are taken against: the companion, unless that was improved."""
    improved_from = folder / REFERENCE
    return improved_from if improved_from.is_file() else folder / FLOAT


def _make(folder: Path) -> list[Path]:
    """Make `folder` and what is missing above it; return what was made, outermost first."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"Cannot write to {str(folder)!r}: it is a file; name a folder with -o.")
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _publish(stage: Path, folder: Path) -> None:
    written = {path.name for path in stage.iterdir()}
    try:
        _move(stage, folder, written)
    except KeyboardInterrupt:
        _move(stage, folder, written)  # a few renames: finish them, so that the folder never mixes two runs
        raise


def _move(stage: Path, folder: Path, written: set[str]) -> None:
    """Move `written` out, the record last, and remove what an earlier run left; running it twice does no harm."""
    for name in (*sorted(written.difference(KNOWN)), *KNOWN):
        if name not in written:
            (folder / name).unlink(missing_ok=True)
        elif (stage / name).exists():
            (stage / name).replace(folder / name)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise OutputError(f"Cannot write to {str(path)!r}: {reason}. Choose another folder with -o.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

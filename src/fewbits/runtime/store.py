"""What was computed before: one SQLite file in a run's folder, from content hash to JSON value.

A result is looked up under the hash of everything that it depends on (model, data, encodings, options), so that a run
that was stopped, even by kill -9, goes on where it was, and two processes may share one file. Each result lies there
with a hash of its own, so that a damaged one is refused and never taken for a result.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fewbits.errors import OutputError
from fewbits.runtime.data.digest import Hash, add_text

STORE = "store.sqlite"
"""Name of the file in a run's folder."""
_LAYOUT = 2  # of the table; kept in the file's user_version
_TABLE = "CREATE TABLE results (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID"
_WAIT_S = 60.0  # for another process that is writing


class Store:
    """Results by key; every `put` is on disk, whole, before it returns.

    Args:
        path: the file, made where it is missing together with its folder; None keeps results in memory only.

    Raises:
        OutputError: the file cannot be opened or written, is no store, or was written by a newer fewbits.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        with self._said():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            where = ":memory:" if self.path is None else str(self.path)
            self._database = sqlite3.connect(where, timeout=_WAIT_S, isolation_level=None)
        try:
            with self._said():
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def get(self, key: str) -> Any:
        """Return what was put under `key`, in JSON's own types; None where nothing was.

        Raises:
            OutputError: the file cannot be read.
        """
        with self._said():
            row = self._database.execute("SELECT value, digest FROM results WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            if row[1] != key_of(key, row[0]):
                raise ValueError("a result in it is not what was put there")
            return json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        """Keep `value` under `key`; what was there before is replaced.

        Args:
            key: see `key_of`.
            value: of JSON's own types, infinities and NaN included; None cannot be told from nothing.

        Raises:
            OutputError: the file cannot be written.
        """
        text = json.dumps(value)
        with self._said():
            row = (key, text, key_of(key, text))
            self._database.execute("INSERT OR REPLACE INTO results (key, value, digest) VALUES (?, ?, ?)", row)

    def remember(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what lies under `key`; where nothing does, put there what `make` returns.

        Raises:
            OutputError: the file cannot be read or written.
        """
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def close(self) -> None:
        """Give the file back; the store cannot be used after that."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        self._database.execute("PRAGMA trusted_schema = OFF")
        self._database.execute("BEGIN IMMEDIATE")  # of two processes that make the file at once, one waits
        layout = self._database.execute("PRAGMA user_version").fetchone()[0]
        if layout > _LAYOUT:
            raise OutputError(
                f"The store {str(self.path)!r} was written by a newer fewbits: upgrade this one, or delete the file."
            )
        if layout == 1:  # its results had no hashes: they are computed again
            self._database.execute("DROP TABLE IF EXISTS results")
        if not (tables := _tables(self._database)):
            self._database.execute(_TABLE)
        elif tables != [_TABLE]:  # views and triggers would run whatever their author wanted
            raise ValueError("it holds other tables than fewbits makes")
        self._database.execute(f"PRAGMA user_version = {_LAYOUT}")
        self._database.execute("COMMIT")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise OutputError(
                f"The store {str(self.path)!r} cannot be used: {_line(error)}. Choose a folder with room that can be "
                f"written."
            ) from error
        except (sqlite3.Error, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise OutputError(
                f"The store {str(self.path)!r} is damaged: {_line(error)}. Delete it; what it held is computed again."
            ) from error


def _line(error: Exception) -> str:
    """Return what an error says, on one line: SQLite repeats texts of the file."""
    return " ".join(str(error).split())


def count_results(path: Path) -> int | None:
    """Return how many results a store holds; None where it is no store, or cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            if _tables(database) != [_TABLE]:
                return None
            return int(database.execute("SELECT count(*) FROM results").fetchone()[0])
    except (sqlite3.Error, UnicodeDecodeError):  # its own texts may be none
        return None


def _tables(database: sqlite3.Connection) -> list[str]:
    """Return the statements that made whatever is in a database."""
    found = database.execute("SELECT sql FROM sqlite_master WHERE type != 'index' OR sql IS NOT NULL")
    return [row[0] for row in found]


def key_of(*parts: Any) -> str:
    """Return the content hash (sha256, hexadecimal) of `parts`: equal content, equal key, in every process.

    Args:
        parts: text, numbers, booleans, None, bytes, numpy arrays, and lists, tuples and mappings of these; a list is
            equal to a tuple, and a mapping to one in another order.

    Raises:
        TypeError: a part is none of these.
    """
    digest = hashlib.sha256()
    _add(digest, parts)
    return digest.hexdigest()


def noted(batches: Iterable[Mapping[str, Any]], read: list[str]) -> Iterator[Mapping[str, Any]]:
    """Yield `batches`, and put the content hash of each into `read` as it is read."""
    for batch in batches:
        read.append(key_of(dict(batch)))
        yield batch


def _add(digest: Hash, part: Any) -> None:
    """Add a part behind its kind and its length, so that no two different parts make the same bytes."""
    if isinstance(part, Mapping):
        add_text(digest, "mapping", len(part))
        for name in sorted(part):
            _add(digest, name)
            _add(digest, part[name])
    elif isinstance(part, list | tuple):
        add_text(digest, "list", len(part))
        for item in part:
            _add(digest, item)
    elif isinstance(part, np.ndarray):
        add_text(digest, "array", part.dtype, part.shape)
        if part.dtype.hasobject:
            _add(digest, part.ravel().tolist())
        else:  # ml_dtypes have no buffer of their own
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)  # type: ignore[arg-type]
    elif isinstance(part, str | bytes):
        raw = part.encode() if isinstance(part, str) else part
        add_text(digest, type(part).__name__, len(raw))
        digest.update(raw)
    elif part is None or isinstance(part, bool | int | float):
        add_text(digest, type(part).__name__, repr(part))
    else:
        raise TypeError(f"A value of type {type(part).__name__} has no content hash.")

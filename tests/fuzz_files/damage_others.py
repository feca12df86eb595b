"""Hostile stores, images and checkpoints."""

import io
import random
import sqlite3
import struct
import zipfile
import zlib
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from damage_arrays import pickled

_ENDLESS = """
DROP TABLE results;
CREATE VIEW results AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
SELECT i AS key, i AS value, '' AS digest FROM n;
"""
_SQL = (
    "UPDATE results SET value = '{'",
    "UPDATE results SET value = 'null'",
    "UPDATE results SET value = x'00ff'",
    "UPDATE results SET value = 17",
    "UPDATE results SET value = replace(hex(zeroblob(60000)), '0', '[')",
    "UPDATE results SET value = '1e999'",
    "DELETE FROM results",
    "DROP TABLE results",
    "ALTER TABLE results RENAME COLUMN value TO other",
    "PRAGMA user_version = 99",
    "PRAGMA user_version = -7",
    "PRAGMA user_version = 1",
    "CREATE TRIGGER t AFTER INSERT ON results BEGIN DELETE FROM results; END",
    "CREATE TRIGGER t BEFORE INSERT ON results BEGIN SELECT load_extension('x'); END",
    "DROP TABLE results; CREATE TABLE results (key, value)",
    _ENDLESS,
    "DROP TABLE results; CREATE VIRTUAL TABLE results USING fts5(key, value)",
)  # fmt: skip


def damaged_store(data: bytes, rng: random.Random) -> bytes:
    """Return a database after one statement that no fewbits makes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        path.write_bytes(data)
        with closing(sqlite3.connect(path)) as database:
            try:
                database.executescript(rng.choice(_SQL))
                database.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error:  # the one statement that needs an extension
                return data
        return path.read_bytes()


def damaged_png(data: bytes, rng: random.Random) -> bytes:
    """Return a picture whose header claims other sides, or a file of another kind under its name."""
    if rng.random() < 0.3:
        return rng.choice(
            (
                _EPS,
                b"BM" + struct.pack("<IIIIii", 0, 0, 54, 40, 2**30, 2**30) + bytes(40),
                b"GIF89a" + b"\xff" * 200,
                b"II*\x00\xff\xff\xff\xff",
            )
        )
    if data[:4] != b"\x89PNG":
        return data[: rng.randrange(len(data))]
    width, height = rng.choice((0, 1, 2**15, 2**31 - 1)), rng.choice((0, 1, 2**15, 2**31 - 1))
    header = struct.pack(">II", width, height) + bytes(
        (rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), 0, 0, rng.choice((0, 1)))
    )
    check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return data[:16] + header + check + data[33:]


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/x) (w) file closefile\nshowpage\n%%EOF\n"


def damaged_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Return a file of torch.save with a pickle that runs code, or members cut short."""
    if rng.random() < 0.2:
        return pickled()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(out, "w") as made:
        members = {name: given.read(name) for name in given.namelist()}
        target = rng.choice([name for name in members if name.endswith(("data.pkl", "/0", "version", "byteorder"))])
        content = members[target]
        members[target] = (
            pickled() if target.endswith("pkl") and rng.random() < 0.5 else content[: rng.randrange(len(content) + 1)]
        )
        for name, value in members.items():
            made.writestr(name, value)
    return out.getvalue()

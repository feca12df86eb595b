"""Damage that any file can suffer: bits, blocks, lengths; and damage to text that is read as JSON, TOML or CSV."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]

_EXTREMES = (
    b"\x00" * 8,
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"\xff" * 7 + b"\x7f",
    b"\x00" * 7 + b"\x80",
    b"\xff" * 9 + b"\x01",
)
"""Zero, -1, the largest of 32 and of 64 bits, the smallest of 64 bits, the longest varint."""
NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "5e-324", "-0.0", "0", "-1", "1.5", "2147483648",
    "9223372036854775807", "-9223372036854775809", "18446744073709551616", "9" * 400, "9" * 5000, "inf", "nan",
)  # fmt: skip
WORDS = (
    "", " ", "..", "../../../etc/passwd", "/etc/passwd", "a/../../b", "\\\\host\\share", "\x00", "\u2028", "\ud800",
    "<script>alert(1)</script>", "'\"`", "{{ 7 * 7 }}", "%s%n", "None", "True", "INT", "w8a8", "é" * 300, "x" * 20000,
    "__class__", "\n\n", "-o", "file.py:main",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_STRING = re.compile(rb'"[^"\n]{0,200}"')
_VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, 0, -1, 2**63, 10**400, 1.5, [[]], [None], {"": None}, [[[[1]]]], {"a": {"b": []}},
)  # fmt: skip
_NAMES = ("schema", "version", "name", "", "__class__", "files", "verb", "0", "a.b", "x" * 500)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the file after one to four accidents."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_ACCIDENTS)(data, rng)
    return data


def damaged_text(data: bytes, rng: random.Random) -> bytes:
    """Return a text after one to three accidents to its words, lines and numbers."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_TEXT_ACCIDENTS)(data, rng)
    return data


def damaged_json(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON text in which one to three values, anywhere, are others, gone, doubled, or elsewhere."""
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _edit(document, rng)
    if rng.random() < 0.04:
        deep = rng.choice((500, 3000, 100_000))
        return json.dumps(document).encode()[:-1] + b', "deep": ' + b"[" * deep + b"]" * deep + b"}"
    return json.dumps(document).encode()


def _edit(document: Any, rng: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return rng.choice(_VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            holder[key] = rng.choice(_VALUES)
        case 1:
            holder[key] = rng.choice(WORDS)
        case 2:
            del holder[key]
        case 3:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        case 4:
            _add(holder, holder[key], rng)
        case _:
            value = holder[key]
            if isinstance(value, bool | int | float):
                more = () if abs(value) > 1e300 else (value * 1e10, value + 0.5)  # floats have an end
                holder[key] = rng.choice((-value, 2**31, -(2**63), float("nan"), 1e999, *more))
            else:
                holder[key] = [value] if rng.random() < 0.5 else str(value)
    return document


def _add(holder: Any, value: Any, rng: random.Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(_NAMES)] = value
    else:
        holder.extend([value] * rng.choice((1, 2, 1000)))


def _places(value: Any) -> Any:
    """Yield (holder, key) of every value inside; of long lists a few."""
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))[:40]
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _spot(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 12)))


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_early(data: bytes, rng: random.Random) -> bytes:
    return _flip(data[:256], rng) + data[256:]


def _flip_late(data: bytes, rng: random.Random) -> bytes:
    return data[:-256] + _flip(data[-256:], rng)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_head(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(len(data) + 1) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start, _ = _spot(data, rng)
    return data[:start] + rng.randbytes(rng.choice((1, 4, 64, 5000))) + data[start:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, stop = _spot(data, rng)
    return data[:start] + data[stop:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, stop = _spot(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 50)) + data[stop:]


def _extreme(data: bytes, rng: random.Random) -> bytes:
    start, _ = _spot(data, rng)
    value = rng.choice(_EXTREMES)
    return data[:start] + value + data[start + len(value) :]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 1000, 100_000)))


def _nothing_of_it(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (b"", b"\x00" * len(data), rng.randbytes(min(len(data), 4096)), b"\xff\xfe", b"PK\x03\x04", b"\n")
    )


_ACCIDENTS: tuple[Damage, ...] = (
    _flip, _flip, _flip_early, _flip_late, _cut, _cut_head, _insert, _remove, _double, _extreme, _extreme, _append,
    _nothing_of_it,
)  # fmt: skip


def _swap_match(pattern: re.Pattern[bytes], choices: tuple[str, ...], quote: bool) -> Damage:
    def swap(data: bytes, rng: random.Random) -> bytes:
        found = list(pattern.finditer(data))
        if not found:
            return damaged_bytes(data, rng)
        match = rng.choice(found)
        word = rng.choice(choices).encode("utf-8", "surrogatepass")
        return data[: match.start()] + (b'"' + word + b'"' if quote else word) + data[match.end() :]

    return swap


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case _:
            lines[one] = lines[one] * rng.choice((2, 300))
    return b"\n".join(lines)


def _nest(data: bytes, rng: random.Random) -> bytes:
    start, _ = _spot(data, rng)
    depth = rng.choice((10, 2000, 100_000))
    return data[:start] + rng.choice((b"[", b"{", b'{"a":', b"a.", b"((", b"[[a]]\n", b"'''")) * depth + data[start:]


def _foreign(data: bytes, rng: random.Random) -> bytes:
    start, _ = _spot(data, rng)
    return (
        data[:start]
        + rng.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\xc3", b"\xe2\x80\xa8", b"\r", b'"'))
        + data[start:]
    )


def _encoded(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")


_TEXT_ACCIDENTS: tuple[Damage, ...] = (
    damaged_bytes,
    _swap_match(_NUMBER, NUMBERS, quote=False),
    _swap_match(_NUMBER, WORDS, quote=True),
    _swap_match(_STRING, WORDS, quote=True),
    _swap_match(_STRING, NUMBERS, quote=False),
    _lines,
    _lines,
    _nest,
    _foreign,
    _encoded,
)

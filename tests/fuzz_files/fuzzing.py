"""Runs cases in child processes; one that dies is a crash of its case, and the next child goes on behind it."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SRC = HERE.parents[1] / "src"
_SILENT_S = 240
"""After which a child that says nothing is ended: its alarm did not reach native code."""


@dataclass(frozen=True)
class Outcome:
    """How one case ended: read, refused, unexpected, or crashed."""

    kind: str
    number: int
    end: str
    why: str = ""
    ms: float = 0.0
    mb: float = 0.0


@dataclass
class Tally:
    """Outcomes of one kind, counted."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    unexpected: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    peak_mb: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.tried += 1
        self.read += outcome.end == "read"
        self.refused += outcome.end == "refused"
        said = f"{outcome.kind}:{outcome.number}: {outcome.why}"
        if outcome.end in ("unexpected", "crashed"):
            getattr(self, outcome.end).append(said)
        self.slowest_ms, self.peak_mb = max(self.slowest_ms, outcome.ms), max(self.peak_mb, outcome.mb)


def make_plan(shares: dict[str, float], cases: int, first: int = 0) -> list[tuple[str, int]]:
    """Return (kind, number) of at least `cases` cases, kind by kind; those of each are numbered from `first`."""
    scale = cases / sum(shares.values())
    counts = {name: max(1, round(scale * share + 0.5)) for name, share in shares.items()}
    return [(name, first + number) for name, count in counts.items() for number in range(count)]


def run(plan: Sequence[tuple[str, int]], seeds: Path, scratch: Path) -> Iterator[Outcome]:
    """Yield the outcome of every case, in order."""
    scratch.mkdir(parents=True, exist_ok=True)
    listed = scratch / "plan.json"
    listed.write_text(json.dumps(plan))
    first = 0
    while first < len(plan):
        last_begun, seen = first, False
        for line in _child(seeds, scratch, listed, first):
            if "end" not in line:
                last_begun = int(line["index"])
                seen = True
                continue
            first = int(line["index"]) + 1
            kind, number = plan[first - 1]
            yield Outcome(kind, number, line["end"], line["why"], line.get("ms", 0.0), line.get("mb", 0.0))
        if first < len(plan):
            if not seen:
                raise RuntimeError(
                    f"the child did not begin with {plan[first]}: {(scratch / 'said').read_text()[-2000:]}"
                )
            words = (scratch / "said").read_text().strip().splitlines() or ["the process ended without a word"]
            yield Outcome(*plan[last_begun], "crashed", words[-1][:300])
            first = last_begun + 1


def _child(seeds: Path, scratch: Path, listed: Path, first: int) -> Iterator[dict[str, Any]]:
    """Yield what a child says; it is ended where it says nothing for too long."""
    read, write = os.pipe()
    command = [
        sys.executable,
        str(HERE / "fuzz_child.py"),
        str(seeds),
        str(scratch),
        str(listed),
        str(first),
        str(write),
    ]
    path = os.pathsep.join(map(str, (SRC, HERE)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    with (scratch / "said").open("wb") as said:
        process = subprocess.Popen(
            command, pass_fds=(write,), env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    os.close(write)
    rest = b""
    try:
        while select.select([read], [], [], _SILENT_S)[0] and (data := os.read(read, 1 << 16)):
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)
    finally:
        os.close(read)
        process.kill()
        process.wait()

"""Memory: what this process takes, what is there, and a ceiling that it is to stay below."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from fewbits.errors import SpecError
from fewbits.runtime.heap import trim_heap

MB = 1e6
_PLANNED = 0.95  # of a ceiling: what is told of a step may be a little off
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of the group of processes that this one belongs to, as a container sees it, in cgroup v2 and v1: its folder, the
files with its limit and its use, and which line of memory.stat counts the pages of files that it uses no more."""


def parse_size(text: str | int) -> int:
    """Return 4000000000 of "4GB" and 500000000 of "500 MB"; a number is one of bytes.

    Raises:
        SpecError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B|)", str(text).strip().upper())
    if match is None or not float(match[1]):
        raise SpecError(f"--memory {text!r} is no size: write --memory 500MB or --memory 4GB.")
    return max(1, int(float(match[1]) * _BYTES[match[2]]))


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Resident memory that this process may take.

    Attributes:
        size_bytes: all of it, what is taken by now included.
        kept_bytes: for samples that are kept to save time, and for outputs of the float model likewise.
    """

    size_bytes: int
    kept_bytes: int = 0

    @classmethod
    def of(cls, memory: int | str | None) -> "Ceiling | None":
        """Return the ceiling that the caller names; None of None.

        Raises:
            SpecError: it is no size, or the system does not tell what a process takes.
        """
        if memory is None:
            return None
        found = cls(parse_size(memory))
        if resident_mb() is None:
            raise SpecError("--memory cannot be held: this system does not tell what a process takes. Leave it out.")
        return found

    @property
    def left_bytes(self) -> int:
        """What may still be planned with; memory that was freed, and that the C library keeps, is given back before."""
        trim_heap()
        return max(int(_PLANNED * self.size_bytes - (resident_mb() or 0.0) * MB), 0)


def peak_mb() -> float | None:
    """Return the largest resident memory of this process so far; None where the system does not tell (Windows)."""
    told = _status("VmHWM")  # ru_maxrss starts at what the parent took
    if told is not None:
        return told
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB  # macOS counts bytes


def resident_mb() -> float | None:
    """Return the resident memory of this process now; None where the system does not tell (other than Linux)."""
    return _status("VmRSS")


def _status(field: str) -> float | None:
    found = _line(Path("/proc/self/status"), f"{field}:")
    return None if found is None else found * 1024 / MB


def machine_mb() -> float | None:
    """Return the physical memory of this machine; None where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MB


def available_mb() -> float | None:
    """Return what processes can still take: of the machine, or of a container's limit; None where nobody tells.

    Pages of files that were read or written once count as free: the system gives them up before a process has to go.
    """
    groups = (_left_in_group(Path(folder), *names) for folder, *names in _GROUPS)
    found = [left for left in groups if left is not None]
    machine = _line(Path("/proc/meminfo"), "MemAvailable:")
    found += [machine * 1024] if machine is not None else []
    return min(found) / MB if found else None


def _left_in_group(folder: Path, limit: str, used: str, idle: str) -> int | None:
    """Return what a group may still take; None where it has no limit ("max"), or there is no such group."""
    try:
        most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
    except (OSError, ValueError):
        return None
    return max(most - now + (_line(folder / "memory.stat", idle) or 0), 0)


def _line(path: Path, name: str) -> int | None:
    """Return the number behind a name at the beginning of a line; None where there is none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)

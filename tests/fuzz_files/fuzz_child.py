"""Reads damaged files in a process of its own, which may die of it: one line of JSON before and after each.

    fuzz_child.py SEEDS SCRATCH PLAN FIRST PIPE

PLAN is a JSON list of [kind, number]; cases before FIRST are left out. PIPE is the file descriptor of the lines.
"""

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType

LIMIT_S = 20
MOST_MB = 1024
"""Of memory that one case may take beyond what the process has."""


class TooLong(BaseException):
    """A case took more than `LIMIT_S` of processor time."""


def main(seeds: Path, scratch: Path, plan: Path, first: int) -> None:
    from damage_arrays import CANARY, canary
    from file_kinds import KINDS, fresh

    warnings.simplefilter("ignore")
    seal = canary(scratch)
    os.environ[CANARY] = str(seal)
    signal.signal(signal.SIGPROF, _stop)
    cases = json.loads(plan.read_text())
    limited: set[str] = set()
    for index, (name, number) in enumerate(cases[first:], first):
        kind = KINDS[name]
        if name not in limited:  # what the kind imports is not counted
            _allow(None)
            fresh(seeds, kind, scratch / "case")
            for target in kind.targets:
                target.read(scratch / "case")
            fresh(seeds, kind, scratch / "case")
            limited.add(name)
            _allow(MOST_MB)
        else:
            fresh(seeds, kind, scratch / "case")
        target = kind.damage(scratch / "case", random.Random(f"{name}:{number}"))
        _say({"index": index})
        if os.environ.get("FUZZ_DIE_AT") == str(index):  # a test of the harness
            os.kill(os.getpid(), signal.SIGSEGV)
        _say({"index": index, **_read(target.read, scratch / "case")})
        if seal.exists():
            seal.unlink()
            _say({"index": index, "end": "unexpected", "why": "code that the file hides was run"})


def _read(read: object, folder: Path) -> dict[str, object]:
    from fewbits.errors import FewbitsError

    assert callable(read)
    before, begin = _memory("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # of processor time: the machine may be busy
    try:
        read(folder)
        end, why = "read", ""
    except FewbitsError as error:
        is_line = len(str(error).splitlines()) == 1 and len(str(error)) > 10
        end, why = ("refused", "") if is_line else ("unexpected", f"a message of several lines: {str(error)[:300]!r}")
    except TooLong:
        end, why = "unexpected", f"more than {LIMIT_S} s of processor time"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in place[:-5:-1])
        end, why = "unexpected", f"{type(error).__name__} {str(error)[:200]} at {where}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    peak = max(0, _memory("VmHWM") - before)
    return {"end": end, "why": why, "ms": round(1e3 * (time.process_time() - begin), 1), "mb": round(peak / 1024, 1)}


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooLong


def _allow(most_mb: int | None) -> None:
    """Limit the address space to what it is now and so much more."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = hard if most_mb is None else 1024 * _memory("VmSize") + (most_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _memory(field: str) -> int:
    """Return kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def _say(line: dict[str, object]) -> None:
    os.write(PIPE, (json.dumps(line) + "\n").encode())


if __name__ == "__main__":
    PIPE = int(sys.argv[5])
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))

"""The memory that a run may take: what fits is done, what does not is refused with the figure before it begins."""

import re
from dataclasses import dataclass

from fewbits.errors import SpecError
from fewbits.improvement.methods import Effort
from fewbits.reporting.preflight_record import Preflight
from fewbits.workflow.preflight_memory import MB

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_USUAL = Effort()


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
class Room:
    """What fits into the memory that a run may take.

    Attributes:
        ranking: how groups are ranked: "auto", or "brute-force" where one pass with gradients does not fit.
        effort: of the methods of step 4; None where they do not fit.
        notes: sentences for the user, about what is done otherwise.
    """

    ranking: str = "auto"
    effort: Effort | None = _USUAL
    notes: tuple[str, ...] = ()

    @classmethod
    def within(cls, memory: int | None, known: Preflight) -> "Room":
        """Return what fits into `memory` bytes; None sets no limit.

        Raises:
            SpecError: not even step 1 fits, or the system does not tell what a process takes.
        """
        if memory is None:
            return cls()
        allowed = memory / MB
        if known.step1_mb is None:
            raise SpecError("--memory cannot be held: this system does not tell what a process takes. Leave it out.")
        if known.step1_mb > allowed:
            raise SpecError(
                f"Step 1 is expected to take {known.step1_mb:.0f} MB, and --memory allows {allowed:.0f} MB: allow "
                f"more, make batches smaller with --batch-size, or take fewer samples with --samples."
            )
        notes = ["Memory for training is not told beforehand, and --memory does not hold there."]
        ranking = "auto"
        effort: Effort | None = _USUAL
        if (one_pass := known.later_mb["litemp"]) > allowed:
            ranking = "brute-force"
            notes.append(f"Groups are ranked by brute force, since one pass may take {one_pass:.0f} MB.")
        if (least := known.later_mb["improve"] - known.waiting_mb) > allowed:
            effort = None
            notes.append(f"Better weights are left out, since they may take {least:.0f} MB.")
        elif known.later_mb["improve"] > allowed:
            effort = Effort(ceiling=max(1, int((allowed - least) * MB)))
        return cls(ranking, effort, tuple(notes))

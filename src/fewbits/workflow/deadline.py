"""When a verb is to come to its end: what it began it finishes, and then it begins nothing more."""

import time
from dataclasses import dataclass

from fewbits.workflow.amp_wishes import parse_seconds


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of this process's clock.

    Attributes:
        at_s: seconds of time.monotonic(); None never comes.
    """

    at_s: float | None = None

    @classmethod
    def after(cls, limit: float | str | None) -> "Deadline":
        """Return the moment that is so far from now: seconds, "10m", "1.5h", or None.

        Raises:
            SpecError: it is no time.
        """
        return cls(None if limit is None else time.monotonic() + parse_seconds(limit))

    def is_over(self) -> bool:
        """Whether the moment has come."""
        return self.at_s is not None and time.monotonic() >= self.at_s

"""How long each stage of a verb takes, and who is told how far it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from fewbits.runtime.progress import NullProgress, Progress


class Watcher(Protocol):
    """Whoever wants to follow a verb: called as each stage begins."""

    def __call__(self, stage: str, samples: int | None) -> Progress:
        """Take note that `stage` begins, over `samples` (None: unknown); return whom to tell of each batch."""


@dataclass(slots=True)
class Stages:
    """Wall time by stage, in the order in which the stages began.

    Attributes:
        watcher: told of each stage, or None.
        seconds: stage -> seconds.
    """

    watcher: Watcher | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, samples: int | None = None) -> Iterator[Progress]:
        """Time the block under `name` and lend the progress for it."""
        progress = self.watcher(name, samples) if self.watcher is not None else NullProgress()
        begin = time.perf_counter()
        try:
            yield progress
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

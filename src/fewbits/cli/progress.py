"""Bars with the time left, on stderr, gone when the work is done."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from fewbits.runtime.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID


class Bars(AbstractContextManager["Bars"]):
    """A `Watcher` with one bar per stage; it shows nothing where stderr is no terminal, or when told to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        self._progress = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, samples: int | None) -> Progress:
        """Show a bar for a stage in place of the one before."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(stage, total=samples)
        return self

    def advance(self, samples: int) -> None:
        """Move the bar on."""
        if self._task is not None:
            self._progress.advance(self._task, samples)

"""How a long function tells its caller that it moves on; the command line turns it into a bar."""

from typing import Protocol


class Progress(Protocol):
    """Whoever wants to know how far a long function is."""

    def advance(self, samples: int) -> None:
        """Take note that `samples` more samples are done."""


class NullProgress:
    """A `Progress` that nobody watches."""

    def advance(self, samples: int) -> None:
        """Do nothing."""

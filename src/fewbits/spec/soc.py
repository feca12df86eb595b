"""Chips by name: what their compiler calls them, and which target's rules they follow."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fewbits.errors import SpecError


@dataclass(frozen=True, slots=True)
class Soc:
    """One Qualcomm chip.

    Attributes:
        name: as on the command line, `sm8650`.
        id: the compiler's number (soc_model).
        htp: generation of its tensor processor, `v75`.
        fp16: whether that computes in float16.
        estimates: whether the compiler estimates latencies for it.
    """

    name: str
    id: int
    htp: str
    fp16: bool = True
    estimates: bool = False

    @property
    def target(self) -> str:
        """Name of the target whose rules the chip follows."""
        return f"qnn-htp-{self.htp}"


@cache
def socs() -> tuple[Soc, ...]:
    """Return all known chips."""
    text = (resources.files("fewbits.spec") / "socs.toml").read_text(encoding="utf-8")
    return tuple(Soc(name=name, **facts) for name, facts in tomllib.loads(text).items())


def find_soc(name: str | int) -> Soc:
    """Return a chip by its name or the compiler's number, in any case.

    Raises:
        SpecError: it is not known.
    """
    wanted = str(name).strip().lower()
    for soc in socs():
        if wanted in (soc.name, str(soc.id)):
            return soc
    known = ", ".join(f"{soc.name} ({soc.id})" for soc in socs())
    raise SpecError(f"Unknown chip {str(name)!r}: write one of {known}.")

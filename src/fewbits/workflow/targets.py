"""Verbs targets and chips: the devices that fewbits knows."""

from fewbits.spec.soc import Soc, socs
from fewbits.spec.target import Target, load_target, target_names


def targets() -> tuple[Target, ...]:
    """Return every device profile that comes with fewbits, by name."""
    return tuple(load_target(name) for name in target_names())


def chips() -> tuple[Soc, ...]:
    """Return every chip that a model can be compiled for."""
    return socs()

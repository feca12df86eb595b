"""Verb targets: the device profiles that come with fewbits."""

from fewbits.spec.target import Target, load_target, target_names


def targets() -> tuple[Target, ...]:
    """Return every device profile that comes with fewbits, by name."""
    return tuple(load_target(name) for name in target_names())

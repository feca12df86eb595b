"""What the peers are scored at, in the order in which it is run: quick tools first, what is least needed last.

Standard library only: the peers' environments import this file too.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of quantizing with one tool; `scheme` is the tool's own word for its choice of ranges or preset."""

    tool: str
    precision: str
    scheme: str


ORDER = (
    Setting("nncf", "w8a8", "default"),
    Setting("nncf", "w8a8", "mixed"),
    Setting("ort", "w8a8", "minmax"),
    Setting("ort", "w8a16", "minmax"),
    Setting("ort", "w16a16", "minmax"),
    Setting("ort", "w4a8", "minmax"),
    Setting("aimet", "w8a8", "min_max"),
    Setting("aimet", "w8a8", "tf_enhanced"),
    Setting("aimet", "w8a16", "min_max"),
    Setting("aimet", "w8a16", "tf_enhanced"),
    Setting("aimet", "w16a16", "min_max"),
    Setting("aimet", "fp16", "min_max"),
    Setting("aimet", "w4a8", "min_max"),
    Setting("nncf", "w8a8", "accurate bias"),
    Setting("aimet", "w4a8", "tf_enhanced"),
    Setting("aimet", "w16a16", "tf_enhanced"),
)
"""What a tool does not offer is absent; fp16 has no ranges, so one scheme stands for both."""

TOOLS = tuple(dict.fromkeys(s.tool for s in ORDER))

SAMPLES = {"ort": 400, "nncf": 300, "aimet": 64}
"""Calibration samples at most. 300 is NNCF's default; the others have none: ORT gets what fewbits gets."""


def precisions(tool: str) -> tuple[str, ...]:
    """Return the precisions that a tool offers."""
    return tuple(dict.fromkeys(s.precision for s in ORDER if s.tool == tool))


def schemes(tool: str) -> tuple[str, ...]:
    """Return the schemes that a tool offers, its default first."""
    return tuple(dict.fromkeys(s.scheme for s in ORDER if s.tool == tool))

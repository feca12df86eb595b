"""The model that a run handed over, as the page tells it: nodes by precision, and which nodes have one of their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.reporting.html import text
from fewbits.reporting.record import RunRecord

FLOAT = "fp32"
_SLOTS = ("w8a8", "w8a16", "w16a16", "fp16", "w4a8", "w4a16", "w4a4")
"""Precisions in the order of the palette: `SLOTS` of script/common.js."""
MOST_NODES = 400
"""Nodes that the page names in one place, at most."""


@dataclass(frozen=True, slots=True)
class Part:
    """The nodes of one precision.

    Attributes:
        precision: its name.
        count: of nodes.
        share: of all nodes, as text.
        tone: class of its colour in the style.
        nodes: names of those that the profile gives another precision than the rest, the first few hundred.
        more: how many of them are not named.
    """

    precision: str
    count: int
    share: str
    tone: str
    nodes: tuple[str, ...]
    more: int


def parts(made: RunRecord) -> tuple[Part, ...]:
    """Return the nodes of a model by precision, the most frequent first."""
    total = sum(made.precision.values())
    own: dict[str, list[str]] = {}
    declined = {node for nodes in made.declined.values() for node in nodes}
    for node, precision in own_precisions(made).items():
        if node not in declined:
            own.setdefault(precision, []).append(node)
    found = []
    for precision, count in sorted(made.precision.items(), key=lambda item: (-item[1], item[0])):
        nodes = own.get(precision, []) if precision != default_precision(made) else []
        more = max(len(nodes) - MOST_NODES, 0)
        share = text.share(count, total)
        found.append(Part(precision, count, share, tone(precision), tuple(nodes[:MOST_NODES]), more))
    return tuple(found)


def default_precision(made: RunRecord) -> str:
    """Return the precision of the nodes that the profile does not name."""
    asked = made.options.get("precision")
    if isinstance(asked, str) and (asked in made.precision or not made.precision):
        return asked
    return max(made.precision, key=lambda name: made.precision[name], default=FLOAT)


def own_precisions(made: RunRecord) -> Mapping[str, str]:
    """Return node -> precision of every node that does not have the precision of the rest."""
    default = default_precision(made)
    declined = {node: FLOAT for nodes in made.declined.values() for node in nodes}
    return {node: name for node, name in {**made.profile, **declined}.items() if name != default}


def tone(precision: str) -> str:
    """Return the class of a precision's colour; one that the palette does not know has that of float."""
    return f"p{_SLOTS.index(precision) + 1}" if precision in _SLOTS else "p0"

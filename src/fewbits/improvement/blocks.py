"""Blocks of a network: what learned rounding looks at together (residual blocks, attention blocks, short chains)."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Protocol

_LONG = 0.34  # a tensor that waits for more than this share of the layers says nothing of where blocks end
_MOST_LAYERS = 8
_FEWEST_LAYERS = 2


class Node(Protocol):
    """What finding blocks wants to know of a node, in the order of execution."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of what it reads."""
        ...

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of what it makes."""
        ...


def find_blocks(nodes: Sequence[Node], layers: Collection[str], inputs: Collection[str] = ()) -> list[tuple[int, int]]:
    """Return (first, behind the last) of consecutive ranges that cover all nodes.

    A block ends where only one tensor crosses into what follows, beside those that wait for long (features that a
    decoder joins at the end, masks). So a residual block is one, and so is attention with its residual. Chains without
    branches, where every node is such an end, are cut after two layers and what follows the second (its activation). A
    block that would have more than eight layers is cut after the eighth.

    Args:
        nodes: in the order of execution.
        layers: names of the nodes with weights that are to be rounded.
        inputs: names of what is fed into the graph.

    Source: Li et al. 2021, BRECQ, section 3.2, which takes the blocks that the architecture names.
    """
    last = {name: i for i, node in enumerate(nodes) for name in node.reads if name}
    reach = _counts(nodes, layers)
    longest = max(_LONG * (reach[-1] if reach else 0), _MOST_LAYERS)
    readers = Counter(name for node in nodes for name in set(node.reads) if name)
    made = dict.fromkeys(inputs, -1) | {name: i for i, node in enumerate(nodes) for name in node.writes if name}
    blocks, begin, held = [], 0, 0
    for i, node in enumerate(nodes):
        held += node.name in layers
        crossing = [
            name
            for name, where in made.items()
            if where <= i < last.get(name, -1) and reach[last[name]] - (reach[where] if where >= 0 else 0) <= longest
        ]
        after = nodes[i + 1] if i + 1 < len(nodes) else None
        # an activation belongs to what it follows
        is_followed = (
            after is not None and after.name not in layers and crossing[0:1] == [*after.reads][0:1]
            and all(readers[name] == 1 for name in crossing)
        )  # fmt: skip
        is_end = len(crossing) <= 1 and held >= _FEWEST_LAYERS and not is_followed
        if is_end or held >= _MOST_LAYERS or after is None:
            blocks.append((begin, i + 1))
            begin, held = i + 1, 0
    return blocks


def _counts(nodes: Sequence[Node], layers: Collection[str]) -> list[int]:
    """Return for every node how many layers there are up to it."""
    found, count = [], 0
    for node in nodes:
        count += node.name in layers
        found.append(count)
    return found

"""Find layers whose output channels reach the input channels of exactly one next layer, and nothing else."""

from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph.passes.base import Declined, Skipped
from fewbits.improvement.channel_path import Bound, Place, follow
from fewbits.improvement.layer_blocks import channels_in, channels_out, check_layer, input_axis, is_layer

_ONLY_SHAPES = ("Shape", "Size")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers that share a boundary.

    Attributes:
        first: writes the channels.
        second: reads them.
        channels: C, output channels of `first`.
        repeat: input channels of `second` for each of them, side by side.
        bounds: constants between the two that move with the channels.
        path: the nodes between the two, in order, each with the channels in what it reads.
    """

    first: ir.Node
    second: ir.Node
    channels: int
    repeat: int
    bounds: tuple[Bound, ...]
    path: tuple[tuple[ir.Node, Place], ...]

    @property
    def name(self) -> str:
        """Name of the first layer, which has no other pair."""
        return str(self.first.name)

    @property
    def clips(self) -> tuple[Bound, ...]:
        """The Clips of zero to a constant between the two."""
        return tuple(bound for bound in self.bounds if bound.node.op_type == "Clip")


def find_pairs(graph: ir.Graph) -> tuple[tuple[Pair, ...], tuple[Skipped, ...]]:
    """Return the pairs in the order of the graph, and every other layer with the reason why it has no next one.

    Args:
        graph: its shapes are inferred.
    """
    pairs, declined = [], []
    for node in graph:
        if is_layer(node):
            try:
                pairs.append(_pair(node))
            except Declined as reason:
                declined.append(Skipped(str(node.name), str(reason)))
    return tuple(pairs), tuple(declined)


def _pair(first: ir.Node) -> Pair:
    check_layer(first)
    out = first.outputs[0]
    rank = len(out.shape) if out.shape is not None else None
    if rank is None:
        raise Declined(f"the rank of its result {out.name!r} is not known")
    place = Place(out, rank - 1 if first.op_type == "MatMul" else 1, channels_out(first))
    bounds, path = list[Bound](), list[tuple[ir.Node, Place]]()
    while True:
        reader = only_reader(place.value)
        if is_layer(reader):
            check_arrival(reader, place)
            return Pair(first, reader, place.channels, place.repeat, tuple(bounds), tuple(path))
        path.append((reader, place))
        place, bound = follow(reader, place)
        if bound is not None:
            bounds.append(bound)


def only_reader(value: ir.Value) -> ir.Node:
    """Return the one node that reads the elements of `value`; those that read its shape do not count.

    Raises:
        Declined: it is an output of the graph, or has another number of readers.
    """
    if value.is_graph_output():
        raise Declined(f"{value.name!r} is an output of the graph")
    readers = value_readers(value)
    if len(readers) != 1:
        names = ", ".join(sorted(repr(str(node.name)) for node in readers)) or "none"
        raise Declined(f"{value.name!r} is read by {len(readers)} inputs ({names}), not one")
    reader = readers[0]
    if reader.graph is not value.graph:
        raise Declined(f"{value.name!r} is read inside a subgraph by {reader.name!r}")
    return reader


def value_readers(value: ir.Value) -> list[ir.Node]:
    """Return the reader of each use of `value` that sees more than its shape."""
    return [use.node for use in value.uses() if use.node.op_type not in _ONLY_SHAPES]


def check_arrival(layer: ir.Node, place: Place) -> None:
    """Check that the channels of `place` are the input channels of `layer`."""
    name = repr(str(layer.name))
    if layer.inputs[0] is not place.value:
        raise Declined(f"the next layer {name} takes it for a weight or a bias")
    try:
        check_layer(layer)
    except Declined as reason:
        raise Declined(f"of the next layer {name}: {reason}") from None
    if input_axis(layer) != place.axis or channels_in(layer) != place.channels * place.repeat:
        raise Declined(f"the channels of the next layer {name} are not its own")
    if layer.op_type in ("Conv", "ConvTranspose") and place.repeat != 1:
        raise Declined(f"the channels of the next layer {name} are not its own")

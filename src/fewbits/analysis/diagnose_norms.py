"""Rule of the diagnosis for normalizations that are written out in elementary operators, and how to find them.

    LayerNorm     ReduceMean -> Sub -> Pow | Mul -> ReduceMean -> Add -> Sqrt -> Div | Reciprocal, Mul [-> Mul -> Add]
    RMSNorm                           Pow | Mul -> ReduceMean -> Add -> Sqrt -> Div | Reciprocal, Mul [-> Mul]

Squares span twice the octaves of their input, and an 8-bit grid for them loses every small variance.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from fewbits.analysis.diagnose_case import Case, Evidence, lift_lines, names_of, number, widened
from fewbits.graph.topology import constant


@dataclass(frozen=True, slots=True, eq=False)
class WrittenOut:
    """One normalization in pieces.

    Attributes:
        operator: the ONNX operator that does the same.
        opset: the first that has it.
        nodes: its pieces, in the order of computation.
        source: the tensor that is normalized.
        square: what the squaring node makes.
        mean_square: the mean of the squares.
    """

    operator: str
    opset: int
    nodes: tuple[ir.Node, ...]
    source: ir.Value
    square: ir.Value
    mean_square: ir.Value


def unfused_normalization(case: Case) -> Evidence | None:
    """A normalization is quantized piece by piece."""
    network = case.network
    for found in written_out(network.graph):
        names = {str(node.name) for node in found.nodes}
        pieces = [n for n in found.nodes if (p := network.plan.nodes.get(str(n.name))) and not p.precision.is_float]
        if not names & set(case.group.nodes) or len(pieces) < 3:
            continue
        figures = {"operators": float(len(pieces)), **_figures(case, found)}
        least = ""
        if "steps_of_least" in figures:
            least = (
                f" Its mean square goes down to {number(figures['least'])}, where one step of the grid is "
                f"{number(figures['step'])}, and its squares reach {number(figures['largest_square'])}."
            )
        groups = dict.fromkeys(network.owners[str(n.name)].name for n in pieces if str(n.name) in network.owners)
        tensor, wider = str(found.source.name), widened(network.precision, "activations")
        return Evidence(
            tensor,
            f"A {found.operator} of {tensor!r} is written out in {names_of(found.nodes)}, and each is quantized by "
            f"itself.{least}",
            f"export with opset {found.opset} or newer so that it stays one {found.operator}, or keep the pieces in "
            f"{wider}: {lift_lines(groups, wider)}",
            figures,
            key=str(found.nodes[0].name),
        )
    return None


def _figures(case: Case, found: WrittenOut) -> dict[str, float]:
    mean, square = (case.network.facts.get(str(v.name)) for v in (found.mean_square, found.square))
    if mean is None or square is None or mean.scale is None:
        return {}
    return {
        "largest_square": square.high,
        "least": mean.low,
        "step": mean.scale,
        "steps_of_least": mean.low / mean.scale,
    }


def written_out(graph: ir.Graph) -> tuple[WrittenOut, ...]:
    """Return the normalizations of a graph that are written out, in its order."""
    roots = (node for node in graph if node.op_type == "Sqrt" or _is_power(node, 0.5, -0.5))
    return tuple(found for root in roots if (found := _around_root(root)) is not None)


def _around_root(root: ir.Node) -> WrittenOut | None:
    """Return the normalization whose square root `root` takes."""
    below = _producer(root.inputs[0])
    add = below if below is not None and below.op_type == "Add" else None
    mean = below if add is None else next((p for v in add.inputs if (p := _producer(v)) is not None), None)
    square = _producer(mean.inputs[0]) if mean is not None and mean.op_type in _MEANS else None
    applied = _applied(root)
    if mean is None or square is None or not _is_square(square) or not applied:
        return None
    centred = square.inputs[0]
    if centred is None:
        return None
    sub = _producer(centred)
    nodes = [square, mean, *((add,) if add is not None else ()), root, *applied]
    first = _producer(sub.inputs[1]) if sub is not None and sub.op_type == "Sub" else None
    source, operator, opset = centred, "RMSNormalization", 23
    if sub is not None and first is not None and first.op_type in _MEANS and first.inputs[0] is sub.inputs[0]:
        nodes, source = [first, sub, *nodes], first.inputs[0] or centred
        operator, opset = ("LayerNormalization", 17) if _is_last_axis(mean) else ("InstanceNormalization", 6)
    return WrittenOut(operator, opset, tuple(nodes), source, square.outputs[0], mean.outputs[0])


_MEANS = frozenset({"ReduceMean", "GlobalAveragePool"})


def _applied(root: ir.Node) -> list[ir.Node]:
    """Return the nodes that divide by the root, and what scales and shifts the result; none where nothing divides."""
    node, found = _one_reader(root.outputs[0]), []
    if node is not None and (node.op_type == "Reciprocal" or (node.op_type == "Div" and _is_stored(node.inputs[0]))):
        found.append(node)
        node = _one_reader(node.outputs[0])
    divides = "Mul" if found or _is_power(root, -0.5) else "Div"
    if node is None or node.op_type != divides:
        return []
    found.append(node)
    for op in ("Mul", "Add"):
        follower = _one_reader(found[-1].outputs[0])
        if follower is not None and follower.op_type == op and any(map(_is_stored, follower.inputs)):
            found.append(follower)
    return found


def _is_last_axis(mean: ir.Node) -> bool:
    stored = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    axes = list(stored.numpy().ravel()) if stored is not None else list(mean.attributes.get_ints("axes", ()))
    shape = mean.inputs[0].shape if mean.inputs[0] is not None else None
    return axes == [-1] or (shape is not None and axes == [len(shape) - 1])


def _is_square(node: ir.Node) -> bool:
    return _is_power(node, 2.0) or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])


def _is_power(node: ir.Node, *exponents: float) -> bool:
    stored = constant(node.inputs[1]) if node.op_type == "Pow" else None
    return stored is not None and bool(np.isin(stored.numpy(), exponents).all())


def _is_stored(value: ir.Value | None) -> bool:
    return constant(value) is not None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _one_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len({use.node for use in uses}) == 1 else None

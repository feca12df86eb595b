"""Find out where a place differs: every tensor of a file beside the simulation, and every operator on its own.

Two models are made of the file. *Tapped*: every tensor behind a grid, or in float16, is an output, too. *Cut*: and
every reader of such a tensor reads it from an input of the model, so that each operator can be given what the
simulation gives it; all of them run at once, and none sees the differences of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fewbits.artifact.samples import Arrays
from fewbits.deployment.certificate import sqnr
from fewbits.deployment.place_certificate import LocalDifference

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_SEEN, _TAP = "__as_simulated", "__tapped"


@dataclass(frozen=True, slots=True)
class Tap:
    """One tensor of the file that is looked at.

    Attributes:
        name: of the dequantized, or of the float16 tensor.
        output: what the tapped model calls it, in float32.
        grid: names of scale and zero point; empty for float16.
        step: the scale; 0 for float16.
        node: that writes the float, and its operator; empty where that is an input of the model.
        op: of the node.
        domain: of the file's QuantizeLinear.
    """

    name: str
    output: str
    grid: tuple[str, ...]
    step: float
    node: str
    op: str
    domain: str = ""


def find_taps(model: onnx.ModelProto) -> list[Tap]:
    """Return the tensors behind pairs of QuantizeLinear and DequantizeLinear, and float16 ones, in the graph's order.

    Args:
        model: with the types of its tensors.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    halves = {v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    found = []
    for node in model.graph.node:
        if node.op_type not in (*_PAIR, "Cast") and node.output[0] in halves:
            found.append(Tap(node.output[0], f"{node.output[0]}{_TAP}", (), 0.0, node.name, node.op_type))
        above = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if above is None or above.op_type != "QuantizeLinear" or above.input[0] in constants:
            continue
        scale = constants.get(node.input[1])
        step = float(np.max(numpy_helper.to_array(scale))) if scale is not None else 0.0
        origin = _origin(above, producers)
        name, op = (origin.name, origin.op_type) if origin is not None else ("", "")
        found.append(Tap(node.output[0], node.output[0], tuple(node.input[1:]), step, name, op, node.domain))
    return found


def _origin(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the operator that writes what a pair passes on."""
    found: onnx.NodeProto | None = node
    while found is not None and found.op_type in (*_PAIR, "Cast"):
        found = producers.get(found.input[0])
    return found


def tapped(model: onnx.ModelProto, taps: list[Tap]) -> onnx.ModelProto:
    """Return the model with every tap as a further output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in copy.graph.output}
    for tap in (tap for tap in taps if tap.output not in there):
        if not tap.grid:
            copy.graph.node.append(_cast(tap.name, tap.output, TensorProto.FLOAT))
        copy.graph.output.append(helper.make_tensor_value_info(tap.output, TensorProto.FLOAT, None))
    return copy


def cut(model: onnx.ModelProto, taps: list[Tap], values: Arrays) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the model in which whoever reads a tap reads an input of the model; and output of a tap -> that input.

    Args:
        model: the file.
        taps: from `find_taps`; those of the model's inputs are left alone.
        values: output of each tap -> its value, for the shapes.
    """
    copy, mine = tapped(model, taps), [tap for tap in taps if tap.node]
    seen = {tap.name: f"{tap.name}{_SEEN}" for tap in mine}
    outputs = {tap.output for tap in mine}
    for node in copy.graph.node:
        for position, name in enumerate(node.input):
            if name in seen and node.output[0] not in outputs:
                node.input[position] = f"{seen[name]}_in"
    first = []
    for tap in mine:
        source = seen[tap.name]
        shape = list(values[tap.output].shape)
        copy.graph.input.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, shape))
        if not tap.grid:
            first.append(_cast(source, f"{source}_in", TensorProto.FLOAT16))
            continue
        for op, before, after in (
            ("QuantizeLinear", source, f"{source}_q"),
            ("DequantizeLinear", f"{source}_q", f"{source}_in"),
        ):
            first.append(helper.make_node(op, [before, *tap.grid], [after], name=after, domain=tap.domain))
    rest = list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend([*first, *rest])
    return copy, {tap.output: seen[tap.name] for tap in mine}


def _cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}_cast", to=kind)


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """What two engines answer to the tapped model, and to the cut one: output of a tap -> value."""

    exact: Arrays
    place: Arrays
    exact_alone: Arrays
    place_alone: Arrays


def differences(taps: list[Tap], runs: Runs) -> list[LocalDifference]:
    """Return how far every tap is off, the worst on its own first."""
    found = [_difference(tap, runs) for tap in taps if tap.node]
    return sorted(found, key=lambda one: np.inf if one.alone_db is None else one.alone_db)


def _difference(tap: Tap, runs: Runs) -> LocalDifference:
    left, right = runs.place_alone[tap.output], runs.exact_alone[tap.output]
    steps = np.zeros(0)
    if tap.step > 0:
        steps = np.abs(np.rint((_reals(left) - _reals(right)) / tap.step))
    return LocalDifference(
        tensor=tap.name,
        node=tap.node,
        op=tap.op,
        alone_db=sqnr([right], [left]),
        worst_steps=int(steps.max()) if steps.size else None,
        share_off=float((steps > 1).mean()) if steps.size else None,
        db=sqnr([runs.exact[tap.output]], [runs.place[tap.output]]),
    )


def _reals(array: Any) -> Any:
    return np.asarray(array, dtype=np.float64)

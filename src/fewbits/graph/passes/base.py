"""What a pass hands back, and the few edits that passes share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.graph.naming import unique_name, value_names

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that a pass or improver left as it was: `name` is a node, tensor or stage, `reason` one clause."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one run of a pass did.

    Attributes:
        changed: one line per edit.
        declined: what could have been edited and was not, with the reason.
    """

    changed: tuple[str, ...] = ()
    declined: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """One row of the table of passes: `run` edits the model in place."""

    name: str
    run: Callable[[ir.Model], PassResult]


class Declined(Exception):  # noqa: N818 - control flow inside one pass, not an error
    """Raised inside a pass where a pattern does not fit; its text is the reason."""


def is_onnx(node: ir.Node, *op_types: str) -> bool:
    """Whether `node` is one of these operators of ai.onnx."""
    return node.domain == "" and node.op_type in op_types


def is_constant(value: ir.Value | None) -> bool:
    """Whether `value` is an initializer; its data are not read."""
    return value is not None and value.is_initializer() and value.const_value is not None


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of an initializer without reading its data, or None where `value` is not one."""
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return tuple(value.const_value.shape.numpy())


def constant(value: ir.Value | None) -> FloatArray | None:
    """Return the float64 array of an initializer, or None where `value` is computed, an input, or left out."""
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy()).astype(np.float64)


def add_initializer(model: ir.Model, wanted: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Register `array` as an initializer named `wanted` (or `wanted_1`, ...) and return its value."""
    name = unique_name(wanted, value_names(model))
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def set_constant(model: ir.Model, node: ir.Node, index: int, array: npt.NDArray[np.generic], *, wanted: str) -> None:
    """Make input `index` of `node`, which it has, the constant `array`.

    An initializer that only this node reads is overwritten and keeps its name; one that is shared is left alone and a
    new one is added under the name `wanted`.
    """
    current = node.inputs[index]
    assert current is not None
    if len(current.uses()) > 1 or current.is_graph_output():
        node.replace_input_with(index, add_initializer(model, wanted, array))
        return
    current.const_value = ir.tensor(array, name=current.name)
    current.shape = ir.Shape(array.shape)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand wherever `old` was read or handed out, under the name of `old`; then remove the node of `old`."""
    producer, name = old.producer(), old.name
    assert producer is not None
    assert producer.graph is not None
    if old.shape is not None:
        new.shape = old.shape
    if old.type is not None:
        new.type = old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    producer.graph.remove(producer, safe=True)
    new.name = name


def sole_reader(value: ir.Value) -> ir.Node:
    """Return the one node that reads `value`.

    Raises:
        Declined: several nodes read it, or it is an output of the graph.
    """
    if value.is_graph_output():
        raise Declined(f"{value.name!r} is an output of the graph")
    readers = [use.node for use in value.uses()]
    if len(readers) != 1:
        names = ", ".join(sorted({repr(node.name) for node in readers}))
        raise Declined(f"{value.name!r} is read by {len(readers)} inputs ({names})")
    return readers[0]

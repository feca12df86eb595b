"""What a model file claims, checked before it costs anything: sizes of constants, and what its functions come to."""

from collections import Counter
from collections.abc import Iterator
from functools import cache

import onnx
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.naming import all_nodes

MOST_WORK = 25_000_000
"""Nodes of each function times the square of its copies, summed: what writing functions out takes, 20 s or so."""
_ONNX = ("", "ai.onnx")
_BILLION = 10**9


def check_functions(model: ir.Model, what: str) -> None:
    """Refuse functions that call functions until no memory holds what they come to.

    Args:
        model: not inlined yet.
        what: its name in messages.

    Raises:
        ModelError: writing the functions out is more than `MOST_WORK`, or a function calls itself.
    """
    copies = Counter(node.op_identifier() for node in model.graph.all_nodes())
    work = 0
    for key in reversed(list(_called_first(model, what))):  # each before those that it calls
        nodes = [node.op_identifier() for node in model.functions[key].all_nodes()]
        work += len(nodes) * copies[key] ** 2  # names are made unique by trying one after the other
        for called in nodes:
            copies[called] += copies[key]
    if work > MOST_WORK:
        largest = max(model.functions, key=lambda key: copies[key])
        count = f"{copies[largest]}" if copies[largest] < _BILLION else "more than a billion"
        raise ModelError(
            f"{what} calls functions that call others, so that {largest[1]!r} alone comes to {count} copies, which no "
            f"network needs: export it without functions."
        )


def _called_first(model: ir.Model, what: str) -> Iterator[ir.OperatorIdentifier]:
    """Yield the functions, each behind those that it calls."""
    done: set[ir.OperatorIdentifier] = set()
    for first in model.functions:
        open_: dict[ir.OperatorIdentifier, Iterator[ir.OperatorIdentifier]] = {}
        wanted = None if first in done else first
        while wanted is not None or open_:
            if wanted is not None:
                if wanted in open_:
                    raise ModelError(f"{what} is not a valid ONNX graph: its function {wanted[1]!r} calls itself.")
                open_[wanted] = (node.op_identifier() for node in model.functions[wanted].all_nodes())
            last = next(reversed(open_))
            wanted = next((key for key in open_[last] if key in model.functions and key not in done), None)
            if wanted is None:
                del open_[last]
                done.add(last)
                yield last


def check_contents(model: ir.Model, what: str) -> None:
    """Refuse nodes that lack an input, attributes without a type, and constants whose data do not fit their shape.

    Args:
        model: whose external data were checked already.
        what: its name in messages.

    Raises:
        ModelError: there is one; it is named.
    """
    version = model.opset_imports.get("", 1)
    for node in all_nodes(model):
        for position, name in _needed(node.op_type, version) if node.domain in _ONNX else ():
            if position >= len(node.inputs) or node.inputs[position] is None:
                raise ModelError(
                    f"{what} is not a valid ONNX graph: node {node.name!r} ({node.op_type}) lacks its input {name!r}. "
                    f"Export it again."
                )
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.UNDEFINED:
                raise ModelError(
                    f"{what} is not a valid ONNX graph: the attribute {name!r} of node {node.name!r} has no type. "
                    f"Export it again."
                )
    for tensor in _constants(model):
        if not isinstance(tensor, ir.TensorProtoTensor):
            continue
        try:
            fits, cause = tensor.numpy().shape == tuple(tensor.shape.numpy()), None
        except Exception as error:  # numpy and onnx_ir raise many kinds for sizes and types that cannot be
            fits, cause = False, error
        if not fits:
            raise ModelError(
                f"{what} holds the constant {tensor.name!r}, whose data do not fit its type and shape "
                f"{list(tensor.shape)!s:.60}: it was damaged; export or download it again."
            ) from cause


@cache
def _needed(op_type: str, version: int) -> tuple[tuple[int, str], ...]:
    """Return (position, name) of the inputs that an operator cannot do without; none of one that ONNX does not know."""
    try:
        schema = onnx.defs.get_schema(op_type, version)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version beyond all integers
        return ()
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return tuple((position, one.name) for position, one in enumerate(schema.inputs) if one.option == single)


def _constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                yield attribute.value
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.value

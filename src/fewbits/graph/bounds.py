"""What a model file claims, checked before it costs anything: sizes of constants, and what its functions come to."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from fewbits.errors import ModelError
from fewbits.graph.naming import all_nodes

MOST_WORK = 25_000_000
"""Nodes of each function times the square of its copies, summed: what writing functions out takes, 20 s or so."""
_ONNX = ("", "ai.onnx")
_BILLION = 10**9


def check_texts(proto: onnx.ModelProto, what: str) -> None:
    """Refuse names that are no text: protobuf takes any bytes for one.

    Args:
        proto: the model; the data of its constants are not looked at.
        what: its name in messages.

    Raises:
        ModelError: there is one.
    """
    found = next((name for name, value in _texts(proto) if not isinstance(value, str)), None)
    if found is not None:
        raise ModelError(
            f"{what} is not a valid ONNX graph: a field {found!r} of it is no UTF-8 text. Download or export it again."
        )


def _texts(proto: Message) -> Iterator[tuple[str, str | bytes]]:
    """Yield (field, value) of all texts; bytes stand for what is none."""
    below: list[Message] = [proto]
    while below:
        message = below.pop()
        if isinstance(message, onnx.TensorProto):  # whose data would be copied by asking for all fields
            yield from (("name", message.name), ("doc_string", message.doc_string))
            below.extend(message.external_data)
            continue
        for field, value in message.ListFields():
            values = [value] if isinstance(value, str | bytes | Message) else value
            if field.type == field.TYPE_STRING:
                yield from ((field.name, one) for one in values)
            elif field.type == field.TYPE_MESSAGE:
                below.extend(values)


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
    """Refuse nodes that lack an input, attributes of a wrong type, and constants whose data do not fit their shape.

    Args:
        model: whose external data were checked already.
        what: its name in messages.

    Raises:
        ModelError: there is one; it is named.
    """
    version = model.opset_imports.get("", 1)
    for node in all_nodes(model):
        demands = _demands(node, version)
        for position, name in demands.inputs:
            if position >= len(node.inputs) or node.inputs[position] is None:
                raise ModelError(
                    f"{what} is not a valid ONNX graph: node {node.name!r} ({node.op_type}) lacks its input {name!r}. "
                    f"Export it again."
                )
        for name, attribute in node.attributes.items():
            wanted = demands.types.get(name, attribute.type.name)
            if attribute.type == ir.AttributeType.UNDEFINED or attribute.type.name != wanted:
                raise ModelError(
                    f"{what} is not a valid ONNX graph: the attribute {name!r} of node {node.name!r} has the type "
                    f"{attribute.type.name}. Export it again."
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


def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version beyond all integers
        return None


@dataclass(frozen=True, slots=True)
class _Demands:
    """What a version of an operator demands.

    Attributes:
        inputs: (position, name) of those that it cannot do without.
        types: attribute -> name of its type.
    """

    inputs: tuple[tuple[int, str], ...]
    types: Mapping[str, str]


def _demands(node: ir.Node, version: int) -> _Demands:
    """Return what the operator demands; nothing where ONNX does not know it."""
    schema = _schema(node.op_type, version) if node.domain in _ONNX else None
    return _Demands((), {}) if schema is None else _known(schema.name, schema.since_version)


@cache  # by the version of the operator: there are as many as ONNX has, whatever names and opsets models bring along
def _known(op_type: str, since_version: int) -> _Demands:
    schema = onnx.defs.get_schema(op_type, since_version)
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return _Demands(
        tuple((position, one.name) for position, one in enumerate(schema.inputs) if one.option == single),
        {name: str(one.type).rpartition(".")[2] for name, one in schema.attributes.items()},
    )


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

"""Read an ONNX model into the graph that every later stage works on.

In: a path, bytes, an onnx.ModelProto or an onnx_ir.Model. Out: an onnx_ir.Model whose functions are inlined, whose
initializers are constants, whose nodes are sorted and uniquely named; external data stay on disk until they are read.
"""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from fewbits.errors import ModelError
from fewbits.graph.bounds import check_contents, check_functions, check_texts
from fewbits.graph.mapped import map_weights
from fewbits.graph.naming import all_nodes, name_nodes, name_subgraph_values

logger = logging.getLogger(__name__)

_WEIGHTED = frozenset(
    {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization",
        "LayerNormalization", "GroupNormalization", "LSTM", "GRU", "RNN",
    }
)  # fmt: skip
_NOT_EXTERNAL = (ir.DataType.UNDEFINED, ir.DataType.STRING)
_LONGEST_NAME = 255  # of a file, on all systems


def load_model(source: str | Path | bytes | onnx.ModelProto | ir.Model) -> ir.Model:
    """Return the graph of `source`, ready for the passes.

    Args:
        source: a file, its bytes, or a model in memory. An `ir.Model` is copied, its tensors are shared.

    Returns:
        A model of one's own: nodes sorted and uniquely named, functions inlined, initializers no longer inputs.
        Unknown operator domains pass: later stages decide what they can do with them.

    Raises:
        ModelError: the file is missing, is a folder, is not ONNX or is cut short; its external data are missing,
            short or outside its folder; or the graph reads a tensor that nothing produces.
    """
    if isinstance(source, ir.Model):
        return _normalize(source.clone(), "The model")
    if isinstance(source, onnx.ModelProto):
        return _normalize(_from_proto(source, "The model", None), "The model")
    if isinstance(source, bytes):
        return _normalize(_from_proto(_parse(source, "The model"), "The model", None), "The model")
    path = Path(source)
    what = f"Model file {str(path)!r}"
    return _normalize(_from_proto(_parse(_read(path), what), what, path.absolute().parent), what)


def check_finite(model: ir.Model) -> None:
    """Refuse weights that no grid can hold.

    NaN is refused in every constant; an infinity only in a weight (of Conv, Gemm, MatMul, a normalization ...), because
    attention masks are constants of -inf by design.

    Raises:
        ModelError: an initializer holds NaN, or a weight holds an infinity; it is named.
    """
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            array = _float_array(value.const_value)
            if array is None or np.isfinite(array).all():
                continue
            readers = sorted({str(use.node.name) for use in value.uses() if use.node.op_type in _WEIGHTED})
            if np.isnan(array).any() or readers:
                kind = "NaN" if np.isnan(array).any() else "an infinity"
                raise ModelError(
                    f"Initializer {name!r}{f' (read by {readers[0]!r})' if readers else ''} holds {kind}: weights must "
                    f"be finite. Train or export the model again."
                )


def _float_array(tensor: ir.TensorProtocol | None) -> npt.NDArray[Any] | None:
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    array = tensor.numpy()
    return array.astype(np.float32) if array.dtype.type.__module__ == ml_dtypes.__name__ else array


def read_proto(path: str | Path) -> onnx.ModelProto:
    """Return an ONNX file as it is: nothing is converted, and external data are not read.

    Raises:
        ModelError: there is no such file, or it holds no ONNX graph.
    """
    what = f"Model file {str(path)!r}"
    return _with_graph(_parse(_read(Path(path)), what), what)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{str(path)!r} is a folder, not a model file: name the .onnx file in it.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"Model file {str(path)!r} does not exist: check the path.") from None
    except OSError as error:
        raise ModelError(f"Model file {str(path)!r} cannot be read: {error.strerror}.") from error


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{what} is empty: it was cut short, or never written; export or download it again.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # protobuf's DecodeError, which has no typed home
        raise ModelError(
            f"{what} is not an ONNX file, or it is cut short ({len(data)} bytes): export or download it again."
        ) from None
    return proto


def _with_graph(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    if not proto.graph.output:
        raise ModelError(
            f"{what} holds no graph with an output: it is not an ONNX file, or it is cut short; export or download it "
            f"again."
        )
    check_texts(proto, what)
    return proto


def _from_proto(proto: onnx.ModelProto, what: str, folder: Path | None) -> ir.Model:
    _with_graph(proto, what)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many kinds for a graph that is not well formed
        raise ModelError(f"{what} is not a valid ONNX graph: {_first_line(error)}. Export it again.") from error
    _keep_input_shapes(model, proto)
    if folder is not None:
        ir.external_data.set_base_dir(model.graph, folder)
    for tensor in _external_tensors(model):
        _check_external(tensor, what, folder)
    try:
        map_weights(model)
    except OSError as error:
        raise ModelError(
            f"{what} keeps its weights in {str(error.filename)!r}, which cannot be opened: {error.strerror}. Make it "
            f"readable; where there are too many files, save the weights in one."
        ) from error
    return model


def _keep_input_shapes(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Let an input that is an output, too, have the shape of the input, by which it is fed, and not the output's."""
    types = {info.name: info.type for info in proto.graph.input}
    for value in model.graph.inputs:
        shape = ir.serde.deserialize_type_proto_for_shape(types[str(value.name)]) if value.is_graph_output() else None
        if shape is not None:
            value.shape = shape


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                yield attribute.value


def _check_external(tensor: ir.ExternalTensor, what: str, folder: Path | None) -> None:
    """Refuse external data that cannot be read, before anything is read."""
    name, location = tensor.name, Path(tensor.location)
    if folder is None:
        raise ModelError(
            f"{what} keeps the weights of {name!r} in the file {str(location)!r}: load it from its path, not from "
            f"memory."
        )
    file = folder / location
    if "\0" in str(location) or any(len(part) > _LONGEST_NAME for part in location.parts):
        raise ModelError(
            f"{what} keeps the weights of {name!r} in {tensor.location!r:.80}, which names no file: export it again."
        )
    if location.is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{what} keeps the weights of {name!r} in {str(location)!r}, outside its own folder, which is refused: "
            f"copy that file beside the model."
        )
    if not file.is_file():
        raise ModelError(
            f"{what} keeps the weights of {name!r} in {str(location)!r}, which is not beside it in {str(folder)!r}: "
            f"copy that file there."
        )
    if tensor.dtype in _NOT_EXTERNAL or (tensor.offset or 0) < 0 or min(tensor.shape.numpy(), default=0) < 0:
        raise ModelError(
            f"{what} says that {name!r} begins at byte {tensor.offset}, of type {tensor.dtype.name} and shape "
            f"{list(tensor.shape)!s:.60}, which cannot be: download or export it again."
        )
    status = file.stat()
    if status.st_nlink > 1:
        raise ModelError(f"External data {str(file)!r} has several hard links, which is refused: make a copy of it.")
    end = (tensor.offset or 0) + max(tensor.length or 0, _size_bytes(tensor))
    if end > status.st_size:
        raise ModelError(
            f"External data {str(file)!r} has {status.st_size} bytes, but {name!r} ends at byte {end}: the file is cut "
            f"short; download or export it again."
        )


def _size_bytes(tensor: ir.ExternalTensor) -> int:
    """Return the bytes of a tensor; `nbytes` goes by way of floats, which do not hold every claim."""
    return -(-math.prod(tensor.shape.numpy()) * tensor.dtype.bitwidth // 8)


def _normalize(model: ir.Model, what: str) -> ir.Model:
    check_functions(model, what)
    try:
        if model.functions:
            model = common.InlinePass()(model).model
            common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
            common.RemoveUnusedOpsetsPass()(model)
        common.RemoveInitializersFromInputsPass()(model)
        model.graph.sort()
    except Exception as error:  # recursion among functions, a cycle among nodes
        raise ModelError(f"{what} is not a valid ONNX graph: {_first_line(error)}. Export it again.") from error
    check_contents(model, what)
    name_nodes(model)
    name_subgraph_values(model)
    _check_defined(model, what)
    return model


def _check_defined(model: ir.Model, what: str) -> None:
    inputs = {value for graph in model.graphs() for value in graph.inputs}
    known = inputs | {value for graph in model.graphs() for value in graph.initializers.values()}
    for node in all_nodes(model):
        for value in node.inputs:
            if value is not None and value.producer() is None and value not in known:
                raise ModelError(
                    f"{what} is not a valid ONNX graph: node {node.name!r} ({node.op_type}) reads {value.name!r}, "
                    f"which nothing produces. Export it again."
                )
    for value in model.graph.outputs:
        if value.producer() is None and value not in known:
            raise ModelError(f"{what} is not a valid ONNX graph: nothing produces its output {value.name!r}.")


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = str(cause).strip() or type(cause).__name__
    return text.splitlines()[0].rstrip(".")

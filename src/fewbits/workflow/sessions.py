"""Sessions of graphs in memory, whatever their size."""

import math
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.naming import unique_name, value_names
from fewbits.graph.save import EXTERNAL_BYTES, float_bytes, save_model, to_bytes, to_referring_bytes
from fewbits.runtime.data.types import InputInfo
from fewbits.runtime.session import Runner, RunOptions, SessionPolicy, open_session


def open_graph(model: ir.Model, options: RunOptions, policy: SessionPolicy = SessionPolicy.DEFAULT) -> Runner:
    """Load a graph into onnxruntime; a large one reads its weights from their own file, or passes through one.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    if float_bytes(model) <= EXTERNAL_BYTES:
        return open_session(to_bytes(model), policy=policy, options=options)
    referring = to_referring_bytes(model)
    if referring is not None:
        return open_session(referring[0], policy=policy, options=options, data_folder=referring[1])
    scratch = tempfile.TemporaryDirectory(prefix="fewbits.")
    path = Path(scratch.name) / "model.onnx"
    try:
        save_model(model, path, external_bytes=0)
        runner = open_session(path, policy=policy, options=options)
    except BaseException:
        scratch.cleanup()
        raise
    weakref.finalize(runner.session, scratch.cleanup)
    return runner


def with_outputs(model: ir.Model, names: tuple[str, ...]) -> ir.Model:
    """Return a copy of `model` that also hands out the named tensors."""
    copy = model.clone()
    present = {value.name for value in copy.graph.outputs}
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.extend(values[name] for name in names if name in values and name not in present)
    return copy


def measured_bytes(
    model: ir.Model, names: Iterable[str], feeds: Mapping[str, npt.NDArray[np.generic]], options: RunOptions
) -> dict[str, int]:
    """Return the bytes of named tensors, of four bytes an element, for given feeds; only shapes leave the session."""
    copy = model.clone()
    taken, shapes = value_names(copy), dict[str, str]()
    values = {str(v.name): v for node in copy.graph for v in node.outputs}
    for name in (name for name in names if name in values):
        node = ir.Node("", "Shape", [values[name]], num_outputs=1)
        node.outputs[0].name = shapes[name] = unique_name(f"{name}_shape", taken)
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        copy.graph.append(node)
        copy.graph.outputs.append(node.outputs[0])
    found = open_graph(copy, options).run(list(shapes.values()), feeds)
    sizes = {name: feeds[name].nbytes for name in names if name in feeds}
    return sizes | {name: 4 * math.prod(found[shape].tolist()) for name, shape in shapes.items()}


def output_infos(model: ir.Model) -> tuple[InputInfo, ...]:
    """Return name, type and shape of the model's outputs, as data and metrics want them.

    Raises:
        ModelError: an output has no known type.
    """
    infos = []
    for value in model.graph.outputs:
        if value.dtype is None:
            raise ModelError(f"The type of the model's output {value.name!r} is not known: export the model again.")
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape or ())
        infos.append(InputInfo(str(value.name), value.dtype.numpy(), shape))
    return tuple(infos)

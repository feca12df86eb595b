"""From a torch model to an ONNX graph: torch.export, then torch's own translation, then readable names.

In: a `TorchModel`, example inputs, and which axes are dynamic. Out: an onnx_ir.Model that shares no memory with the
module. Needs torch; imported inside functions only.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from fewbits.errors import FewbitsError, ModelError
from fewbits.graph.naming import unique_name, value_names
from fewbits.runtime.data.userfile import code_place
from fewbits.runtime.torch_model import Array, TorchModel
from fewbits.runtime.torch_quiet import quiet

Dynamic = Mapping[str, Mapping[int, str]]
Shapes = dict[str, tuple[int, ...]]

_SCOPES = "pkg.torch.onnx.name_scopes"
_VALUES = (
    "its control flow, or a shape, depends on the values of tensors, which a graph cannot follow: compute both ways "
    "and choose with torch.where, or use torch.cond"
)
_FIXED = "leave that dimension static, or rewrite the code so that it takes any size"
_TORCH = str(Path(torch.__file__).parent)
_NO_OPERATOR = "ONNX has no such operator: write it with operators that ONNX has"


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """An ONNX graph from torch.

    Attributes:
        model: inputs and outputs carry the names asked for.
        program: the torch program that it was translated from.
        dims: torch's symbol -> name of the dimension.
        is_traced: the program was traced here, not saved by the user.
    """

    model: ir.Model
    program: torch.export.ExportedProgram
    dims: Mapping[str, str]
    is_traced: bool

    def other_shapes(self) -> Iterator[Shapes]:
        """Yield input shapes other than the exported: every open dimension one off; then the first of them 1."""
        symbols = self._symbols()
        if not symbols:
            return
        first = self._name(next(iter(symbols)))
        near = {symbol: size + 1 if self._allows(symbol, size + 1) else size - 1 for symbol, size in symbols.items()}
        one = {symbol: 1 if self._name(symbol) == first else size for symbol, size in symbols.items()}
        for sizes in (near, one):
            if all(self._allows(symbol, size) for symbol, size in sizes.items()):
                yield {name: tuple(_size(dim, sizes) for dim in shape) for name, shape in _shapes(self.program).items()}

    def _name(self, symbol: Any) -> str:
        return self.dims.get(str(symbol), str(symbol))

    def _symbols(self) -> dict[Any, int]:
        """Return symbol -> size while exporting, in the order in which the inputs have them."""
        found: dict[Any, int] = {}
        for shape in _shapes(self.program).values():
            for dim in shape:
                if not isinstance(dim, int) and dim.node.expr.is_symbol:
                    found[dim.node.expr] = int(dim.node.hint)
        return found

    def _allows(self, symbol: Any, size: int) -> bool:
        limits = self.program.range_constraints.get(symbol)
        if limits is None:
            return size > 0
        lower = 1 if self.is_traced and limits.lower == 2 else limits.lower  # tracing never tells 1 from 2 and more
        return bool(max(lower, 1) <= size <= limits.upper)


def export_onnx(
    model: TorchModel, example: Mapping[str, Array], *, outputs: Sequence[str], dynamic: Dynamic, opset: int
) -> Exported:
    """Export a model in evaluation mode.

    Args:
        model: what to export.
        example: input name -> array; a dynamic axis of length 1 is traced at length 2, since torch.export would fix it.
        outputs: names of the outputs.
        dynamic: input -> axis -> name of the dimension; a saved program keeps its own.
        opset: ONNX operator set.

    Raises:
        ModelError: torch cannot export the model, or not to this opset.
    """
    program = model.program or _trace(model, example, dynamic)
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(program, dynamo=True, opset_version=opset, optimize=True, verbose=False)
        graph = made.model  # type: ignore[union-attr]
    except Exception as error:  # the exporter's own tree, and whatever a converter raises
        raise _failure("torch cannot translate the model to ONNX", error, program) from error
    found = graph.opset_imports.get("")
    if found != opset:
        raise ModelError(f"torch {torch.__version__} exports opset {found} here, not {opset}: choose --opset {found}.")
    dims = _dim_names(program, dynamic)
    _own_weights(graph)
    _rename_dims(graph, dims)
    _rename_nodes(graph)
    _rename_ends(graph, model.names, outputs)
    _clear(graph)
    return Exported(graph, program, dims, is_traced=model.program is None)


def _trace(model: TorchModel, example: Mapping[str, Array], dynamic: Dynamic) -> torch.export.ExportedProgram:
    feeds = {name: _grown(array, dynamic.get(name, {})) for name, array in example.items()}
    args, kwargs = model.arguments(feeds)
    # DYNAMIC, not a named Dim: torch then works out the largest size itself (learned positions have one)
    specs = [dict.fromkeys(dynamic.get(name, {}), torch.export.Dim.DYNAMIC) for name in model.names]
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                model.module,
                args,
                kwargs,
                dynamic_shapes=_dynamic_shapes(model, specs) if dynamic else None,
                strict=False,
            )
    except Exception as error:  # torch.export raises a dozen kinds, and whatever forward raises
        raise _failure("torch.export cannot export the model", error) from error


def _dynamic_shapes(model: TorchModel, specs: Sequence[Any]) -> Any:
    """Return the specs in the structure of the call, as torch.export wants them: by argument, *args as a tuple."""
    args, kwargs = model.arrange(specs)
    return dict(inspect.signature(model.module.forward).bind(*args, **kwargs).arguments)


def _grown(array: Array, axes: Mapping[int, str]) -> Array:
    for axis in axes:
        if array.shape[axis] == 1:
            array = np.repeat(array, 2, axis)
    return array


def _failure(what: str, error: BaseException, program: torch.export.ExportedProgram | None = None) -> FewbitsError:
    """Return the error with the first line that says something, where in the user's code, and what to try."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = str(root).strip() or type(root).__name__
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    first = lines[0]
    advice = "change that part of the model; torch.export.export on the module alone says more"
    if "data-dependent" in text or "DataDependent" in type(root).__name__:
        advice = _VALUES
    elif "Constraints violated" in text:
        first, advice = lines[1] if len(lines) > 1 else first, _FIXED
    elif "No ONNX function found" in text:
        first, advice = first.split(" Failure message")[0], _NO_OPERATOR
    first = re.sub(r"\. *(For more information|If you're using).*", "", first).split("  (")[0].rstrip(". ")
    first = re.sub(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]", r"axis \2 of '\1'", first)
    place = (_place_of_node(str(error), program) if program else None) or code_place(error)
    at = "" if place.startswith(_TORCH) else f" (at {place})"
    return ModelError(f"{what}{at}: {first}; {advice}.")


def _place_of_node(text: str, program: torch.export.ExportedProgram) -> str | None:
    """Return file:line in the user's code of the node that could not be translated."""
    named = re.search(r"translating node %(\w+)", text)
    node = next((node for node in program.graph.nodes if named and node.name == named[1]), None)
    places = re.findall(r'File "([^"]+)", line (\d+)', str(node.meta.get("stack_trace"))) if node else []
    own = [":".join(place) for place in places if not place[0].startswith(_TORCH)]
    return own[-1] if own else None


def _shapes(program: torch.export.ExportedProgram) -> dict[str, tuple[Any, ...]]:
    """Return input -> dimensions, integers or symbolic."""
    wanted = {str(name): () for name in program.graph_signature.user_inputs}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return {name: tuple(nodes[name].meta["val"].shape) for name in wanted}


def _size(dim: Any, sizes: Mapping[Any, int]) -> int:
    return dim if isinstance(dim, int) else int(dim.node.expr.subs(sizes))


def _dim_names(program: torch.export.ExportedProgram, dynamic: Dynamic) -> dict[str, str]:
    """Return torch's symbol -> the name of the dimension; `batch` for the first axis of a saved program."""
    names: dict[str, str] = {}
    for position, (name, shape) in enumerate(_shapes(program).items()):
        asked = dynamic.get(name, {0: "batch"} if position == 0 and not dynamic else {})
        for axis, dim in enumerate(shape):
            if axis in asked and not isinstance(dim, int) and dim.node.expr.is_symbol:
                names.setdefault(str(dim), asked[axis])
    return names


def _rename_dims(model: ir.Model, names: Mapping[str, str]) -> None:
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in _values(model):
        if value.shape is not None:
            dims = [
                dim if isinstance(dim, int) or dim.value is None else pattern.sub(lambda m: names[m[0]], str(dim.value))
                for dim in value.shape
            ]
            value.shape = ir.Shape(dims)


def _rename_nodes(model: ir.Model) -> None:
    """Name nodes by the module they come from and their operator, blocks/0/conv/Conv, since profiles name nodes."""
    taken: set[str] = set()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = str(scopes[-2]) if len(scopes) > 1 else ""  # ["", "blocks", "blocks.0", "conv2d"]: the last is aten's
        node.name = unique_name("/".join([*filter(None, module.split(".")), node.op_type]), taken)


def _rename_ends(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name the graph's inputs and outputs; an inner value that has such a name gets another one."""
    graph = model.graph
    if len(graph.inputs) != len(inputs) or len(graph.outputs) != len(outputs):
        raise ModelError(
            f"The exported graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, the torch model "
            f"{len(inputs)} and {len(outputs)}: return each tensor once, and take tensors only."
        )
    ends = [*graph.inputs, *graph.outputs]
    names = [*inputs, *outputs]
    taken = value_names(model) | set(names)
    for value in _values(model):
        if value.name in names:
            value.name = unique_name(value.name, taken)
    for value, name in zip(ends, names, strict=True):
        value.name = name


def _own_weights(model: ir.Model) -> None:
    """Copy the weights: the exporter's tensors are the module's own memory, which training would change."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=value.name)


def _clear(model: ir.Model) -> None:
    """Drop the exporter's notes: stack traces, with the paths of the user's files."""
    from onnx_ir.passes import common

    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in _values(model):
        value.metadata_props.clear()


def _values(model: ir.Model) -> list[ir.Value]:
    found = [value for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())]
    found += [value for graph in model.graphs() for node in graph for value in node.outputs]
    return found

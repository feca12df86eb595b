"""The graph that Qualcomm's compiler made: in which type every operator really runs, against what the QDQ file says.

A session that succeeds proves nothing: an operator whose types do not fit may run in float, and a float layer may have
become an integer one. The provider writes the graph as JSON (option dump_json_qnn_graph).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from fewbits.deployment.qnn_worker import GRAPHS
from fewbits.errors import ModelError

_TYPES = {
    264: "uint8", 306: "uint32", 50: "int32", 100: "int64", 1288: "bool", 534: "float16", 562: "float32",
    772: "int4", 776: "int8", 790: "int16", 818: "int32", 1028: "uint4", 1032: "uint8", 1046: "uint16",
}  # fmt: skip
"""Data types of QNN's public header (QnnTypes.h), quantized or not."""

_STORED = {
    onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.INT16: "int16", onnx.TensorProto.UINT4: "uint4", onnx.TensorProto.INT4: "int4",
}  # fmt: skip
_BETWEEN = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})


@dataclass(frozen=True, slots=True)
class CompiledTypes:
    """Operators of the QDQ file as they were compiled.

    Attributes:
        counts: type -> operators of the compiled graph that give it.
        checked: nodes of the file with a planned type that were found in the compiled graph.
        folded: nodes with a planned type that were not: fused into others, or computed beforehand.
        wrong: (node, operator, planned type, compiled type).
    """

    counts: Mapping[str, int]
    checked: int
    folded: tuple[str, ...]
    wrong: tuple[tuple[str, str, str, str], ...]


def compiled_types(model: Path, folder: Path) -> CompiledTypes:
    """Compare the graphs that a job left in its folder with the QDQ file that it was given.

    Raises:
        ModelError: the compiler wrote no graph.
    """
    planned, compiled = planned_types(model), dict(_compiled(folder / GRAPHS))
    if not compiled:
        raise ModelError("Qualcomm's compiler wrote no description of its graph: its types cannot be checked.")
    found: dict[str, list[str]] = {}
    for name, kind in compiled.items():
        owner = _owner(name, planned)
        if owner is not None:
            found.setdefault(owner, []).append(kind)
    wrong = []
    for name, (op, kind) in planned.items():
        other = [k for k in found.get(name, ()) if k != kind]
        if other:
            wrong.append((name, op, kind, other[0]))
    counts: dict[str, int] = {}
    for kind in compiled.values():
        counts[kind] = counts.get(kind, 0) + 1
    return CompiledTypes(counts, len(found), tuple(sorted(set(planned) - set(found))), tuple(wrong))


def planned_types(model: Path) -> dict[str, tuple[str, str]]:
    """Return node -> (operator, type of its values) for nodes between grids, or in float16."""
    graph = onnx.load(str(model), load_external_data=False).graph
    zero_points = {t.name: _STORED.get(t.data_type) for t in graph.initializer}
    halves = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in graph.node:
        if node.op_type in _BETWEEN or not node.output:
            continue
        kinds = {zero_points.get(reader.input[2]) for reader in _quantizers(node.output[0], readers)}
        if node.output[0] in halves:
            kinds = {"float16"}
        if len(kinds) == 1 and (kind := kinds.pop()) is not None:
            found[node.name] = (node.op_type, kind)
    return found


def _quantizers(value: str, readers: Mapping[str, list[onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    """Yield the QuantizeLinear that reads a value, directly or through an activation fused with its producer."""
    for reader in readers.get(value, ()):
        if reader.op_type == "QuantizeLinear" and len(reader.input) > 2:
            yield reader
        elif reader.op_type in ("Relu", "Clip") and len(readers[value]) == 1:
            yield from _quantizers(reader.output[0], readers)


def _compiled(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (node, type of its first output) of every compiled graph, but for changes of type and of layout."""
    for path in sorted(folder.glob("*.json")):
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "graph" not in document:
            continue
        tensors = document["graph"]["tensors"]
        for name, node in document["graph"]["nodes"].items():
            if node["type"] in ("Quantize", "Dequantize", "Convert", "Cast") or not node["output_names"]:
                continue
            kind = tensors.get(node["output_names"][0], {}).get("data_type")
            yield name, _TYPES.get(kind, f"type {kind}")


def _owner(name: str, planned: Mapping[str, object]) -> str | None:
    """Return the node of the file that a compiled one stands for: its name, or its name with a number behind it."""
    if name in planned:
        return name
    base = re.sub(r"(_token)?_\d+$", "", name)
    return base if base in planned else None

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

from fewbits.deployment.qdq_view import QdqView
from fewbits.deployment.qnn_worker import GRAPHS
from fewbits.errors import ModelError
from fewbits.graph.load import read_proto

_TYPES = {
    264: "uint8", 306: "uint32", 50: "int32", 100: "int64", 1288: "bool", 534: "float16", 562: "float32",
    772: "int4", 776: "int8", 790: "int16", 818: "int32", 1028: "uint4", 1032: "uint8", 1046: "uint16",
}  # fmt: skip
"""Data types of QNN's public header (QnnTypes.h), quantized or not."""


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
    view, found = QdqView(read_proto(model)), {}
    for node in view.operators:
        grid = view.written(node)
        if view.is_half(node):
            found[node.name] = (node.op_type, "float16")
        elif grid is not None:
            found[node.name] = (node.op_type, grid.dtype)
    return found


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

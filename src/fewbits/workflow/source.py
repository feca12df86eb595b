"""What the caller means by MODEL: a file, bytes, a model in memory, or the output folder of an earlier run."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from fewbits.artifact import names
from fewbits.artifact.encodings_read import read_given
from fewbits.artifact.folder import sha256
from fewbits.errors import ModelError
from fewbits.graph.load import load_model
from fewbits.graph.prepare import PassReport, Prepared
from fewbits.graph.prepare import prepare as prepare_graph
from fewbits.graph.quantized import refuse_quantized
from fewbits.graph.shapes import fix_dims, infer_shapes
from fewbits.reporting.record import RunRecord, read_record
from fewbits.runtime.session import RunOptions, open_session
from fewbits.spec.encodings import Encoding

ModelLike = str | Path | bytes | onnx.ModelProto | ir.Model

_COMPARED = "Scores are compared with the float model that {folder!r} was improved from."
_WHAT = {
    names.REFERENCE: "the float model that scores are taken against",
    names.UNROUNDED: "the float model that its weights were rounded from",
}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A prepared float model and where it comes from.

    Attributes:
        model: the prepared graph.
        name: what messages call it.
        sha256: content hash of the file or bytes; None for a graph in memory.
        changes: what preparing did and declined; empty where an earlier run had prepared it.
        pinned: tensor (or key of a further grid of it) -> encoding that an improver fixed in an earlier run.
        reference: the prepared float graph that scores and drops are taken against, with the same inputs and outputs;
            None where that is `model`, which an improver may have given other weights.
        unrounded: the prepared float graph that pinned weights were rounded from, in channels of the sizes that `model`
            has, where these were changed; None where they were not: then that is `reference`.
        notes: sentences for the user.
    """

    model: ir.Model
    name: str
    sha256: str | None
    changes: tuple[PassReport, ...]
    pinned: Mapping[str, Encoding]
    reference: ir.Model | None = None
    unrounded: ir.Model | None = None
    notes: tuple[str, ...] = ()


def open_source(
    model: ModelLike,
    *,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
    options: RunOptions | None = None,
) -> Source:
    """Return the prepared float graph of `model`.

    An output folder gives its float companion, which is not prepared again, its pinned encodings, and the float models
    that the companion was improved and rounded from, where it was.

    Args:
        model: a path, bytes, a model in memory, or an output folder.
        dims: open dimension -> size.
        simplify: let onnxslim rewrite the graph.
        options: how models run; says where custom operators are.

    Raises:
        ModelError: it cannot be read, is quantized already, or is refused by the preparation; or the files of the
            folder do not belong together.
        SpecError: `dims` names a dimension that the model does not have.
    """
    folder = output_folder(model)
    file = model if folder is None else folder / names.FLOAT
    graph = load_model(file)
    if dims:
        fix_dims(graph, dims)
    if folder is None:
        refuse_quantized(graph, model_name(model))
        prepared = prepare_for(graph, options, simplify=simplify)
        return Source(prepared.model, model_name(model), model_hash(file), prepared.changes, {})
    record = read_record(folder / names.RECORD) if (folder / names.RECORD).is_file() else None
    reference = _beside(names.REFERENCE, folder, graph, dims, record)
    notes = () if reference is None else (_COMPARED.format(folder=str(folder)),)
    if record is not None and record.model.get("prepared"):
        infer_shapes(graph)
        pinned = _pinned(folder, record.pinned, graph)
        unrounded = _unrounded(folder, graph, dims, record)
        return Source(graph, str(folder), model_hash(file), (), pinned, reference, unrounded, notes)
    prepared = prepare_for(graph, options, simplify=simplify)
    return Source(prepared.model, str(folder), model_hash(file), prepared.changes, {}, reference, notes=notes)


def output_folder(model: ModelLike) -> Path | None:
    """Return the folder where `model` is the output folder of an earlier run, None where it is no folder.

    Raises:
        ModelError: it is a folder without a float companion.
    """
    if not isinstance(model, str | Path) or not Path(model).is_dir():
        return None
    folder = Path(model)
    if not (folder / names.FLOAT).is_file():
        raise ModelError(
            f"The folder {str(folder)!r} holds no {names.FLOAT}: name an .onnx file, or the output folder of an "
            f"earlier run (of a baseline, the folder of one precision)."
        )
    return folder


def check_loads(data: bytes, options: RunOptions | None = None) -> None:
    """Raise where onnxruntime cannot load a model."""
    open_session(data, options=options)


def prepare_for(graph: ir.Model, options: RunOptions | None, *, simplify: bool) -> Prepared:
    """Return an equivalent graph that quantizes well, and that onnxruntime loads.

    Args:
        graph: from `load_model`.
        options: how models run.
        simplify: let onnxslim rewrite the graph.

    Raises:
        ModelError: a weight is not finite, or the shapes of the graph contradict each other.
    """

    def types_of(data: bytes) -> Mapping[str, tuple[np.dtype[Any], Sequence[int | str | None]]]:
        return {info.name: (info.dtype, info.shape) for info in open_session(data, options=options).output_infos()}

    return prepare_graph(graph, simplify=simplify, check=partial(check_loads, options=options), types_of=types_of)


def model_name(model: ModelLike) -> str:
    """Return what messages call the model."""
    return str(model) if isinstance(model, str | Path) else "the given model"


def model_hash(model: ModelLike) -> str | None:
    """Return the sha256 of a file or of bytes; None for a graph in memory, which has no bytes yet."""
    if isinstance(model, str | Path):
        return sha256(Path(model))
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    return hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else None


def _beside(
    name: str, folder: Path, graph: ir.Model, dims: Mapping[str, int] | None, record: RunRecord | None
) -> ir.Model | None:
    """Return another float model in `folder`, with the companion's inputs and outputs; None where there is none."""
    path = folder / name
    if not path.is_file():
        if record is not None and name in record.files:
            raise ModelError(
                f"The folder {str(folder)!r} lacks {name}, {_WHAT[name]}: run `fewbits {record.verb}` again."
            )
        return None
    found = load_model(path)
    for what in ("inputs", "outputs"):
        wanted, given = ([str(value.name) for value in getattr(of.graph, what)] for of in (graph, found))
        if given != wanted:
            raise ModelError(
                f"The {what} of {name} in {str(folder)!r} are {', '.join(given)}, and those of "
                f"{names.FLOAT} are {', '.join(wanted)}: the files do not belong together."
            )
    if dims:
        fix_dims(found, dims)
    infer_shapes(found)
    return found


def _unrounded(folder: Path, graph: ir.Model, dims: Mapping[str, int] | None, record: RunRecord) -> ir.Model | None:
    """Return the float model that the companion in `folder` was rounded from; None where that is the reference."""
    found = _beside(names.UNROUNDED, folder, graph, dims, record)
    if found is not None and names_in(found) != names_in(graph):
        raise ModelError(
            f"{names.UNROUNDED} in {str(folder)!r} has other nodes or constants than {names.FLOAT}: the files do not "
            f"belong together."
        )
    return found


def names_in(model: ir.Model) -> tuple[list[str], list[str]]:
    """Return the names of the constants and of the nodes of a model."""
    return sorted(map(str, model.graph.initializers)), [str(node.name) for node in model.graph]


def _pinned(folder: Path, wanted: tuple[str, ...], graph: ir.Graph | ir.Model) -> dict[str, Encoding]:
    if not wanted:
        return {}
    stored = read_given(folder / names.ENCODINGS, graph.graph if isinstance(graph, ir.Model) else graph).encodings
    missing = sorted(set(wanted) - set(stored))
    if missing:
        raise ModelError(
            f"The record of {str(folder)!r} pins {missing[0]!r}, which {names.ENCODINGS} does not hold: the files do "
            f"not belong together."
        )
    return {name: stored[name] for name in wanted}

"""What `submit` uploads: which files of an output folder, under which names, with which fixed shapes and options."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.artifact.samples import Arrays
from fewbits.deployment.hub import Array, InputSpecs
from fewbits.errors import OutputError, SpecError
from fewbits.graph.load import read_proto
from fewbits.reporting.record import RunRecord
from fewbits.workflow.compile import check_dims

KINDS = ("qdq", "aimet")
RUNTIMES = ("qnn_dlc", "qnn_context_binary", "precompiled_qnn_onnx", "onnx", "tflite")
"""Of the service's --target_runtime; the first is the default."""

_Kind = onnx.TensorProto
_TYPES: dict[int, str] = {
    _Kind.FLOAT: "float32",
    _Kind.FLOAT16: "float16",
    _Kind.BOOL: "bool",
    _Kind.INT8: "int8",
    _Kind.INT16: "int16",
    _Kind.INT32: "int32",
    _Kind.INT64: "int64",
    _Kind.UINT8: "uint8",
    _Kind.UINT16: "uint16",
}
"""The service's names of the types that it takes."""
_MODEL, _DATA, _ENCODINGS = "model.onnx", "model.data", "model.encodings"
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class Upload:
    """A model on its way to the service.

    Attributes:
        kind: qdq, the artifact; or aimet, the float companion with its encodings.
        model: the ONNX file.
        encodings: the encodings file, or None.
        files: name -> sha256 of all that is uploaded.
        inputs: input name -> (fixed shape, type).
        options: of the compile job.
    """

    kind: str
    model: Path
    encodings: Path | None
    files: Mapping[str, str]
    inputs: InputSpecs
    options: str

    @property
    def data(self) -> Path | None:
        """The file beside the model that holds its weights, where there is one."""
        path = self.model.with_name(self.model.name + names.DATA_SUFFIX)
        return path if path.name in self.files else None


def plan_upload(folder: Path, record: RunRecord, *, kind: str, runtime: str, dims: Mapping[str, int] | None) -> Upload:
    """Return what is to be uploaded, checked against the record.

    Args:
        folder: output folder of a run.
        record: of it.
        kind: one of `KINDS`.
        runtime: one of `RUNTIMES`.
        dims: open dimension -> size.

    Raises:
        SpecError: no such kind or runtime, an open dimension has no size, or the service lacks an input's type.
        OutputError: a file is missing or is not the recorded one.
        ModelError: the file cannot be read.
    """
    if kind not in KINDS:
        raise SpecError(f"Cannot upload {kind!r}: choose one of {', '.join(KINDS)}.")
    if runtime not in RUNTIMES:
        raise SpecError(f"Unknown runtime {runtime!r}: choose one of {', '.join(RUNTIMES)}.")
    model = names.ARTIFACT if kind == "qdq" else names.FLOAT
    wanted = [model, *(() if kind == "qdq" else (names.ENCODINGS,))]
    wanted += [name for name in (model + names.DATA_SUFFIX,) if name in record.files]
    inputs = fixed_inputs(folder / model, dims or {})
    return Upload(
        kind=kind,
        model=folder / model,
        encodings=None if kind == "qdq" else folder / names.ENCODINGS,
        files=checked_files(folder, record, wanted),
        inputs=inputs,
        options=_options(folder / model, runtime),
    )


def checked_files(folder: Path, record: RunRecord, wanted: Sequence[str]) -> dict[str, str]:
    """Return name -> sha256 of files that are what was scored.

    Raises:
        OutputError: one is missing or is not the recorded one.
    """
    found = {}
    for name in wanted:
        path = folder / name
        found[name] = sha256(path) if path.is_file() else ""
        if found[name] != record.files.get(name, {}).get("sha256"):
            raise OutputError(
                f"{str(path)!r} is missing or is not the file that was scored: run `fewbits {record.verb}` again."
            )
    return found


def fixed_inputs(model: Path, dims: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return input name -> (shape, type) of a model, with every open dimension fixed.

    Raises:
        SpecError: an open dimension has no size, a wrong one or does not exist; or the service lacks an input's type.
        ModelError: the file cannot be read.
    """
    check_dims(model, dims, "Qualcomm AI Hub")
    return {value.name: _fixed(value, dims) for value in read_proto(model).graph.input}


def _fixed(value: onnx.ValueInfoProto, dims: Mapping[str, int]) -> tuple[tuple[int, ...], str]:
    kind = value.type.tensor_type
    shape = tuple(dims[dim.dim_param] if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
    if not kind.HasField("shape") or not all(shape):
        raise SpecError(
            f"Input {value.name!r} has a dimension without a name and without a size, so that --dim cannot fix it: "
            f"export the model again with sizes."
        )
    if kind.elem_type not in _TYPES:
        raise SpecError(
            f"Input {value.name!r} is {ir.DataType(kind.elem_type).name.lower()}, and Qualcomm AI Hub takes "
            f"{', '.join(_TYPES.values())}: export the model again with one of these."
        )
    return shape, _TYPES[kind.elem_type]


def _options(model: Path, runtime: str) -> str:
    """Return the options of the compile job: 64-bit integers at the border exist with the runtime onnx alone."""
    graph = read_proto(model).graph
    wide = any(value.type.tensor_type.elem_type == _Kind.INT64 for value in (*graph.input, *graph.output))
    return f"--target_runtime {runtime}" + (" --truncate_64bit_io" if wide and runtime != "onnx" else "")


def pack(upload: Upload, scratch: Path, *, name: str) -> Path:
    """Return what the client is given: the QDQ file itself, or a folder made in `scratch`.

    NAME.aimet holds model.onnx and model.encodings; NAME.onnx holds model.onnx, and is made only where the weights of
    the QDQ file lie beside it. Both hold model.data where there are such weights.

    Raises:
        OutputError: the disk is full.
    """
    if upload.encodings is None and upload.data is None:
        return upload.model
    folder = scratch / f"{name}.{'onnx' if upload.encodings is None else 'aimet'}"
    try:
        folder.mkdir()
        if upload.data is None:
            shutil.copyfile(upload.model, folder / _MODEL)
        else:  # the model names the file that its weights are in
            ir.save(ir.load(upload.model), folder / _MODEL, format="protobuf", external_data=_DATA)
        if upload.encodings is not None:
            shutil.copyfile(upload.encodings, folder / _ENCODINGS)
    except OSError as error:
        raise OutputError(
            f"Cannot prepare the upload in {str(scratch)!r}: {error.strerror or error}. Set TMPDIR to a folder with "
            f"space."
        ) from error
    return folder


def device_feeds(feeds: Sequence[Arrays], upload: Upload) -> dict[str, list[Array]]:
    """Return input name -> one array per run, as the compiled model takes them.

    Raises:
        SpecError: a sample has another shape than the compiled model will have.
    """
    found: dict[str, list[Array]] = {}
    for name, (shape, _) in upload.inputs.items():
        for feed in feeds:
            if feed[name].shape != shape:
                raise SpecError(
                    f"The stored samples have the shape {list(feed[name].shape)} at input {name!r}, and --dim makes it "
                    f"{list(shape)}: give --dim the sizes of the samples, or add --no-inference."
                )
            found.setdefault(name, []).append(_narrow(feed[name], upload.options))
    return found


def _narrow(array: Array, options: str) -> Array:
    if array.dtype == np.int64 and "--truncate_64bit_io" in options:
        return array.clip(_INT32.min, _INT32.max).astype(np.int32)
    return array

"""Write graphs: bytes for a runtime session, or a file that is either whole or not there."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from fewbits.errors import ModelError, OutputError

PROTOBUF_LIMIT_BYTES = 2**31 - 1
EXTERNAL_BYTES = 1_500_000_000  # leaves room below protobuf's limit for what quantization adds


def weights_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def to_bytes(model: ir.Model) -> bytes:
    """Return the whole model as one ONNX message, external data included.

    Raises:
        ModelError: it is larger than protobuf's 2 GB.
    """
    size = weights_bytes(model)
    if size <= PROTOBUF_LIMIT_BYTES:
        data: bytes = ir.to_proto(_in_memory(model)).SerializeToString()
        size = len(data)
        if size <= PROTOBUF_LIMIT_BYTES:
            return data
    raise ModelError(
        f"The model takes {size / 1e9:.2f} GB, and one ONNX message holds at most 2.15 GB: save it with save_model, "
        f"which keeps weights in a file beside it."
    )


def save_model(model: ir.Model, path: str | Path, *, external_bytes: int = EXTERNAL_BYTES) -> None:
    """Write `model` to `path`; a crash leaves the old file or the new one, never half of one.

    Args:
        model: left as it is.
        path: missing folders are made.
        external_bytes: with more weights than this they go to `<name>.data` beside the file.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(
            f"Cannot write the model to {str(target)!r}: it is a folder; name a file, such as model.onnx."
        )
    scratch: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
        if weights_bytes(model) <= external_bytes:
            (Path(scratch) / target.name).write_bytes(to_bytes(model))
        else:
            ir.save(model, Path(scratch) / target.name, format="protobuf", external_data=f"{target.name}.data")
        for name in (f"{target.name}.data", target.name):  # the data first: a model without its data cannot be read
            if (Path(scratch) / name).exists():
                _flush(Path(scratch) / name)
                os.replace(Path(scratch) / name, target.parent / name)  # noqa: PTH105 - the atomic call, by its name
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise OutputError(
            f"Cannot write the model to {str(target)!r}: {reason}. Choose another folder with -o."
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _in_memory(model: ir.Model) -> ir.Model:
    """Return `model`, or a copy that holds what lies in files."""
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    if not any(isinstance(value.const_value, ir.ExternalTensor) for value in values):
        return model
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return copy

"""Write graphs: bytes for a runtime session, or a file that is either whole or not there."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from fewbits.errors import ModelError, OutputError
from fewbits.graph.mapped import shared_folder

PROTOBUF_LIMIT_BYTES = 2**31 - 1
EXTERNAL_BYTES = 1_500_000_000  # leaves room below protobuf's limit for what quantization adds
SMALL_BYTES = 1024  # shapes, axes and scales: runtimes want their values before they read files
_HELD_SHARE = 0.05


def weights_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def float_bytes(model: ir.Model) -> int:
    """Return what all initializers take in float32 or wider: whether a model is large is no matter of precision."""
    return sum(
        max(4 * value.const_value.size, value.const_value.nbytes)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def to_referring_bytes(model: ir.Model) -> tuple[bytes, Path] | None:
    """Return a model as a message that names its weights where they lie, and the folder that the names start from.

    None where its weights do not lie in one folder, changed since they were read, or where what else it holds takes
    more than a few percent of `EXTERNAL_BYTES`: save_model then writes it all to a file, a tensor at a time.
    """
    folder = shared_folder(model)
    light = _in_memory(model, most=SMALL_BYTES)
    tensors = [v.const_value for graph in light.graphs() for v in graph.initializers.values() if v.const_value]
    held = sum(tensor.nbytes for tensor in tensors if not isinstance(tensor, ir.ExternalTensor))
    if folder is None or held > EXTERNAL_BYTES * _HELD_SHARE:
        return None
    return ir.to_proto(light).SerializeToString(), folder


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


def save_model(model: ir.Model, path: str | Path, *, external_bytes: int | None = None) -> None:
    """Write `model` to `path`; a crash leaves the old file or the new one, never half of one.

    Args:
        model: left as it is.
        path: missing folders are made.
        external_bytes: with more weights than this they go to `<name>.data` beside the file; None takes
            `EXTERNAL_BYTES`, and counts as if they were float32: what is derived from a large model is large.

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
        if _is_within(model, external_bytes):
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


def _is_within(model: ir.Model, external_bytes: int | None) -> bool:
    if external_bytes is not None:
        return weights_bytes(model) <= external_bytes
    return float_bytes(model) <= EXTERNAL_BYTES


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _in_memory(model: ir.Model, most: int | None = None) -> ir.Model:
    """Return `model`, or a copy that holds what lies in files: all of it, or tensors of at most `most` bytes."""

    def is_wanted(tensor: ir.TensorProtocol | None) -> bool:
        return isinstance(tensor, ir.ExternalTensor) and (most is None or tensor.nbytes <= most)

    if not any(is_wanted(value.const_value) for graph in model.graphs() for value in graph.initializers.values()):
        return model
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and is_wanted(tensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return copy

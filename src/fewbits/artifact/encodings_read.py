"""Read encodings files, AIMET's and our own, of any layout (see `encodings_versions`).

What a file of another tool does not say is found in the graph: the axis of channels, and whether a grid is signed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fewbits.artifact.encodings_blocks import Array, channel_of, spread
from fewbits.artifact.encodings_json import VERSION
from fewbits.artifact.encodings_versions import as_1_0_0
from fewbits.errors import SpecError
from fewbits.graph.topology import channel_axis, constant, input_axis, op_rule
from fewbits.numerics.affine import broadcast_grid, stored_shape
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.given import Edge, GivenGrids

Entry = dict[str, Any]
UNFIT = (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError, OverflowError)
"""What reading an entry raises that is not what its layout demands."""
_SECTIONS = ("activation_encodings", "param_encodings")


def read_encodings(path: str | Path, graph: ir.Graph) -> dict[str, Encoding]:
    """Return tensor name -> encoding of an encodings file, layout 0.6.1, 1.0.0 or 2.0.0; what is FLOAT carries no grid.

    Args:
        path: a file of fewbits or of AIMET.
        graph: the prepared float graph, which says channel axes where the file does not.

    Raises:
        SpecError: the file is missing, is no such file, or an entry cannot be understood.
    """
    given = read_given(path, graph)
    return {key: encoding for key, encoding in given.encodings.items() if key not in given.tensors}


def read_given(path: str | Path, graph: ir.Graph, *, is_full_range: bool = False) -> GivenGrids:
    """Return everything that an encodings file says of grids and of their use.

    Args:
        path: a file of fewbits or of AIMET.
        graph: the float graph that it belongs to.
        is_full_range: let signed grids in files of other tools use their lowest code, as AIMET's simulation does.

    Raises:
        SpecError: as for `read_encodings`.
    """
    _, document = read_document(Path(path))
    own = document.get("fewbits", {})
    reader = _Reader(str(path), graph, is_full_range and "target" not in own)
    encodings: dict[str, Encoding] = {}
    tensors: dict[str, str] = {}
    readers: dict[str, tuple[Edge, ...]] = {}
    conversions, halves = set(), set()
    entries = [(entry, section) for section in _SECTIONS for entry in document[section]]
    for entry, section in entries:
        with_hint = reader.hint(own, entry)
        if section == "activation_encodings":
            with_hint.setdefault("dtype", reader.activation_type(entry))
        name = str(entry["name"])
        if not reader.is_integer(entry):
            if str(entry.get("bw")) == "16":
                halves.add(name)
            continue
        encodings[name] = reader.encoding(entry, with_hint)
        if with_hint.get("computed_in") == 16:
            halves.add(name)
        if "readers" in with_hint:
            readers[name] = reader.edges(with_hint)
    for entry in own.get("conversions", ()):
        key, name = reader.text(entry, "key"), reader.text(entry, "name")
        encodings[key], tensors[key], readers[key] = reader.encoding(entry, entry), name, reader.edges(entry)
        if entry.get("converts"):
            conversions.add(key)
    what = f"the encodings file {str(path)!r}"
    return GivenGrids(encodings, tensors, readers, frozenset(conversions), frozenset(halves), what)


class _Reader:
    """Reads entries of one file against one graph, and says which one is wrong."""

    def __init__(self, path: str, graph: ir.Graph, is_full_range: bool) -> None:
        self._path, self._graph, self._is_full_range = path, graph, is_full_range
        self._axes = _weight_axes(graph)

    def hint(self, own: Entry, entry: Any) -> Entry:
        """Return what fewbits itself noted of an entry."""
        try:
            name = str(entry["name"])
            found = own.get("tensors", {}).get(name, {})
            return dict(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._wrong(entry, error) from error

    def is_integer(self, entry: Entry) -> bool:
        """Whether an entry is a grid, and not a float."""
        return self.text(entry, "dtype").upper() == "INT"

    def text(self, entry: Any, key: str) -> str:
        """Return a text of an entry."""
        try:
            return str(entry[key])
        except (KeyError, TypeError, IndexError) as error:
            raise self._wrong(entry, error) from error

    def activation_type(self, entry: Entry) -> str:
        """Return the container of an activation that does not name one: devices carry activations unsigned."""
        try:
            bits = int(self.text(entry, "bw")) if self.is_integer(entry) else 8
            return DType.container(max(bits, 8), signed=False).value  # no runtime carries activations in 4 bits
        except (ValueError, SpecError) as error:
            raise self._wrong(entry, error) from error

    def edges(self, entry: Entry) -> tuple[Edge, ...]:
        """Return the readers that an entry names."""
        try:
            return tuple((str(node), int(position)) for node, position in entry.get("readers", ()))
        except (TypeError, ValueError) as error:
            raise self._wrong(entry, error) from error

    def encoding(self, entry: Any, hint: Entry) -> Encoding:
        """Return the encoding of an entry."""
        try:
            return self._fitting(entry, self._encoding(entry, hint))
        except (*UNFIT, SpecError) as error:
            raise self._wrong(entry, error) from error

    def _fitting(self, entry: Entry, found: Encoding) -> Encoding:
        """Return an encoding; raise where it does not fit the tensor that it is for."""
        tensor = constant(self._graph.initializers.get(str(entry["name"])))
        if tensor is not None:
            shape = tuple(tensor.shape.numpy())
            is_bias = found.spec.dtype is DType.INT32
            broadcast_grid(stored_shape(shape, found) if is_bias else shape, found)
        return found

    def _wrong(self, entry: Any, error: Exception) -> SpecError:
        kind = "" if isinstance(error, SpecError) else f"{type(error).__name__} "
        return SpecError(
            f"The encodings file {self._path!r} has an entry that cannot be read, {str(entry)[:80]!r}: {kind}"
            f"{str(error).rstrip('.')}."
        )

    def _encoding(self, entry: Entry, hint: Entry) -> Encoding:
        name, bits = str(entry["name"]), int(entry["bw"])
        offsets: Array = np.asarray(entry["offset"], np.float64).ravel()
        scales: Array = np.asarray(entry["scale"], np.float32).ravel()
        if not np.isfinite(offsets).all():
            raise ValueError("its offsets are no finite numbers")
        is_symmetric = bool(entry["is_sym"])
        granularity = self._granularity(entry, hint, scales.size)
        if "dtype" in hint:
            dtype = DType(hint["dtype"])
        else:
            is_signed = is_symmetric and bool((offsets == -(2 ** (bits - 1))).all())
            dtype = DType.container(bits, signed=is_signed)
        if self._is_full_range and dtype.is_signed and bits <= 16:
            is_symmetric = False
        zeros: Array = -offsets - (2 ** (bits - 1) if dtype.is_signed else 0)
        if isinstance(granularity, PerBlock):
            shape = self._shape(name)
            channel = channel_of(granularity.axis, shape) if "axis" in hint else self._axes.get(name, 0)
            is_row_major = str(entry["enc_type"]).upper() != "PER_BLOCK"
            scales, zeros = (
                spread(listed, granularity, shape, channel, is_row_major=is_row_major) for listed in (scales, zeros)
            )
        elif isinstance(granularity, PerTensor):
            scales, zeros = scales.reshape(()), zeros.reshape(())
        spec = QuantSpec(dtype, bits, is_symmetric, granularity)
        return Encoding(spec, scales, zeros.astype(np.int64))

    def _granularity(self, entry: Entry, hint: Entry, count: int) -> Granularity:
        name = str(entry["name"])
        channel = self._axes.get(name, 0)
        match str(entry["enc_type"]).upper():
            case "PER_TENSOR":
                return PerTensor()
            case "PER_CHANNEL":
                axis = int(hint.get("axis", channel))
                size = self._blocks_of_0_6_1(name, channel, count) if "axis" not in hint else 0
                return PerBlock(self._input_axis(name, channel), size) if size else PerChannel(axis)
            case "PER_BLOCK":
                axis = int(hint["axis"]) if "axis" in hint else self._input_axis(name, channel)
                return PerBlock(axis, int(entry["block_size"]))
            case other:
                raise ValueError(f"enc_type {other!r} is not known")

    def _blocks_of_0_6_1(self, name: str, channel: int, count: int) -> int:
        """Return the size of blocks where a list of grids is longer than there are channels: 0.6.1 does not say it."""
        tensor = constant(self._graph.initializers.get(name))
        if tensor is None or not len(tensor.shape):
            return 0
        shape = tuple(tensor.shape.numpy())
        channels, inputs = shape[channel], shape[self._input_axis(name, channel)]
        is_blocked = count > channels and count % channels == 0 and inputs % (count // channels) == 0
        return inputs // (count // channels) if is_blocked else 0

    def _input_axis(self, name: str, channel: int) -> int:
        """Return the axis of a layer's inputs in its weight, along which blocks lie."""
        rank = len(self._shape(name))
        if rank < 2:
            raise ValueError("a block-wise grid needs a weight of two or more dimensions")
        return input_axis(channel)

    def _shape(self, name: str) -> tuple[int, ...]:
        tensor = constant(self._graph.initializers.get(name))
        if tensor is None:
            raise ValueError("a block-wise grid needs its weight in the graph")
        return tuple(tensor.shape.numpy())


def read_document(path: Path) -> tuple[Entry, Entry]:
    """Return an encodings file as it is, and in layout 1.0.0; entries are not checked.

    Raises:
        SpecError: the file is missing, or is no such file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"The encodings file {str(path)!r} does not exist: check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"The encodings file {str(path)!r} cannot be read as JSON: {error}.") from error
    found = document if isinstance(document, dict) else {}
    try:
        document = as_1_0_0(found)
    except SpecError as error:
        raise SpecError(f"The encodings file {str(path)!r} cannot be read. {error}") from error
    except UNFIT as error:
        raise unfit(path, error) from error
    for section in _SECTIONS:
        if not isinstance(document.get(section), list):
            raise SpecError(f"The encodings file {str(path)!r} lacks the list {section!r}, which {VERSION} demands.")
    own = document.get("fewbits", {})
    kinds = {"tensors": dict, "conversions": list}
    if not isinstance(own, dict) or not all(isinstance(own.get(name, kind()), kind) for name, kind in kinds.items()):
        raise SpecError(
            f"The encodings file {str(path)!r} has something else than notes under 'fewbits': export again."
        )
    return found, dict(document)


def unfit(path: Path, error: Exception) -> SpecError:
    """Return what is said of an encodings file whose entries are not what their layout demands."""
    return SpecError(
        f"The encodings file {str(path)!r} is not what its version demands: {type(error).__name__} "
        f"{str(error).rstrip('.')}."
    )


def _weight_axes(graph: ir.Graph) -> dict[str, int]:
    axes: dict[str, int] = {}
    for node in graph:
        rule = op_rule(node)
        if rule is None or rule.weight is None or len(node.inputs) <= rule.weight:
            continue
        value = node.inputs[rule.weight]
        tensor = constant(value)
        if value is not None and tensor is not None:
            axes[str(value.name)] = channel_axis(node, len(tensor.shape))
    return axes

"""The encodings file: AIMET's layout 1.0.0, written for a plan and read back into encodings (others: see
`encodings_versions`).

The layout knows real = (code + offset) * scale with unsigned codes, so offset = -zero_point for unsigned grids and
-(zero_point + 2^(bits-1)) for signed ones. It does not say the container type or the channel axis; fewbits keeps both
under its own top-level key "fewbits", which other readers skip, and finds them in the graph where that key is missing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fewbits.artifact.encodings_versions import as_1_0_0
from fewbits.errors import SpecError
from fewbits.graph.topology import channel_axis, constant, data_values, is_float32, op_rule
from fewbits.numerics.affine import blocked_shape
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role

VERSION = "1.0.0"
Entry = dict[str, Any]


def encodings_document(graph: ir.Graph, plan: Plan, encodings: Mapping[str, Encoding], *, producer: str) -> Entry:
    """Return the file's content: every grid under its tensor's name, and float tensors of the data path as FLOAT.

    A second grid of one tensor (a change of width between two readers) has no place in the layout: it is kept under
    "fewbits".

    Args:
        graph: the prepared float graph.
        plan: the grids.
        encodings: grid key -> encoding.
        producer: version of fewbits.
    """
    activations: list[Entry] = []
    parameters: list[Entry] = []
    conversions: list[Entry] = []
    hints: dict[str, Entry] = {}
    for key, grid in plan.grids.items():
        entry = _entry(grid.tensor, encodings[key])
        if key != grid.tensor:
            conversions.append({**entry, "key": key, **_hint(encodings[key].spec)})
            continue
        hints[grid.tensor] = _hint(encodings[key].spec)
        (activations if grid.role is Role.ACTIVATION else parameters).append(entry)
    for name, bits, is_parameter in _float_tensors(graph, plan, hints):
        entry = {"name": name, "bw": bits, "dtype": "FLOAT", "enc_type": "PER_TENSOR"}
        (parameters if is_parameter else activations).append(entry)
    return {
        "version": VERSION,
        "producer": {"package": "fewbits", "version": producer},
        "activation_encodings": activations,
        "param_encodings": parameters,
        "fewbits": {"target": plan.target, "tensors": hints, "conversions": conversions},
    }


def read_encodings(path: str | Path, graph: ir.Graph) -> dict[str, Encoding]:
    """Return tensor name -> encoding of an encodings file, layout 0.6.1, 1.0.0 or 2.0.0; what is FLOAT carries no grid.

    Args:
        path: a file of fewbits or of AIMET.
        graph: the prepared float graph, which says channel axes where the file does not.

    Raises:
        SpecError: the file is missing, is no such file, or an entry cannot be understood.
    """
    document = _load(Path(path))
    hints = document.get("fewbits", {}).get("tensors", {})
    axes = _weight_axes(graph)
    found: dict[str, Encoding] = {}
    for section in ("activation_encodings", "param_encodings"):
        for entry in document[section]:
            try:
                name = str(entry["name"])
                if str(entry["dtype"]).upper() == "INT":
                    found[name] = _encoding(entry, hints.get(name, {}), axes.get(name, 0), graph)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise SpecError(
                    f"The encodings file {str(path)!r} has an entry that cannot be read, {str(entry)[:80]!r}: "
                    f"{type(error).__name__} {error}."
                ) from error
    return found


def _load(path: Path) -> Entry:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"The encodings file {str(path)!r} does not exist: check the path.") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"The encodings file {str(path)!r} cannot be read as JSON: {error}.") from error
    try:
        document = as_1_0_0(document if isinstance(document, dict) else {})
    except SpecError as error:
        raise SpecError(f"The encodings file {str(path)!r} cannot be read. {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError) as error:
        raise SpecError(
            f"The encodings file {str(path)!r} is not what its version demands: {type(error).__name__} {error}."
        ) from error
    for section in ("activation_encodings", "param_encodings"):
        if not isinstance(document.get(section), list):
            raise SpecError(f"The encodings file {str(path)!r} lacks the list {section!r}, which {VERSION} demands.")
    return dict(document)


def _entry(name: str, encoding: Encoding) -> Entry:
    spec = encoding.spec
    shift = 2 ** (spec.bits - 1) if spec.dtype.is_signed else 0
    kinds = {PerTensor: "PER_TENSOR", PerChannel: "PER_CHANNEL", PerBlock: "PER_BLOCK"}
    entry: Entry = {
        "name": name,
        "bw": spec.bits,
        "dtype": "INT",
        "enc_type": kinds[type(spec.granularity)],
        "is_sym": spec.is_symmetric,
        "offset": [float(-(z + shift)) for z in encoding.zero_point.ravel().tolist()],
        "scale": [float(s) for s in encoding.scale.ravel().tolist()],
    }
    if isinstance(spec.granularity, PerBlock):
        entry["block_size"] = spec.granularity.size
    return entry


def _hint(spec: QuantSpec) -> Entry:
    axis = {} if isinstance(spec.granularity, PerTensor) else {"axis": spec.granularity.axis}
    return {"dtype": spec.dtype.value, **axis}


def _encoding(entry: Entry, hint: Entry, axis: int, graph: ir.Graph) -> Encoding:
    bits, offsets = int(entry["bw"]), np.asarray(entry["offset"], np.float64).ravel()
    is_symmetric = bool(entry["is_sym"])
    granularity = _granularity(entry, int(hint.get("axis", axis)))
    if "dtype" in hint:
        dtype = DType(hint["dtype"])
    else:
        is_signed = is_symmetric and bool((offsets == -(2 ** (bits - 1))).all())
        dtype = DType.container(bits, signed=is_signed)
        # resolve keeps narrow activations in uint8: no runtime carries them in 4 bits
        dtype = DType.UINT8 if dtype is DType.UINT4 else dtype
    shift = 2 ** (bits - 1) if dtype.is_signed else 0
    shape = _scale_shape(str(entry["name"]), granularity, graph, offsets.size)
    return Encoding(
        QuantSpec(dtype, bits, is_symmetric, granularity),
        np.asarray(entry["scale"], np.float32).reshape(shape),
        (-offsets - shift).astype(np.int64).reshape(shape),
    )


def _granularity(entry: Entry, axis: int) -> Granularity:
    match str(entry["enc_type"]).upper():
        case "PER_TENSOR":
            return PerTensor()
        case "PER_CHANNEL":
            return PerChannel(axis)
        case "PER_BLOCK":
            return PerBlock(axis, int(entry["block_size"]))
        case other:
            raise ValueError(f"enc_type {other!r} is not known")


def _scale_shape(name: str, granularity: Granularity, graph: ir.Graph, count: int) -> tuple[int, ...]:
    if isinstance(granularity, PerTensor):
        return ()
    if isinstance(granularity, PerChannel):
        return (count,)
    tensor = constant(graph.initializers.get(name))
    if tensor is None:
        raise ValueError("a per-block grid needs its weight in the graph")
    return blocked_shape(tuple(tensor.shape.numpy()), granularity)


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


def _float_tensors(graph: ir.Graph, plan: Plan, gridded: Mapping[str, Entry]) -> list[tuple[str, int, bool]]:
    """Return (tensor, bits, is a parameter) of what float nodes on the data path compute and hold."""
    data = data_values(graph)
    found: dict[str, tuple[str, int, bool]] = {}
    for node in graph:
        precision = plan.nodes[str(node.name)].precision
        if not precision.is_float or not any(value in data for value in node.outputs):
            continue
        bits = precision.float_bits or 32
        for value in (*node.outputs, *node.inputs):
            if value is None or not is_float32(value) or str(value.name) in gridded:
                continue
            if value.producer() is node or value.producer() is None:
                is_parameter = constant(value) is not None
                found.setdefault(str(value.name), (str(value.name), bits, is_parameter))
    return list(found.values())

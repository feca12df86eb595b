"""The encodings file: AIMET's layout 1.0.0, written for a plan (read back: `encodings_read`; others:
`encodings_versions`).

The layout knows real = (code + offset) * scale with unsigned codes, so offset = -zero_point for unsigned grids and
-(zero_point + 2^(bits-1)) for signed ones. It does not say the container type or the channel axis; fewbits keeps both
under its own top-level key "fewbits", which other readers skip, with what else makes the way back exact: who reads a
grid where not every reader of its tensor does, and second grids of a tensor.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from fewbits.artifact.encodings_blocks import channel_of, gather
from fewbits.artifact.encodings_versions import quantizer_args
from fewbits.errors import SpecError
from fewbits.graph.topology import constant, data_values, is_float32
from fewbits.spec.dtypes import PerBlock, PerChannel, PerTensor
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16

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

    Raises:
        SpecError: a block-wise grid has a scale per position of a kernel, for which the layout has no place.
    """
    activations: list[Entry] = []
    parameters: list[Entry] = []
    conversions: list[Entry] = []
    hints: dict[str, Entry] = {}
    readers = _readers(plan)
    values = _values(graph)
    halves = _halves(graph, plan)
    for key, grid in plan.grids.items():
        entry, hint = _entry(grid.tensor, encodings[key]), _hint(encodings[key])
        if key != grid.tensor:
            converts = {} if grid.converts is None else {"converts": True}
            conversions.append({**entry, "key": key, **hint, **converts, "readers": readers.get(key, [])})
            continue
        if key not in plan.outputs and not _is_whole(values.get(grid.tensor), readers.get(key, [])):
            hint["readers"] = readers.get(key, [])
        if grid.tensor in halves:
            hint["computed_in"] = 16  # on a grid only where an integer operator reads it
        hints[grid.tensor] = hint
        (activations if grid.role is Role.ACTIVATION else parameters).append(entry)
    for name, bits, is_parameter in _float_tensors(graph, plan, hints):
        entry = {"name": name, "bw": bits, "dtype": "FLOAT", "enc_type": "PER_TENSOR"}
        (parameters if is_parameter else activations).append(entry)
    sections = {"activation_encodings": activations, "param_encodings": parameters}
    return {
        "version": VERSION,
        "producer": {"package": "fewbits", "version": producer},
        "quantizer_args": quantizer_args(sections),
        **sections,
        "fewbits": {"target": plan.target, "tensors": hints, "conversions": conversions},
    }


def _halves(graph: ir.Graph, plan: Plan) -> set[str]:
    """Return what is computed in float16."""
    nodes = (node for node in graph if plan.nodes[str(node.name)].precision == FP16)
    return {str(value.name) for node in nodes for value in node.outputs}


def _readers(plan: Plan) -> dict[str, list[list[Any]]]:
    """Return grid key -> the edges that see it."""
    found: dict[str, list[list[Any]]] = {}
    for (node, position), key in plan.inputs.items():
        found.setdefault(key, []).append([node, position])
    return found


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs))
    return {str(value.name): value for value in found}


def _is_whole(value: ir.Value | None, readers: list[list[Any]]) -> bool:
    """Whether every reader of a tensor is among `readers`: a file then need not name them."""
    if value is None or value.producer() is not None:
        return False
    return {(str(use.node.name), use.idx) for use in value.uses()} <= {(node, i) for node, i in readers}


def _entry(name: str, encoding: Encoding) -> Entry:
    spec = encoding.spec
    shift = 2 ** (spec.bits - 1) if spec.dtype.is_signed else 0
    kinds = {PerTensor: "PER_TENSOR", PerChannel: "PER_CHANNEL", PerBlock: "PER_BLOCK"}
    scale, zero = encoding.scale.ravel(), encoding.zero_point.ravel()
    block: Entry = {}
    if isinstance(spec.granularity, PerBlock):
        axes = spec.granularity.axis, channel_of(spec.granularity.axis, encoding.scale.shape)
        try:
            scale, zero = gather(encoding.scale, *axes), gather(encoding.zero_point, *axes)
        except ValueError as error:
            raise SpecError(
                f"The block-wise grid of {name!r} cannot be written to an encodings file: {error}."
            ) from error
        block["block_size"] = spec.granularity.size
    return {
        "name": name,
        "bw": spec.bits,
        "dtype": "INT",
        "enc_type": kinds[type(spec.granularity)],
        "is_sym": spec.is_symmetric,
        "offset": [float(-(z + shift)) for z in zero.tolist()],
        "scale": [float(s) for s in scale.tolist()],
        **block,
    }


def _hint(encoding: Encoding) -> Entry:
    spec = encoding.spec
    hint: Entry = {"dtype": spec.dtype.value}
    if not isinstance(spec.granularity, PerTensor):
        hint["axis"] = spec.granularity.axis
    if isinstance(spec.granularity, PerBlock):
        shape = encoding.scale.shape
        kept = (spec.granularity.axis, channel_of(spec.granularity.axis, shape))
        hint["scales"] = [size if axis in kept else 1 for axis, size in enumerate(shape)]
    return hint


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

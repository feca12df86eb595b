"""What `convert.txt` depends on, read from the files of an output folder."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from fewbits.artifact import names
from fewbits.artifact.encodings_read import UNFIT, read_document, unfit
from fewbits.artifact.samples import Arrays, read_samples
from fewbits.graph.load import read_proto
from fewbits.spec.soc import Soc, socs
from fewbits.spec.target import DEFAULT_TARGET

_BIAS_BITS = 32
_FLOATS = {"fp16": 16, "fp32": 32}


@dataclass(frozen=True, slots=True)
class ConverterInput:
    """One input of the model.

    Attributes:
        name: as in the graph, any text.
        dtype: as numpy calls it.
        sizes: one per axis; where the axis is open, what stands in for it.
        open_dims: (axis, name of the open dimension, empty where it has none).
    """

    name: str
    dtype: str
    sizes: tuple[int, ...]
    open_dims: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ConverterFacts:
    """What the commands depend on.

    Attributes:
        inputs: of the model, in its order.
        version: layout of the encodings file.
        target: name of the target that the model was made for.
        opset: of the float companion.
        weight_bits: widths of the integer weights.
        activation_bits: widths of the integer activations.
        float_bits: widths that operators compute in where they are float, 16 or 32.
        has_blocks: whether a weight has a scale per block.
        conversions: changes of width between two readers of a tensor, for which no layout has a place.
        has_samples: whether the folder holds samples, from which open dimensions take their sizes.
    """

    inputs: tuple[ConverterInput, ...]
    version: str
    target: str
    opset: int
    weight_bits: frozenset[int] = field(default=frozenset())
    activation_bits: frozenset[int] = field(default=frozenset())
    float_bits: frozenset[int] = field(default=frozenset())
    has_blocks: bool = False
    conversions: int = 0
    has_samples: bool = True

    @property
    def has_grids(self) -> bool:
        """Whether anything is quantized to integers."""
        return bool(self.weight_bits or self.activation_bits)

    @property
    def has_fp16(self) -> bool:
        """Whether anything is to be computed in float16."""
        return 16 in self.float_bits

    @property
    def chips(self) -> tuple[Soc, ...]:
        """The chips of the target, or of the default target where it is none of Qualcomm's."""
        found = tuple(soc for soc in socs() if soc.target == self.target)
        return found or tuple(soc for soc in socs() if soc.target == DEFAULT_TARGET)


def read_facts(folder: Path, target: str, precisions: Collection[str]) -> ConverterFacts:
    """Return the facts of a folder that holds the float companion, the encodings and perhaps samples.

    Args:
        folder: output folder of a verb.
        target: name of the target that the model was made for.
        precisions: that its nodes have, such as "w8a8" and "fp16".

    Raises:
        ModelError: the float companion cannot be read.
        OutputError: the samples cannot be read.
        SpecError: the encodings cannot be read.
    """
    model = read_proto(folder / names.FLOAT)
    found, document = read_document(folder / names.ENCODINGS)
    stored = folder / names.SAMPLES
    feeds = read_samples(stored).feeds if stored.is_file() else ()
    try:
        return _facts(document, model, feeds, target=target, version=str(found["version"]), precisions=precisions)
    except UNFIT as error:
        raise unfit(folder / names.ENCODINGS, error) from error


def _facts(
    document: Mapping[str, Any],
    model: onnx.ModelProto,
    feeds: Sequence[Arrays],
    *,
    target: str,
    version: str,
    precisions: Collection[str],
) -> ConverterFacts:
    activations, parameters = document["activation_encodings"], document["param_encodings"]
    return ConverterFacts(
        inputs=_inputs(model.graph, feeds[0] if feeds else {}),
        version=version,
        target=target,
        opset=next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0),
        weight_bits=frozenset(_widths(parameters)) - {_BIAS_BITS},
        activation_bits=frozenset(_widths(activations)),
        float_bits=frozenset(bits for name, bits in _FLOATS.items() if name in precisions),
        has_blocks=any(one.get("enc_type") in ("PER_BLOCK", "LPBQ") for one in parameters),
        conversions=len(document.get("fewbits", {}).get("conversions", ())),
        has_samples=bool(feeds),
    )


def _widths(entries: Iterable[Mapping[str, Any]]) -> list[int]:
    return [int(one.get("compressed_bw", one["bw"])) for one in entries if one["dtype"] == "INT"]


def _inputs(graph: onnx.GraphProto, feeds: Arrays) -> tuple[ConverterInput, ...]:
    constants = {one.name for one in graph.initializer}
    return tuple(_input(one, feeds) for one in graph.input if one.name not in constants)


def _input(value: onnx.ValueInfoProto, feeds: Arrays) -> ConverterInput:
    """Return one input; an open dimension takes its size from the sample, or 1."""
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "unknown"
    sample = feeds[value.name].shape if value.name in feeds else ()
    if not tensor.HasField("shape"):
        return ConverterInput(value.name, dtype, sample, tuple((axis, "") for axis in range(len(sample))))
    sizes: list[int] = []
    open_dims: list[tuple[int, str]] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value"):
            sizes.append(dim.dim_value)
            continue
        sizes.append(sample[axis] if len(sample) == len(tensor.shape.dim) else 1)
        open_dims.append((axis, dim.dim_param))
    return ConverterInput(value.name, dtype, tuple(sizes), tuple(open_dims))

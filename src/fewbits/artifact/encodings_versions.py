"""AIMET's other encodings layouts, 0.6.1 and 2.0.0, from and to layout 1.0.0: documents in, documents out.

0.6.1 maps tensor names to lists of grids, one per channel, with minimum and maximum, and says "True" and "False" in
words. 2.0.0 is one flat list in ONNX's terms (y_scale, y_zero_point, output_dtype); float16 tensors are absent from it.
What a layout has no place for stays under fewbits' own key, which other readers skip, so that every way is lossless.
Block-wise grids are lists channel by channel in 1.0.0 and nested in 2.0.0; LPBQ is read as the grid it stands for.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fewbits.artifact.encodings_blocks import expand_lpbq, from_nested, nested
from fewbits.errors import SpecError

Entry = dict[str, Any]
_SECTIONS = ("activation_encodings", "param_encodings")
_OWN = "fewbits"


def as_version(document: Entry, version: str) -> Entry:
    """Return a document of layout 1.0.0 in another layout.

    Raises:
        SpecError: the layout is unknown, or has no place for a kind of grid in the document.
    """
    if version not in VERSIONS:
        raise SpecError(f"Unknown encodings version {version!r}: write one of {', '.join(VERSIONS)}.")
    return VERSIONS[version][0](document)


def as_1_0_0(document: Entry) -> Entry:
    """Return a document of any known layout in layout 1.0.0.

    Raises:
        SpecError: the layout is unknown.
        KeyError, TypeError, ValueError: an entry is not what the layout demands.
    """
    version = document.get("version")
    if version not in VERSIONS:
        raise SpecError(f"It has version {version!r}; fewbits reads {', '.join(VERSIONS)}.")
    return VERSIONS[str(version)][1](document)


def _same(document: Entry) -> Entry:
    return document


def _from_1_0_0(document: Entry) -> Entry:
    there = [section for section in _SECTIONS if isinstance(document.get(section), list)]
    return {**document, **{section: [expand_lpbq(entry) for entry in document[section]] for section in there}}


def _to_0_6_1(document: Entry) -> Entry:
    entries = [entry for section in _SECTIONS for entry in document[section] if entry["dtype"] == "INT"]
    return {
        "version": "0.6.1",
        "producer": document.get("producer", {}),
        "quantizer_args": quantizer_args(document),
        **{section: {entry["name"]: _grids_0_6_1(entry) for entry in document[section]} for section in _SECTIONS},
        _OWN: {
            **document.get(_OWN, {}),
            "per_channel": [entry["name"] for entry in entries if entry["enc_type"] == "PER_CHANNEL"],
        },
    }


def quantizer_args(document: Entry) -> Entry:
    """Return how AIMET sums up the grids of a document of layout 1.0.0, in 1.0.0 and in 0.6.1."""
    entries = [entry for section in _SECTIONS for entry in document[section] if entry["dtype"] == "INT"]
    widths = {s: [e["bw"] for e in document[s] if e["dtype"] == "INT" and e["bw"] <= 16] for s in _SECTIONS}
    return {
        "activation_bitwidth": _usual(widths["activation_encodings"]),
        "param_bitwidth": _usual(widths["param_encodings"]),
        "dtype": "int",
        "is_symmetric": True,
        "per_channel_quantization": any(entry["enc_type"] == "PER_CHANNEL" for entry in entries),
        "quant_scheme": "post_training_tf",
    }


def _usual(widths: list[int]) -> int:
    return max(set(widths), key=widths.count) if widths else 8


def _grids_0_6_1(entry: Entry) -> list[Entry]:
    if entry["dtype"] == "FLOAT":
        return [{"bitwidth": entry["bw"], "dtype": "float"}]
    if entry["enc_type"] not in ("PER_TENSOR", "PER_CHANNEL"):
        raise SpecError(
            f"Encodings version 0.6.1 has no {entry['enc_type']} grids, as {entry['name']!r} has: use 1.0.0."
        )
    top = 2 ** entry["bw"] - 1
    return [
        {
            "bitwidth": entry["bw"],
            "dtype": "int",
            "is_symmetric": str(bool(entry["is_sym"])),
            "min": scale * offset,
            "max": scale * (offset + top),
            "offset": offset,
            "scale": scale,
        }
        for scale, offset in zip(entry["scale"], entry["offset"], strict=True)
    ]


def _from_0_6_1(document: Entry) -> Entry:
    own = dict(document.get(_OWN, {}))
    fine = set(own.pop("per_channel", ()))
    sections = {
        section: [_entry_0_6_1(name, grids, name in fine) for name, grids in document[section].items()]
        for section in _SECTIONS
    }
    made = {"version": "1.0.0", "producer": document.get("producer", {}), **sections}
    return {**made, _OWN: own} if own else made


def _entry_0_6_1(name: str, grids: list[Entry], is_fine: bool) -> Entry:
    first = grids[0]
    if first["dtype"] == "float":
        return {"name": name, "bw": int(first["bitwidth"]), "dtype": "FLOAT", "enc_type": "PER_TENSOR"}
    return {
        "name": name,
        "bw": int(first["bitwidth"]),
        "dtype": "INT",
        "enc_type": "PER_CHANNEL" if is_fine or len(grids) > 1 else "PER_TENSOR",
        "is_sym": str(first["is_symmetric"]) == "True",
        "offset": [float(grid["offset"]) for grid in grids],
        "scale": [float(grid["scale"]) for grid in grids],
    }


def _to_2_0_0(document: Entry) -> Entry:
    own: Mapping[str, Any] = document.get(_OWN, {})
    hints = own.get("tensors", {})
    entries = [(section, entry) for section in _SECTIONS for entry in document[section]]
    integers = [(section, entry) for section, entry in entries if entry["dtype"] == "INT"]
    return {
        "version": "2.0.0",
        "producer": document.get("producer", {}),
        "encodings": [_grid_2_0_0(entry, hints.get(entry["name"], {})) for _, entry in integers],
        _OWN: {
            **own,
            "parameters": [entry["name"] for section, entry in integers if section == "param_encodings"],
            "symmetric": [entry["name"] for _, entry in integers if entry["is_sym"]],
            "float": {
                section: [e for s, e in entries if s == section and e["dtype"] == "FLOAT"] for section in _SECTIONS
            },
        },
    }


def _grid_2_0_0(entry: Entry, hint: Mapping[str, Any]) -> Entry:
    bits, is_fine = entry["bw"], entry["enc_type"] != "PER_TENSOR"
    is_signed = str(hint.get("dtype", "u")).startswith("int")
    zeros = [int(-offset - (2 ** (bits - 1) if is_signed else 0)) for offset in entry["offset"]]
    made: Entry = {"name": entry["name"], "output_dtype": f"{'' if is_signed else 'u'}int{bits}"}
    if is_fine:
        made["axis"] = int(hint.get("axis", 0))
    if entry["enc_type"] == "PER_BLOCK":
        made["block_size"] = entry["block_size"]
        lists: dict[str, list[Any]] = {"y_scale": entry["scale"], **({"y_zero_point": zeros} if any(zeros) else {})}
        return made | {name: nested(values, made["axis"], hint["scales"]) for name, values in lists.items()}
    made["y_scale"] = entry["scale"] if is_fine else entry["scale"][0]
    if any(zeros):
        made["y_zero_point"] = zeros if is_fine else zeros[0]
    return made


def _from_2_0_0(document: Entry) -> Entry:
    own = dict(document.get(_OWN, {}))
    parameters, symmetric = own.pop("parameters", None), own.pop("symmetric", None)
    floats = own.pop("float", {})
    hints = dict(own.get("tensors", {}))
    sections: dict[str, list[Entry]] = {section: [] for section in _SECTIONS}
    for grid in document["encodings"]:
        entry, hint = _entry_2_0_0(grid)
        name = entry["name"]
        hints.setdefault(name, hint)
        if symmetric is not None:
            entry["is_sym"] = name in symmetric
        is_parameter = "axis" in grid or hint["dtype"] == "int32" if parameters is None else name in parameters
        sections["param_encodings" if is_parameter else "activation_encodings"].append(entry)
    for section in _SECTIONS:
        sections[section] += floats.get(section, [])
    return {
        "version": "1.0.0",
        "producer": document.get("producer", {}),
        **sections,
        _OWN: {**own, "tensors": hints},
    }


def _entry_2_0_0(grid: Entry) -> tuple[Entry, Entry]:
    """Return the entry, and what layout 1.0.0 does not say of it: container type and axis."""
    kind = str(grid["output_dtype"])
    bits, is_signed, is_fine = int(kind.lstrip("uint")), kind.startswith("int"), "axis" in grid
    axis = {"axis": int(grid["axis"])} if is_fine else {}
    block: Entry = {}
    if "block_size" in grid:
        lists, axis["axis"] = from_nested(grid)
        scales, zeros, block = lists["scale"], lists["zero_point"], {"block_size": lists["block_size"]}
    else:
        scales = [float(s) for s in grid["y_scale"]] if is_fine else [float(grid["y_scale"])]
        zero = grid.get("y_zero_point", 0)
        zeros = list(zero) if isinstance(zero, list) else [zero] * len(scales)
    shift = 2 ** (bits - 1) if is_signed else 0
    container = next(width for width in (4, 8, 16, 32) if bits <= width)
    entry = {
        "name": str(grid["name"]),
        "bw": bits,
        "dtype": "INT",
        "enc_type": "PER_BLOCK" if block else "PER_CHANNEL" if is_fine else "PER_TENSOR",
        "is_sym": is_signed and not any(zeros),
        "offset": [float(-z - shift) for z in zeros],
        "scale": scales,
        **block,
    }
    return entry, {"dtype": f"{'' if is_signed else 'u'}int{container}", **axis}


VERSIONS: dict[str, tuple[Callable[[Entry], Entry], Callable[[Entry], Entry]]] = {
    "0.6.1": (_to_0_6_1, _from_0_6_1),
    "1.0.0": (_same, _from_1_0_0),
    "2.0.0": (_to_2_0_0, _from_2_0_0),
}
"""Layout -> (from 1.0.0, to 1.0.0)."""

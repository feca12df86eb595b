"""AIMET's quantsim configuration as a target: what fewbits carries out of it becomes rules, the rest notes."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fewbits.spec.aimet_json import AimetConfig, read_aimet_json
from fewbits.spec.aimet_notes import notes_of
from fewbits.spec.dtypes import DType
from fewbits.spec.optable import OP_TABLE, Kind
from fewbits.spec.target import Target, load_target, target_names

LEFT_FLOAT = "the AIMET configuration does not quantize it"
_HTP = "qnn-htp-v"
_COMPUTING = (Kind.LINEAR, Kind.NORM, Kind.COMPUTE)
_ANY_DEVICE = Target(
    name="",
    description="",
    activation_types=frozenset({DType.UINT8, DType.UINT16}),
    weight_types=frozenset({DType.INT4, DType.INT8, DType.INT16}),
    per_channel=frozenset(),
    fused={},
)


def read_aimet_config(path: str | Path) -> Target:
    """Return the rules that a quantsim configuration states, with notes on what fewbits does not carry out.

    What the format has no word for (types, fp16, grids of Concat, 4-bit weights with one scale), and the scales of
    normalizations, for which AIMET's simulation has rules of its own, is that of the HTP generation in `hw_version`:
    the newest target of fewbits that is not newer, or its oldest. Without `hw_version` nothing of this is restricted.

    Raises:
        SpecError: the file cannot be read or has a section, key or value that AIMET does not know.
    """
    config = read_aimet_json(path)
    base = _generation(config.hw_version)
    device = f", for {config.hw_version}" if config.hw_version else ""
    rest = f"; what it leaves open is as in {base.name}" if base.name else ""
    target = replace(
        base,
        name=f"aimet:{Path(path).name}",
        description=f"AIMET configuration {Path(path).name}{device}{rest}",
        per_channel=_per_channel(config),
        fused=_fused(config),
        fixed_ranges=_fixed_ranges(config),
        left_float=_left_float(config),
    )
    return replace(target, notes=notes_of(config, target))


def _generation(hw_version: str) -> Target:
    """Return the target of fewbits that follows the rules of "V73", or one that restricts nothing."""
    wanted = re.fullmatch(r"[Vv](\d{1,4})", hw_version)
    if wanted is None:
        return _ANY_DEVICE
    known = sorted(int(name.removeprefix(_HTP)) for name in target_names() if name.startswith(_HTP))
    older = [number for number in known if number <= int(wanted[1])]
    return load_target(f"{_HTP}{(older or known[:1])[-1]}")


def _per_channel(config: AimetConfig) -> frozenset[str]:
    weighted = (op for op, rule in OP_TABLE.items() if rule.kind is Kind.LINEAR or op == "PRelu")
    return frozenset(op for op in weighted if config.is_per_channel(op))


def _fused(config: AimetConfig) -> dict[str, frozenset[str]]:
    """Return head -> followers of the supergroups of two operators that fewbits can take as one."""
    found: dict[str, frozenset[str]] = {}
    for group in config.supergroups:
        head = OP_TABLE.get(group[0])
        if len(group) == 2 and head is not None and head.kind is not Kind.PASS and _can_follow(group[1]):
            found[group[0]] = found.get(group[0], frozenset()) | {group[1]}
    return found


def _can_follow(op_type: str) -> bool:
    """Whether an operator computes from one tensor, beside its own parameters."""
    rule = OP_TABLE.get(op_type)
    return op_type == "PRelu" or (rule is not None and rule.kind is Kind.COMPUTE and rule.data == (0,))


def _fixed_ranges(config: AimetConfig) -> dict[str, tuple[float, float]]:
    return {
        op_type: (said.low, said.high)
        for op_type, said in config.op_types.items()
        if said.low is not None and said.high is not None and _kind(op_type) not in (None, Kind.PASS)
    }


def _left_float(config: AimetConfig) -> Mapping[str, str]:
    return {
        op_type: LEFT_FLOAT
        for op_type, said in config.op_types.items()
        if said.is_input_quantized is False and said.is_output_quantized is False and _kind(op_type) in _COMPUTING
    }


def _kind(op_type: str) -> Kind | None:
    rule = OP_TABLE.get(op_type)
    return None if rule is None else rule.kind

"""What an AIMET configuration says and its target does not carry out: one sentence for each kind of difference."""

from collections.abc import Callable, Iterable, Iterator

from fewbits.spec.aimet_json import AimetConfig, OpSettings, ParamSettings
from fewbits.spec.optable import FLOAT_REASONS, OP_TABLE, Kind
from fewbits.spec.target import Target

_FILE = "the AIMET configuration"
_SHOWN = 8
_PARAMETERS = frozenset({"weight", "bias", "running_mean", "running_var", "weight_r"})
_OWN_PASSES = frozenset({"MatmulAdd"})  # graph/passes/fuse_matmul_add.py
_LINEAR = tuple(op for op, rule in OP_TABLE.items() if rule.kind is Kind.LINEAR)
_NORMS = tuple(op for op, rule in OP_TABLE.items() if rule.kind is Kind.NORM)


def notes_of(config: AimetConfig, target: Target) -> tuple[str, ...]:
    """Return a sentence on each difference between the file and the target that was made of it."""
    rules = (_activations, _codes, _weights, _norms, _biases, _edges, _model, _ranges, _groups, _unknown)
    return tuple(note for rule in rules for note in rule(config, target))


def _list(names: Iterable[str]) -> str:
    """Return names in order, the first few where there are many."""
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _named(config: AimetConfig, holds: Callable[[OpSettings], bool], *kinds: Kind) -> list[str]:
    """Return the operators of these kinds (all, where none is given) of which the file says what `holds`."""
    rules = {op: OP_TABLE[op] for op in sorted(config.op_types) if op in OP_TABLE}
    return [op for op, rule in rules.items() if (not kinds or rule.kind in kinds) and holds(config.op_types[op])]


def _activations(config: AimetConfig, _: Target) -> Iterator[str]:
    names = _named(config, lambda said: said.is_symmetric is True)
    others = _named(config, lambda said: said.is_symmetric is False)
    whose = "all operators" + (f" but {_list(others)}" if others else "") if config.ops.is_symmetric else _list(names)
    if whose:
        yield f"Activations are asymmetric, although {_FILE} wants them symmetric for {whose}."


def _codes(config: AimetConfig, _: Target) -> Iterator[str]:
    if config.is_strict is False:
        yield f"Symmetric weights leave the lowest code unused, although {_FILE} has strict_symmetric = False."
    if config.is_unsigned:
        yield f"Weights that are nowhere negative stay signed, although {_FILE} has unsigned_symmetric = True."
    wide = _named(config, lambda said: said.has_kernels)
    if wide or config.ops.has_kernels:
        whose = "all operators" if config.ops.has_kernels else _list(wide)
        yield f"Widths are those of the precision, although {_FILE} lists the supported_kernels of {whose}."


def _weights(config: AimetConfig, _: Target) -> Iterator[str]:
    floats = [op for op in (*_LINEAR, *_NORMS) if not config.is_param_quantized(op, "weight")]
    if floats:
        yield f"Weights of {_list(floats)} are quantized, although {_FILE} leaves them in float."
    crooked = [op for op in _LINEAR if op not in floats and not config.is_param_symmetric(op, "weight")]
    if crooked:
        yield f"Weights of {_list(crooked)} are symmetric, although {_FILE} wants them asymmetric."


def _norms(config: AimetConfig, _: Target) -> Iterator[str]:
    quantized = [op for op in _NORMS if config.is_param_quantized(op, "weight")]
    # what only the defaults say of normalizations, AIMET overrides by rules of its own
    said = {op: config.op(op).params.get("weight", ParamSettings()).is_symmetric for op in quantized}
    others = [op for op in quantized if said[op]]
    if others:
        yield (
            f"Scales of all normalizations follow the activations, as in AIMET's simulation, although {_FILE} wants "
            f"symmetric ones for {_list(others)}."
        )
    fine = [op for op in quantized if config.is_per_channel(op)]
    if fine:
        yield f"Scales of {_list(fine)} are quantized per tensor, although {_FILE} wants them per channel."


def _biases(config: AimetConfig, _: Target) -> Iterator[str]:
    whole = config.is_param_quantized("", "bias")
    others = [op for op, rule in OP_TABLE.items() if rule.bias and config.is_param_quantized(op, "bias") is not whole]
    says = ("leaves them in float", "gives them grids of their own")
    more = f" ({says[not whole]} for {_list(others)})" if others else ""
    yield f"Biases are int32 in steps of input scale x weight scale, although {_FILE} {says[whole]}{more}."


def _edges(config: AimetConfig, target: Target) -> Iterator[str]:
    outputs = _named(config, lambda said: said.is_output_quantized is False, *(set(Kind) - {Kind.PASS}))
    inputs = _named(config, lambda said: said.is_input_quantized is False)
    for side, names, default in (
        ("Outputs", outputs, config.ops.is_output_quantized is not True),
        ("Inputs", inputs, config.ops.is_input_quantized is False),
    ):
        left = [op for op in names if op not in target.left_float]
        if default or left:
            whose = "all operators" if default else _list(left)
            yield f"{side} of {whose} are quantized, although {_FILE} leaves them in float."
    own = _named(config, lambda said: said.is_output_quantized is True, Kind.PASS)
    if own:
        yield f"Outputs of {_list(own)} are on the grid of their input, although {_FILE} wants grids of their own."


def _model(config: AimetConfig, _: Target) -> Iterator[str]:
    if not config.is_input_quantized:
        yield f"Inputs of the model are quantized, although {_FILE} leaves them in float."
    if config.is_output_quantized is False:
        yield f"Outputs of the model are quantized, although {_FILE} leaves them in float."


def _ranges(config: AimetConfig, target: Target) -> Iterator[str]:
    carried_out = {*target.fixed_ranges, *target.left_float}
    if config.op("Relu").low == 0:
        carried_out.add("Relu")  # it is never below zero
    names = [op for op in _named(config, lambda said: said.low is not None) if op not in carried_out]
    if names:
        yield f"Ranges of {_list(names)} are calibrated on both sides, although {_FILE} constrains them."


def _groups(config: AimetConfig, target: Target) -> Iterator[str]:
    left = [" + ".join(group) for group in config.supergroups if not _is_one(group, target)]
    if left:
        yield f"Grids stay inside {_list(left)}, although {_FILE} has none inside these supergroups."
    passes = [name for name in config.passes if name not in _OWN_PASSES]
    if passes:
        yield f"Grids stay inside what AIMET's graph passes {_list(passes)} find, although {_FILE} lists these passes."


def _is_one(group: tuple[str, ...], target: Target) -> bool:
    """Whether no grid remains inside a supergroup, or none that rounds anything."""
    is_folded = len(group) > 1 and group[0] in _LINEAR and group[1] == "BatchNormalization"
    head, *followers = (group[0], *group[2:]) if is_folded else group
    if len(followers) > 1:
        return False
    rule = OP_TABLE.get(head)
    passes_on = rule is not None and rule.kind is Kind.PASS  # its output is on the grid of its input
    return not followers or followers[0] in target.fused.get(head, ()) or (passes_on and followers[0] in OP_TABLE)


def _unknown(config: AimetConfig, _: Target) -> Iterator[str]:
    names = sorted(op for op in config.op_types if op not in OP_TABLE and op not in FLOAT_REASONS)
    if names:
        yield f"fewbits does not know {_list(names)}, which {_FILE} names: such operators stay in float."
    floats = sorted(op for op in config.op_types if op in FLOAT_REASONS and op not in OP_TABLE)
    wanted = [op for op in floats if _asks_for_grids(config.op_types[op])]
    if wanted:
        yield f"Settings of {_list(wanted)} in {_FILE} have no effect: these operators are folded or stay in float."
    params = {*config.params, *(name for said in config.op_types.values() for name in said.params)}
    if params - _PARAMETERS:
        yield f"fewbits does not know the parameters {_list(sorted(params - _PARAMETERS))}, which {_FILE} names."


def _asks_for_grids(said: OpSettings) -> bool:
    flags = (said.is_input_quantized, said.is_output_quantized, said.is_symmetric, said.is_per_channel)
    params = (flag for param in said.params.values() for flag in (param.is_quantized, param.is_symmetric))
    return said.low is not None or any(flags) or any(params)

"""Simplification by onnxslim: constant folding, shape arithmetic, redundant reshapes and transposes."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph.bridge import rewrite, without_weights
from fewbits.graph.naming import all_nodes, name_nodes, name_subgraph_values
from fewbits.graph.passes.base import PassResult, Skipped
from fewbits.graph.save import EXTERNAL_BYTES, to_bytes, weights_bytes

NAME = "simplify"

_QUIET = logging.NullHandler()
_LARGE_WEIGHT_BYTES = 1 << 16
# Those that touch weights are done by fold_batchnorm, fold_affine and fuse_matmul_add: in float64, checked, and with
# their reasons. FusionGemm would also wrap a MatMul of rank 3 in two Reshapes.
_SKIPPED_PATTERNS = [
    f"Fusion{pattern}"
    for pattern in ("ConvBN", "ConvMul", "ConvAdd", "ConvTransposeBN", "ConvTransposeMul", "ConvTransposeAdd",
                    "Gemm", "GemmMul", "GemmAdd")
]  # fmt: skip


def run(model: ir.Model, check: Callable[[bytes], None] | None = None) -> PassResult:
    """Let onnxslim rewrite the graph; keep the result only if the ONNX checker, and `check`, accept it.

    It reads [batch, 4] + [3, 4] as batch = 3, which a batch of 1 is not, and fixes the inputs: that is not kept. Nor is
    it where a Compress gets the shape of its input, or a Split loses an output. What it computes of open dimensions is
    forgotten: it takes the parts of a Split for equal.
    Above 1.5 GB of weights the large ones do not pass through onnxslim: what it does to shapes still applies, what it
    would do to those weights does not.
    """
    fits = weights_bytes(model) <= EXTERNAL_BYTES
    try:
        result = rewrite(model, _slim, limit_bytes=2**62 if fits else _LARGE_WEIGHT_BYTES)
        _require_open(model, result)
        _require_uncounted(result)
        _require_parts(model, result)
        _forget_computed(model, result)
        name_nodes(result)
        name_subgraph_values(result)
        before, after = _structure(model), _structure(result)
        if before == after:
            return PassResult()
        proto, _ = without_weights(result)
        proto.ir_version = max(proto.ir_version, model.ir_version)
        onnx.checker.check_model(proto, full_check=True)
        result.ir_version = model.ir_version
        if check is not None and fits:
            check(to_bytes(result))
    except Exception as error:  # onnxslim, the checker and the caller's runtime raise kinds of their own
        return PassResult(declined=(Skipped("onnxslim", _reason(error)),))
    changed = _difference(model, result)
    model.graph = result.graph
    return PassResult(changed)


def _slim(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    logging.getLogger("onnxslim").addHandler(_QUIET)  # else it installs a handler that writes to stderr
    result = onnxslim.slim(proto, skip_fusion_patterns=_SKIPPED_PATTERNS)
    assert isinstance(result, onnx.ModelProto)
    return result


def _require_open(before: ir.Model, after: ir.Model) -> None:
    for old, new in zip(before.graph.inputs, after.graph.inputs, strict=True):
        for was, size in zip(old.shape or (), new.shape or (), strict=False):
            if isinstance(size, int) and not isinstance(was, int):
                raise ModelError(f"it fixes the open dimension {was.value!r} of input {old.name!r} at {size}")


def _require_uncounted(model: ir.Model) -> None:
    for node in model.graph:
        shape = node.outputs[0].shape if (node.domain, node.op_type) == ("", "Compress") else None
        if shape and isinstance(shape[node.attributes.get_int("axis", 0)], int):
            raise ModelError(f"it fixes the size of {node.outputs[0].name!r}, which a Compress decides by its data")


def _require_parts(before: ir.Model, after: ir.Model) -> None:
    """Splits give what they gave: one that gives less, while its attributes say how much, does not run."""
    given = {str(value.name): node for node in before.graph for value in node.outputs}
    for node in after.graph:
        first = given.get(str(node.outputs[0].name)) if (node.domain, node.op_type) == ("", "Split") else None
        if first is None or first.op_type != "Split":
            continue
        kept = {value.name for value in node.outputs}
        lost = next((value.name for value in first.outputs if value.name not in kept), None)
        if lost is not None:
            raise ModelError(f"it takes {lost!r} out of what a Split gives")


def _forget_computed(before: ir.Model, after: ir.Model) -> None:
    """Drop the open dimensions that only `after` names, such as "batch/2"; shapes are inferred again behind a pass."""
    known = {dim for value in _values(before) for dim in value.shape or () if not isinstance(dim, int)}
    for value in _values(after):
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) or dim in known else None for dim in value.shape])


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from (value for node in all_nodes(model) for value in node.outputs)


def _structure(model: ir.Model) -> list[tuple[object, ...]]:
    """Return what makes two graphs the same to a reader: operators, attributes and wiring, in order."""
    return [
        (
            node.domain,
            node.op_type,
            tuple(value.name if value is not None else "" for value in node.inputs),
            tuple(value.name for value in node.outputs),
            tuple(sorted(str(attribute) for attribute in node.attributes.values())),
        )
        for node in model.graph
    ]


def _difference(before: ir.Model, after: ir.Model) -> tuple[str, ...]:
    old, new = (Counter(node.op_type for node in model.graph) for model in (before, after))
    lines = tuple(f"{op}: {old[op]} -> {new[op]}" for op in sorted(old | new) if old[op] != new[op])
    return lines or ("attributes or wiring, no operator fewer",)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its result is not used ({lines[0][:300].rstrip('.') if lines else type(error).__name__})"

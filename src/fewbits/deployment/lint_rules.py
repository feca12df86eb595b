"""What a device will refuse, run in float, or silently change: one rule a function, all of them in RULES.

The rules follow what onnxruntime-qnn 2.7.0 does; `tests/workflow/test_lint.py` compiles the cases of most of them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from fewbits.deployment.qdq_view import FUSED, QdqView, Seen
from fewbits.spec.dtypes import DType
from fewbits.spec.soc import Soc
from fewbits.spec.target import Target

Outcome = Literal["refused", "float", "changed"]
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_REQUANTIZED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_ONE_TYPE = frozenset(
    {*_LAYERS, "Add", "Sub", "Mul", "Div", "Concat", "LayerNormalization", "Relu", "Clip", "LeakyRelu", "Sigmoid",
     "Tanh", "Softmax", "Gelu", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One trouble ahead.

    Attributes:
        outcome: refused by the compiler, run in float, or silently changed.
        rule: its name.
        node, op: where.
        says: one sentence, with the figures.
        fix: what to do, in one line.
    """

    outcome: Outcome
    rule: str
    node: str
    op: str
    says: str
    fix: str


@dataclass(frozen=True, slots=True)
class Case:
    """One operator under the rules of one device; `soc` is None where only the target is known."""

    view: QdqView
    node: onnx.NodeProto
    target: Target
    soc: Soc | None

    @property
    def activations(self) -> list[Seen]:
        """Grids of the data that it reads."""
        grids = [self.view.read(self.node, i) for i in range(len(self.node.input))]
        return [grid for grid in grids if grid is not None and not grid.is_stored]

    @property
    def weight(self) -> Seen | None:
        """Grid of its stored weight, where it is a layer."""
        if self.node.op_type not in _LAYERS:
            return None
        grid = self.view.read(self.node, 1)
        return grid if grid is not None and grid.is_stored else None

    @property
    def second(self) -> Seen | None:
        """Grid of its second operand, where it multiplies two activations of which the first has 16 bits."""
        if self.node.op_type not in ("MatMul", "Gemm"):
            return None
        first, second = self.view.read(self.node, 0), self.view.read(self.node, 1)
        is_product = first is not None and second is not None and not first.is_stored and not second.is_stored
        return second if is_product and first is not None and first.dtype == "uint16" else None

    @property
    def is_integer(self) -> bool:
        """Whether it stands between grids."""
        return bool(self.activations) and self.view.written(self.node) is not None

    def finding(self, outcome: Outcome, rule: str, says: str, fix: str) -> Finding:
        """Return a finding about this operator."""
        return Finding(outcome, rule, self.node.name, self.node.op_type, says, fix)


def activation_type(case: Case) -> Iterator[Finding]:
    """int16 activations where the compiler wants uint16."""
    if case.node.op_type in _UNSIGNED_ONLY and any(grid.dtype == "int16" for grid in case.activations):
        yield case.finding(
            "refused", "activation-type", f"it reads int16 activations, and {case.target.name} wants uint16 here",
            "quantize activations to uint16",
        )  # fmt: skip


_UNSIGNED_ONLY = frozenset({"LayerNormalization"})  # a Conv runs with int16 activations


def weight_type(case: Case) -> Iterator[Finding]:
    """Weights of a type that the device lacks, or of int4 with one scale."""
    weight, known = case.weight, {dtype.value for dtype in case.target.weight_types}
    if weight is None:
        return
    if weight.dtype not in known | {"uint8"}:
        yield case.finding(
            "refused", "weight-type", f"its weight is {weight.dtype}, and {case.target.name} has {_words(known)}",
            "use 8-bit weights, or a chip that has them",
        )  # fmt: skip
    elif weight.dtype == "int4" and weight.scale.size == 1 and not case.target.int4_per_tensor:
        yield case.finding(
            "refused", "int4-one-scale", "its int4 weight has one scale, and the compiler takes int4 per channel only",
            "store its codes as int8 with the same scale",
        )  # fmt: skip


def weight_symmetry(case: Case) -> Iterator[Finding]:
    """Signed weights per channel with zero points."""
    weight = case.weight
    if (
        weight is not None
        and weight.scale.size > 1
        and weight.dtype.startswith("int")
        and np.any(weight.zero_point != 0)
    ):
        yield case.finding(
            "refused", "weight-symmetry", f"its {weight.dtype} weight has zero points per channel",
            "quantize weights symmetrically",
        )  # fmt: skip


def weight_blocks(case: Case) -> Iterator[Finding]:
    """Weight scales per block of inputs: refused beside 8-bit activations, compiled to float16 beside 16-bit ones."""
    weight = case.weight
    if weight is None or not weight.block_size or case.node.op_type in case.target.per_block:
        return
    is_wide = any(grid.dtype.endswith("16") for grid in case.activations)
    yield case.finding(
        "float" if is_wide else "refused", "weight-blocks",
        f"its weight has a scale for every {weight.block_size} inputs, and {case.target.name} has one per channel here",
        f"quantize again for {case.target.name}, at a precision without g{weight.block_size}",
    )  # fmt: skip


def gamma_type(case: Case) -> Iterator[Finding]:
    """The scale of a LayerNormalization beside an int32 bias: uint8, or 16 bits with its zero point in the middle."""
    if case.node.op_type != "LayerNormalization":
        return
    gamma, beta = case.view.read(case.node, 1), case.view.read(case.node, 2)
    if gamma is None or beta is None or beta.dtype != "int32" or not case.activations:
        return
    wide = case.activations[0].dtype == "uint16" and case.target.widest_gamma == 16
    middle = bool(np.all(gamma.zero_point == (32768 if gamma.dtype == "uint16" else 0)))
    if gamma.dtype == "uint8" or (wide and gamma.dtype in ("uint16", "int16") and middle):
        return
    yield case.finding(
        "refused", "gamma-type",
        f"beside {case.activations[0].dtype} activations and an int32 bias its scale is {gamma.dtype} with zero point "
        f"{gamma.zero_point[0]}",
        "make it uint8; from HTP v73 on, with 16-bit activations, also int16, or uint16 with zero point 32768",
    )  # fmt: skip


def missing_grid(case: Case) -> Iterator[Finding]:
    """A layer whose result goes on to another operator without a grid between."""
    if case.node.op_type not in _LAYERS or not case.activations or case.view.is_half(case.node):
        return
    follower = case.view.follower(case.node)
    if case.view.written(case.node) is None and follower is not None and follower.op_type not in FUSED:
        yield case.finding(
            "refused", "missing-grid", f"nothing is quantized between it and {follower.op_type} {follower.name!r}",
            "put QuantizeLinear and DequantizeLinear between them" + _way_out(case, follower.op_type),
        )  # fmt: skip


def _way_out(case: Case, follower: str) -> str:
    is_fused = follower in case.target.fused.get(case.node.op_type, frozenset())
    return "" if is_fused else f", or take --target {case.target.name}"


def mixed_types(case: Case) -> Iterator[Finding]:
    """Activations that come and go in different types: such an operator runs in float."""
    out = case.view.written(case.node)
    if case.node.op_type not in _ONE_TYPE or out is None or not case.activations:
        return
    kinds = {grid.dtype for grid in (*case.activations, out)}
    if (second := case.second) is not None:
        kinds.discard(second.dtype if second.dtype != out.dtype else "")  # see second_operand
    if len(kinds) > 1:
        is_fine = case.weight is not None and case.weight.scale.size > 1
        yield case.finding(
            "refused" if is_fine else "float", "mixed-types", f"its activations are {_words(kinds)}",
            "convert what it reads with an explicit DequantizeLinear and QuantizeLinear",
        )  # fmt: skip


def second_operand(case: Case) -> Iterator[Finding]:
    """A product of two 16-bit activations: the device keeps little of the second one unless its type suits it."""
    second, wanted = case.second, case.target.second_operand
    if second is None or wanted.value in (second.dtype, "uint16"):
        return
    fix = "convert its second operand to int16 with zero point 0" if wanted.is_signed else "convert it to uint8"
    if second.dtype == "uint16":
        yield case.finding(
            "changed", "second-operand", "of its second operand, uint16 like the first, the device keeps about 8 bits",
            fix,
        )  # fmt: skip
    elif second.dtype == "int16":
        yield case.finding(
            "refused", "second-operand", f"its second operand is int16, which {case.target.name} lacks", fix
        )


def int16_codes(case: Case) -> Iterator[Finding]:
    """int16 weights with codes that the device clips."""
    weight, limit = case.weight, case.target.highest_int16
    if weight is None or weight.dtype != "int16" or DType.INT16 not in case.target.weight_types:
        return
    highest = case.view.highest_code(case.node, 1)
    if highest is not None and highest > limit:
        yield case.finding(
            "changed", "int16-codes", f"its int16 weight has codes up to {highest}; {limit} is where they clip",
            f"make the scale {highest / limit:.4f} times as large",
        )  # fmt: skip


def bias_scale(case: Case) -> Iterator[Finding]:
    """A bias whose scale is not the product of those of input and weight: the device computes as if it were."""
    weight, bias = case.weight, case.view.read(case.node, 2)
    if weight is None or bias is None or bias.dtype != "int32" or not case.activations:
        return
    right = case.activations[0].scale * weight.scale
    if right.size > max(bias.scale.size, 1) and bias.scale.size != 1:
        return  # block-wise weights have no one scale per channel
    off = float(np.max(np.abs(bias.scale / np.maximum(right, 1e-45) - 1)))
    if off > _SCALE_TOLERANCE:
        yield case.finding(
            "changed", "bias-scale", f"the scale of its bias is up to {100 * off:.3g} % off input scale x weight scale",
            "store the bias as int32 with exactly that scale",
        )  # fmt: skip


_SCALE_TOLERANCE = 1e-3


def bare_float(case: Case) -> Iterator[Finding]:
    """A layer with float weights between grids: onnxruntime's WeightBiasQuantization makes it an integer one."""
    if case.node.op_type in _REQUANTIZED and case.is_integer and case.view.is_float_constant(case.node, 1):
        yield case.finding(
            "changed", "bare-float", "its weight is float between integer activations, and becomes int8 unasked",
            "quantize the weight, or make the layer float16 with Casts at its ends",
        )  # fmt: skip


def left_float(case: Case) -> Iterator[Finding]:
    """Operators without an integer form on the device."""
    reason = case.target.left_float.get(case.node.op_type)
    if reason is not None and case.is_integer:
        yield case.finding(
            "refused", "no-integer-form", reason, f'leave it in fp16: --profile, "{case.node.name}" = "fp16"'
        )


def no_half(case: Case) -> Iterator[Finding]:
    """float16 on a chip whose HTP does not compute in it."""
    if case.soc is not None and not case.soc.fp16 and case.view.is_half(case.node):
        yield case.finding(
            "refused", "no-fp16", f"it computes in float16, which {case.soc.name} lacks", "use w8a16 for it, or w16a16"
        )


def _words(kinds: Iterable[str]) -> str:
    return ", ".join(sorted(kinds))


RULES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    activation_type, weight_type, weight_symmetry, weight_blocks, gamma_type, missing_grid, mixed_types, second_operand,
    int16_codes, bias_scale, bare_float, left_float, no_half,
)  # fmt: skip

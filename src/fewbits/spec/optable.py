"""What fewbits knows about operators: one row each. A new operator is a new row."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How an operator treats the grids of its tensors."""

    LINEAR = "multiplies by a weight and sums; may carry an int32 bias"
    NORM = "normalizes, then scales and shifts by parameters"
    COMPUTE = "computes new values: every float input and output has a grid of its own"
    PASS = "passes values through: output and first input share one grid"
    CONCAT = "joins inputs into one output"


@dataclass(frozen=True, slots=True)
class OpRule:
    """One row: the kind, and the positions of the inputs that carry values.

    Attributes:
        kind: how grids behave.
        data: positions of inputs with activations; None means all of them.
        weight: position of the weight (LINEAR) or scale (NORM), if any.
        bias: position of the bias, if any.
    """

    kind: Kind
    data: tuple[int, ...] | None = None
    weight: int | None = None
    bias: int | None = None


_LINEAR = OpRule(Kind.LINEAR, (0,), 1, 2)
_NORM = OpRule(Kind.NORM, (0,), 1, 2)
_ONE = OpRule(Kind.COMPUTE, (0,))
_ALL = OpRule(Kind.COMPUTE)
_PASS = OpRule(Kind.PASS, (0,))

OP_TABLE: dict[str, OpRule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), _LINEAR),
    "MatMul": OpRule(Kind.LINEAR, (0,), 1),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), _NORM),
    "RMSNormalization": OpRule(Kind.NORM, (0,), 1),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mean", "Sum", "PRelu"), _ALL),
    "Where": OpRule(Kind.COMPUTE, (1, 2)),
    **dict.fromkeys(
        ("Relu", "Clip", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Gelu", "Softplus", "Softsign", "Mish",
         "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Softmax", "LogSoftmax", "Erf", "Exp", "Log", "Sqrt",
         "Reciprocal", "Neg", "Abs", "Sin", "Cos", "Floor", "Ceil", "Round", "LpNormalization", "LRN"),
        _ONE,
    ),
    **dict.fromkeys(
        ("GlobalAveragePool", "AveragePool", "LpPool", "GlobalLpPool", "ReduceMean", "ReduceSum", "ReduceL1",
         "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "Resize", "GridSample", "CumSum"),
        _ONE,
    ),
    **dict.fromkeys(
        ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "GlobalMaxPool", "ReduceMax",
         "ReduceMin", "Slice", "Split", "Gather", "GatherND", "GatherElements", "DepthToSpace", "SpaceToDepth",
         "Expand", "Tile", "Identity", "Dropout", "Pad"),
        _PASS,
    ),
    "Concat": OpRule(Kind.CONCAT),
}  # fmt: skip

# Operators that stay in float everywhere, and why: said to the user instead of "unknown".
FLOAT_REASONS: dict[str, str] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent operators have no integer form in ONNX QDQ"),
    **dict.fromkeys(("If", "Loop", "Scan"), "the bodies of control flow are left in float"),
    **dict.fromkeys(("TopK", "NonMaxSuppression", "ArgMax", "ArgMin", "NonZero", "Unique"),
                    "it selects; its result is indices"),
    "BatchNormalization": "it could not be folded or lowered; see the list of prepare",
    "Einsum": "Einsum has no integer kernels; write it as MatMul",
    **dict.fromkeys(("Cast", "CastLike"), "it changes types"),
    "AveragePool": "no integer AveragePool has dilations",
    "Dropout": "in training mode it draws random numbers",
}  # fmt: skip

NEVER_HALF = frozenset({("Resize", 1), ("Resize", 2), ("Upsample", 1), ("GridSample", 1)})
"""Inputs that keep float32 where their node is float16, which cannot tell the pixels of a large image apart."""

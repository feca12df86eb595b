"""Products of matrices."""

from collections.abc import Mapping

import torch

from fewbits.runtime.torch_operators.arguments import of_two, together
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator


def gemm(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return alpha A B + beta C, A [M, K] or transposed, B [K, N] or transposed, C broadcast. Source: ONNX Gemm-13."""
    first, second, *rest = together(call, [value for value in inputs if value is not None])
    first = first.t() if call.attributes.get("transA", 0) else first
    second = second.t() if call.attributes.get("transB", 0) else second
    alpha, beta = call.attributes.get("alpha", 1.0), call.attributes.get("beta", 1.0)
    if not first.is_floating_point():
        alpha, beta = int(alpha), int(beta)
    if rest:
        return torch.addmm(rest[0], first, second, alpha=alpha, beta=beta)
    product = first @ second
    return product if alpha == 1 else product * alpha


def einsum(call: Call, inputs: Inputs) -> torch.Tensor:
    """Return Einstein's sum. Source: ONNX Einsum-12."""
    return torch.einsum(call.attributes["equation"], *together(call, inputs))


OPERATORS: Mapping[str, Operator] = {"Gemm": gemm, "MatMul": of_two(torch.matmul), "Einsum": einsum}

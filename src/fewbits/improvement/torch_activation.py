"""The function that follows a layer, as something that rows of its output can be put through."""

from collections.abc import Callable, Sequence

import torch

from fewbits.quantization.layers import Layer
from fewbits.runtime.torch_graph import Step, TorchGraph

Act = Callable[[torch.Tensor], torch.Tensor]
_ELEMENTWISE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish",
     "Swish", "Mish", "Tanh", "Softplus", "Softsign", "ThresholdedRelu", "Min", "Max"}
)  # fmt: skip


def activation_after(graph: TorchGraph, step: Step, layer: Layer) -> Act:
    """Return the element-wise function that is the only reader of a layer's output; the identity where there is none.

    Args:
        graph: that the step is of.
        step: the layer's node.
        layer: the layer.

    Returns:
        A function of rows [G, R, C] of the output, which returns rows of the same shape.
    """
    if layer.op == "ConvTranspose":
        return _same  # a row of it is one summand of an output
    follower = _only_reader(graph, step)
    if follower is not None and follower.call.op == "Reshape" and layer.op == "Gemm":
        follower = _only_reader(graph, follower)
        if follower is not None and len([name for name in follower.reads if name]) > 1:
            return _same  # its constants may lie along axes that the rows do not have
    if follower is None or follower.call.op not in _ELEMENTWISE:
        return _same
    constants = {name: graph.known(name) for name in follower.reads[1:] if name}
    if any(value is None for value in constants.values()):
        return _same
    rank = len(layer.weight_shape) if layer.op == "Conv" else 2

    def act(rows: torch.Tensor) -> torch.Tensor:
        groups, count, channels = rows.shape
        flat = rows.transpose(0, 1).reshape(count, groups * channels, *[1] * (rank - 2))
        values = {follower.reads[0]: flat, **{name: v for name, v in constants.items() if v is not None}}
        out = graph.compute(follower, values)[0]
        assert out is not None
        return out.reshape(count, groups, channels).transpose(0, 1)

    return act


def is_identity(act: Act) -> bool:
    """Whether `activation_after` found no function."""
    return act is _same


def _same(rows: torch.Tensor) -> torch.Tensor:
    return rows


def _only_reader(graph: TorchGraph, step: Step) -> Step | None:
    name = step.writes[0]
    readers: Sequence[Step] = [other for other in graph.steps if name in other.reads]
    is_first = len(readers) == 1 and readers[0].reads[0] == name and readers[0].reads.count(name) == 1
    return readers[0] if is_first and name not in graph.output_names else None

"""The method `balance` of step 4: a float model in other channel sizes, which computes the same."""

from collections.abc import Iterable
from itertools import chain

import onnx_ir as ir
import torch

from fewbits.improvement.result import OUTPUTS, Improved
from fewbits.improvement.torch_balance import balance, look
from fewbits.improvement.torch_improve import check_device
from fewbits.improvement.torch_walk import Arrays, Start
from fewbits.numerics.channel_error import ChannelError
from fewbits.quantization.layers import find_layers
from fewbits.runtime.torch_graph import Tensors, TorchGraph, feeds_to_torch

_LEFT = 0.1
"""Share of the error of rounded weights that is left where their codes are chosen afterwards, as gptq does."""


def balance_model(start: Start, feeds: Iterable[Arrays], *, device: str = "cpu", seed: int = 0) -> Improved:
    """Return the float model of `start` with balanced channels; it computes the same.

    Args:
        start: both its models are the float one; plan and encodings say what grids there will be.
        feeds: calibration data, one entry per batch; read once.
        device: where torch computes.
        seed: of the projections of gradients.

    Raises:
        SpecError: the device is not there.
        ModelError: the graph has an operator that the torch executor lacks.
    """
    check_device(device)
    graph = TorchGraph(start.reference).eval().to(device)
    batches = (feeds_to_torch(arrays, device) for arrays in feeds)
    first = next(batches)
    seen = look(start, chain([first], batches), _variances(start.reference, graph, first), device=device, seed=seed)
    found = balance(start, seen, graph.output_names, weights=_LEFT)
    if found.start is start:
        return Improved(start.reference, declined=found.declined)
    changed = tuple(x.node for x in find_layers(start.reference.graph) if x.node not in found.declined)
    errors = {OUTPUTS: (found.before, found.after)}
    return Improved(found.start.reference, changed=changed, declined=found.declined, errors=errors)


def _variances(model: ir.Model, graph: TorchGraph, batch: Tensors) -> dict[str, float | torch.Tensor]:
    """Return output -> variance of its channels, broadcastable to it: what the run measures errors by."""
    with torch.no_grad():
        given, found = graph(batch), dict[str, float | torch.Tensor]()
    for output in model.graph.outputs:
        value, error = given[str(output.name)], ChannelError()
        if not value.is_floating_point():
            continue
        array = value.cpu().numpy()
        error.update(array, array)
        if error.variance is None or error.axis is None:
            continue
        found[str(output.name)] = float(error.variance.mean())
        if output.shape is not None and value.ndim > 1 and isinstance(output.shape[error.axis], int):
            layout = [-1 if axis == error.axis else 1 for axis in range(value.ndim)]
            found[str(output.name)] = torch.from_numpy(error.variance).reshape(layout).to(value)
    return found

"""Answers of a quantized graph in the torch executor: the one simulation that really computes fp16 nodes in float16."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fewbits.runtime.torch_graph import TorchGraph, feeds_to_torch
from fewbits.runtime.torch_quantize import QuantizedGraph
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan

Arrays = Mapping[str, npt.NDArray[np.generic]]


def run_quantized(
    model: ir.Model, plan: Plan, encodings: Mapping[str, Encoding], feeds: Sequence[Arrays]
) -> list[Arrays]:
    """Return the outputs of a float graph with a plan carried out; fp16 nodes round what they read and write.

    Args:
        model: the float graph.
        plan: made for it.
        encodings: grid key -> encoding.
        feeds: one per run.

    Raises:
        ModelError: the graph has an operator that the torch executor lacks, or one that fails.
    """
    module = QuantizedGraph(TorchGraph(model).eval(), plan, encodings).eval()
    with torch.no_grad():
        return [
            {name: value.numpy() for name, value in module(feeds_to_torch(one, module.graph.device)).items()}
            for one in feeds
        ]

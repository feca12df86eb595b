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
    runner = QuantizedRunner(model, plan, encodings)
    return [runner(one) for one in feeds]


class QuantizedRunner:
    """A float graph with a plan carried out, loaded: call it with feeds, get outputs by name; see `run_quantized`."""

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        encodings: Mapping[str, Encoding],
        biases: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> None:
        self._module = QuantizedGraph(TorchGraph(model).eval(), plan, encodings, biases).eval()

    def __call__(self, feeds: Arrays) -> Arrays:
        """Return every output of the model for one batch."""
        with torch.no_grad():
            answers = self._module(feeds_to_torch(feeds, self._module.graph.device))
        return {name: value.numpy() for name, value in answers.items()}

    def run(self, names: Sequence[str], feeds: Arrays) -> Arrays:
        """Return the named outputs only."""
        answers = self(feeds)
        return {name: answers[name] for name in names}

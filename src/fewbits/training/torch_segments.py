"""A graph run in segments whose inner values are computed anew in the backward pass (gradient checkpointing)."""

from collections.abc import Sequence

import torch
from torch.utils.checkpoint import checkpoint

from fewbits.errors import DataError
from fewbits.runtime.torch_graph import Hook, Step, Tensors, TorchGraph

Values = dict[str, torch.Tensor]


def run_in_segments(graph: TorchGraph, feeds: Tensors, hook: Hook, count: int) -> Values:
    """Return every output of a graph; of what it computes, gradients need memory for one segment at a time.

    What passes from one segment to the next is kept, the rest is computed a second time, with the same bits.

    Args:
        graph: to be run.
        feeds: input name -> tensor.
        hook: as for `TorchGraph`; what it does must not depend on how often it is called.
        count: segments, of about equally many nodes.

    Raises:
        DataError: an input is missing.
        ModelError: an operator cannot compute what it is given.
    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3.
    """
    missing = [name for name in graph.input_names if name not in feeds]
    if missing:
        raise DataError(f"The feeds lack the input {missing[0]!r}: the model reads {', '.join(graph.input_names)}.")

    def segment(values: Values, steps: Sequence[Step]) -> Values:
        held = dict(values)
        for step in steps:
            run_step(graph, step, held, hook)
        return held

    values = {name: feeds[name] for name in graph.input_names}
    size = -(-len(graph.steps) // count)
    for at in range(0, len(graph.steps), size):
        values = checkpoint(segment, values, graph.steps[at : at + size], use_reentrant=False, preserve_rng_state=False)
    return {name: values[name] if name in values else known(graph, name) for name in graph.output_names}


def run_step(graph: TorchGraph, step: Step, values: Values, hook: Hook) -> None:
    """Run one node: what it writes is put into `values`, and what nothing reads after it is dropped."""
    made = zip(step.writes, graph.compute(step, reads_of(graph, step, values), hook), strict=False)
    values.update((name, value) for name, value in made if name and value is not None)
    for name in step.frees:
        values.pop(name, None)


def reads_of(graph: TorchGraph, step: Step, values: Tensors) -> Values:
    """Return what a node reads: of `values`, and else of the graph's parameters and constants."""
    return {name: values[name] if name in values else known(graph, name) for name in step.reads if name}


def known(graph: TorchGraph, name: str) -> torch.Tensor:
    """Return a parameter or constant that must be there."""
    found = graph.known(name)
    assert found is not None, name
    return found

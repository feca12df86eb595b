"""Training: a quantized model in, one with trained weights, biases, scales and zero points out.

Channels are balanced before it and their statistics re-estimated behind it, both where held-out samples gain.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fewbits.improvement.blocks import find_blocks
from fewbits.improvement.result import OUTPUTS, Improved
from fewbits.improvement.torch_balance import balance, look
from fewbits.improvement.torch_improve import check_device
from fewbits.improvement.torch_walk import Start
from fewbits.numerics.affine import fake_quantize
from fewbits.quantization.layers import find_layers
from fewbits.runtime.progress import Progress
from fewbits.runtime.torch_graph import TorchGraph
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Plan, Role
from fewbits.training.schedule import LABELS, Training
from fewbits.training.torch_checkpoint import Checkpoint
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_loop import Distilled, distill
from fewbits.training.torch_samples import Samples
from fewbits.training.torch_steps import state_of
from fewbits.training.torch_trainable import Trainable
from fewbits.training.windows import open_axes

Arrays = Mapping[str, npt.NDArray[np.generic]]
_BALANCED, _REESTIMATED = 4, 16
"""Batches that ranges and gradients of channels are taken over, and those for channel statistics."""


def hint_names(model: ir.Model) -> tuple[str, ...]:
    """Return the tensors at the ends of blocks, without the outputs of the model."""
    graph = TorchGraph(model)
    layers = {layer.node for layer in find_layers(model.graph)}
    ends = [graph.steps[end - 1].writes[0] for _, end in find_blocks(graph.steps, layers, graph.input_names)]
    return tuple(name for name in dict.fromkeys(ends) if name and name not in graph.output_names)


def train_model(
    start: Start,
    feeds: Iterable[Arrays],
    training: Training,
    *,
    hints: Sequence[str] = (),
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Improved:
    """Return the current model as training leaves it: weights on their grids, and all grids but those of biases pinned.

    Args:
        start: the float model, which is the teacher; the quantized one; both hand out `hints`, too.
        feeds: what is trained on, one entry per batch, labels under `LABELS`.
        training: how long and how fast.
        hints: names of outputs that count less than those of the model.
        checkpoint: where a training that was stopped goes on; None keeps nothing.
        progress: told of every step, those of the range test included.

    Raises:
        SpecError: the device is not there, a grid cannot be trained, or windows cannot be cut.
        ModelError: the graph has an operator that the torch executor lacks, or training diverged.
        DataError: there are no samples, or their labels do not fit.
        OutputError: the checkpoint cannot be read or written.
    """
    check_device(training.device)
    samples = Samples(
        feeds, training.batch_size, training.device, axes=open_axes(start.current), window=training.window
    )
    given = start
    start, pair, first = _balanced(start, _pair(start, hints, training), samples, training)
    went = distill(pair, samples, training, checkpoint=checkpoint, progress=progress)
    told = _told(went, pair)
    went, last = _reestimated(went, pair, samples, training.seed)
    made = _student(pair).eval().finish()
    model = on_grids(made.model, start.plan, made.pinned)
    errors = {OUTPUTS: (went.before, went.after)}
    is_better = bool(first) or went.after < went.before
    changed = tuple(layer.node for layer in find_layers(model.graph)) if is_better else ()
    notes = (*first, told, *last, *samples.notes)
    floating = None if start is given else start.reference
    return Improved(model, made.pinned if changed else {}, changed, {}, errors, notes, floating)


def _pair(start: Start, hints: Sequence[str], training: Training) -> Distillation:
    teacher = TorchGraph(start.reference).eval().to(training.device)
    student = Trainable(start.current, start.plan, start.encodings).to(training.device)
    outputs = [name for name in teacher.output_names if name not in hints]
    scales = tuple(student.quantizers.parameters())
    return Distillation(student, teacher, outputs, hints, scales, with_labels=training.labels)


def _student(pair: Distillation) -> Trainable:
    assert isinstance(pair.student, Trainable)
    return pair.student


def _balanced(
    start: Start, pair: Distillation, samples: Samples, training: Training
) -> tuple[Start, Distillation, tuple[str, ...]]:
    """Give channels the sizes that suit their grids where held-out samples gain by it, and say so."""
    pair.prepare(samples)
    powers = {name: pair.powers.get(name) for name in pair.outputs}
    batches = _drawn(samples, _BALANCED, training.seed)
    seen = look(start, batches, powers, device=training.device, seed=training.seed)
    found = balance(start, seen, powers)
    if found.start is start:
        return start, pair, ()
    other = _pair(found.start, pair.hints, training)
    other.prepare(samples)
    before, after = (one.output_error(samples) for one in (pair, other))
    if not after < before:
        return start, pair, ()
    note = (
        f"Before training, channels that share a grid were brought to sizes that suit it, which changes nothing in "
        f"float, and took the error of outputs on held-out samples from {before:.4g} to {after:.4g}."
    )
    return found.start, other, (note,)


def _drawn(samples: Samples, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Return batches without their labels."""
    drawn = itertools.islice(samples.forever(seed), count)
    return [{name: value for name, value in batch.items() if name != LABELS} for batch in drawn]


def _reestimated(went: Distilled, pair: Distillation, samples: Samples, seed: int) -> tuple[Distilled, tuple[str, ...]]:
    """Give layers the channel statistics of the float network where held-out samples gain by it, and say so."""
    assert isinstance(pair.teacher, TorchGraph)
    student = _student(pair)
    trained = state_of(student)
    done = student.eval().reestimate(_drawn(samples, _REESTIMATED, seed), pair.teacher)
    loss = pair.held_out_loss(samples) if done.changed else went.after
    if not loss < went.after:
        student.load_state_dict(trained)
        return went, ()
    note = (
        f"Then {len(done.changed)} layers were given the channel means and deviations of the float model, which took "
        f"the error from {went.after:.4g} to {loss:.4g}."
    )
    return replace(went, after=loss), (note,)


def on_grids(model: ir.Model, plan: Plan, encodings: Mapping[str, Encoding]) -> ir.Model:
    """Return `model` with every planned weight on its grid, but those with several; the model itself is changed."""
    grids = Counter(grid.tensor for grid in plan.grids.values())
    for key, grid in plan.grids.items():
        if grid.role is Role.WEIGHT and grids[grid.tensor] == 1:
            value = model.graph.initializers[grid.tensor]
            assert value.const_value is not None
            array = np.asarray(fake_quantize(value.const_value.numpy(), encodings[key]), np.float32)
            value.const_value = ir.tensor(array, name=grid.tensor)
    return model


def _told(went: Distilled, pair: Distillation) -> str:
    why = f", and stopped since {went.stopped}" if went.stopped else ""
    what = {None: "", "cross-entropy": " and cross-entropy of labels", "squared-error": " and squared error of labels"}
    return (
        f"Training took {went.steps} steps at a rate of {went.rate:g} for weights and {went.scale_rate:g} for scales"
        f"{why}; on held-out samples the error of outputs and blocks{what[pair.label_loss]}, weighed in units of the "
        f"power of outputs, went from {went.before:.4g} to {went.after:.4g}."
    )

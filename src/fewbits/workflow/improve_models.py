"""How one method changes a model: which float model it aims at, what it hands back, and the subject made from that."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.improvement.absorb_bias import absorb_bias, lows_to_observe
from fewbits.improvement.channel_ranges import Ranges, channel_ranges, lows_of, tops_of
from fewbits.improvement.equalize import Clips, equalize
from fewbits.improvement.methods import Effort, Kind, Method
from fewbits.improvement.result import Improved
from fewbits.improvement.rounded_store import RoundedStore
from fewbits.improvement.smooth import smooth, tops_to_observe
from fewbits.quantization.encode import Encoded
from fewbits.quantization.layers import find_layers
from fewbits.reporting.record import versions
from fewbits.runtime.progress import Progress
from fewbits.runtime.session import Arrays
from fewbits.runtime.store import Store, key_of, noted
from fewbits.spec.plan import Plan, Role
from fewbits.training.schedule import LABELS, Training
from fewbits.workflow.calibrate import MOST_TORCH_BYTES, Calibration, batch_size_for
from fewbits.workflow.content_keys import model_key, plan_key
from fewbits.workflow.deadline import Deadline
from fewbits.workflow.quantized import Quantized
from fewbits.workflow.sessions import open_graph, with_outputs
from fewbits.workflow.source import names_in
from fewbits.workflow.subject import Subject

_WIDEST = 8
"""Bits of a weight that rounding still matters for."""
_BALANCED = 32
"""Samples in a batch that channels are balanced on."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A quantized model and the float model that its layers are to be like.

    Attributes:
        calibration: of the float companion.
        made: the quantized model.
        floating: the same graph with weights that nothing rounded.
    """

    calibration: Calibration
    made: Quantized
    floating: ir.Model


def check_clips(clips: str) -> Clips:
    """Return what becomes of Clips between layers that are equalized.

    Raises:
        SpecError: there is no such choice.
    """
    for known in get_args(Clips):
        if clips == known:
            return known  # type: ignore[no-any-return]
    raise SpecError(f"--clips is one of {', '.join(get_args(Clips))}, not {clips!r}.")


def floating_model(subject: Subject) -> tuple[ir.Model, str, tuple[str, ...]]:
    """Return the float model before any rounding, which one it is, and notes.

    Where an earlier run pinned weights, that is the model that they were rounded from, which it kept: "unrounded" where
    it gave channels other sizes, else "reference". Where nothing is pinned, it is the "companion" itself.
    """
    source = subject.source
    if source.unrounded is not None and source.pinned:
        return source.unrounded, "unrounded", ()
    if source.reference is None or not source.pinned:
        return source.model, "companion", ()
    if names_in(source.reference) == names_in(source.model):
        return source.reference, "reference", ()
    note = (
        f"{source.name!r} does not hold the float model that its weights were rounded from, so that rounding begins "
        f"from the rounded weights: start from the float model to do both anew."
    )
    return source.model, "companion", (note,)


def _values(model: ir.Model, name: str) -> np.ndarray | None:
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy().astype(np.float64)


def layers_to_round(model: ir.Model, plan: Plan) -> list[str]:
    """Return the nodes whose weights a method that rounds may change."""
    found = []
    for layer in find_layers(model.graph):
        key = plan.inputs.get((layer.node, 1))
        grid = None if key is None else plan.grids[key]
        if grid is not None and grid.role is Role.WEIGHT and grid.spec.bits <= _WIDEST:
            found.append(layer.node)
    return found


def equalized(method: Method, state: State, samples: int, clips: Clips, effort: Effort) -> Improved:
    """Return the float model with weights that are easier to quantize.

    Raises:
        SpecError: the device is not there.
        ModelError: the graph has an operator that the torch executor lacks.
        DataError: the data cannot be used.
    """
    found = _equalized(method, state, samples, clips, effort)
    return replace(found, floating=found.model if found.changed else None)


def _equalized(method: Method, state: State, samples: int, clips: Clips, effort: Effort) -> Improved:
    if method.name == "balance":
        return _balanced(state, samples, effort)
    if method.name == "smooth":
        tops = tops_of(_observed(state, state.floating, tops_to_observe(state.floating), samples))
        return smooth(state.floating, tops)
    first = equalize(state.floating, clips=clips)
    lows = lows_of(_observed(state, first.model, lows_to_observe(first.model), samples))
    second = absorb_bias(first.model, lows)
    changed = tuple(dict.fromkeys((*first.changed, *second.changed)))
    notes = (*first.notes, *second.notes)
    return Improved(second.model, {}, changed, dict(first.declined), dict(first.errors), notes)


def _balanced(state: State, samples: int, effort: Effort) -> Improved:
    from fewbits.analysis.torch_sensitivity import threads
    from fewbits.improvement.torch_balance_model import balance_model
    from fewbits.improvement.torch_walk import Start

    made, options = state.made, state.calibration.subject.options
    start = Start(state.floating, state.floating, made.plan, made.encodings)
    feeds = _feeds(state.calibration, samples, most=_BALANCED)
    with threads(options.threads):
        return balance_model(start, feeds, device=effort.device, seed=effort.seed)


def _observed(state: State, model: ir.Model, axes: Mapping[str, int], samples: int) -> Ranges:
    subject = state.calibration.subject
    if not axes:
        return {}
    runner = open_graph(with_outputs(model, tuple(axes)), subject.options)
    batches = ((batch.feeds, batch.size) for batch in subject.data.batches(state.calibration.batch_size, samples))
    return channel_ranges(runner.run, axes, batches, axes)


def rounded(
    method: Method, state: State, samples: int, effort: Effort, *, store: Store, deadline: Deadline, progress: Progress
) -> Improved:
    """Return the companion of a state with weights that one method rounded; finished layers are kept in `store`.

    Layers that were not begun at the deadline are left, and declined.

    Raises:
        SpecError: the device is not there.
        ModelError: the graph has an operator that the torch executor lacks.
        OutputError: the store, or what does not fit into memory, cannot be written.
    """
    from fewbits.analysis.torch_sensitivity import threads
    from fewbits.improvement.torch_improve import round_model
    from fewbits.improvement.torch_walk import Start

    calibration, made = state.calibration, state.made
    subject = calibration.subject
    start = Start(state.floating, subject.model, made.plan, made.encodings, made.encoded.biases)
    read: list[str] = []  # hashes of the batches: all of them are read before the first layer's turn
    kept = RoundedStore(store, lambda: _rounding_key(method, state, read, effort))
    feeds = noted(_feeds(calibration, samples), read)
    with threads(subject.options.threads):
        return round_model(method.name, start, feeds, effort, store=kept, is_late=deadline.is_over, progress=progress)


def trained(state: State, samples: int, training: Training, *, checkpoint: Path | None, progress: Progress) -> Improved:
    """Return the companion of a state with weights, and the grids of weights and activations, as they were trained.

    Where it stands is kept in the file `checkpoint` while it runs and after; None keeps nothing.

    Raises:
        SpecError: the device is not there, a grid cannot be trained, or windows cannot be cut.
        ModelError: the graph has an operator that the torch executor lacks.
        DataError: labels do not fit.
        OutputError: the checkpoint cannot be read or written.
    """
    from fewbits.analysis.torch_sensitivity import threads
    from fewbits.improvement.torch_walk import Start
    from fewbits.training.torch_checkpoint import Checkpoint
    from fewbits.training.torch_qat import hint_names, train_model

    calibration, made = state.calibration, state.made
    subject = calibration.subject
    hints = hint_names(subject.model) if training.hints else ()
    student = with_biases(subject.model, made.plan, made.encoded)
    teacher, student = (with_outputs(model, hints) for model in (state.floating, student))
    start = Start(teacher, student, made.plan, made.encodings)
    read: list[str] = []  # hashes of the batches: all of them are read before the first step
    kept = Checkpoint(checkpoint, lambda: _training_key(state, read, training))
    feeds = noted(_feeds(calibration, samples, with_labels=training.labels), read)
    with threads(subject.options.threads):
        found = train_model(start, feeds, training, hints=hints, checkpoint=kept, progress=progress)
    for model in (found.model, found.floating):
        if model is not None:
            del model.graph.outputs[len(subject.model.graph.outputs) :]
    return found


def _feeds(
    calibration: Calibration, samples: int, *, with_labels: bool = False, most: int | None = None
) -> Iterator[Arrays]:
    """Yield the data in the batches that torch runs node by node; labels, where they are wanted, under `LABELS`."""
    subject = calibration.subject
    size = batch_size_for(subject, most=MOST_TORCH_BYTES)
    size = size if most is None else min(size, most)
    for batch in subject.data.batches(size, samples):
        labels = {LABELS: batch.labels} if with_labels and batch.labels is not None else {}
        yield {**batch.feeds, **labels}


def _rounding_key(method: Method, state: State, data: Sequence[str], effort: Effort) -> str:
    """Return the content hash of all that rounded layers depend on; `data` are the hashes of the batches."""
    spent = (effort.granularity, effort.iterations, effort.seed, effort.with_activations, effort.drop)
    return key_of(*_state_parts(state), list(data), method.name, spent)


def _training_key(state: State, data: Sequence[str], training: Training) -> str:
    """Return the content hash of all that a training depends on; sums differ with the number of threads."""
    return key_of(*_state_parts(state), list(data), asdict(training), state.calibration.subject.options.threads)


def _state_parts(state: State) -> tuple[object, ...]:
    """Return what stands for a state in a content hash: versions, both models, plan and encodings."""
    models = (model_key(state.floating), model_key(state.calibration.model))
    return versions(), models, plan_key(state.made.plan, state.made.encoded)


def with_biases(model: ir.Model, plan: Plan, encoded: Encoded) -> ir.Model:
    """Return a copy of a float model with the biases of its quantized form, which make up for rounded weights."""
    copy = model.clone()
    for key, values in encoded.biases.items():
        constant = copy.graph.initializers[plan.grids[key].tensor]
        before = constant.const_value
        if before is not None and before.size == values.size:
            constant.const_value = ir.tensor(values.reshape(before.shape.numpy()), name=constant.name)
    return copy


def improved_subject(subject: Subject, found: Improved, kind: Kind) -> Subject:
    """Return the subject with the improved model, its pins, and the float model that it is compared with.

    Where weights were equalized, pins stay only of those that did not change.
    """
    pins = {**subject.source.pinned, **found.pinned}
    if kind is Kind.EQUALIZE:
        pins = {name: pin for name, pin in pins.items() if _is_same(subject.model, found.model, name)}
    unrounded = subject.source.unrounded if found.floating is None else found.floating
    source = replace(
        subject.source, model=found.model, pinned=pins, reference=subject.reference_model, unrounded=unrounded
    )
    return replace(subject, source=source, runner=open_graph(found.model, subject.options))


def _is_same(before: ir.Model, after: ir.Model, name: str) -> bool:
    left, right = _values(before, name), _values(after, name)
    return left is not None and right is not None and np.array_equal(left, right)

"""Which channels of a network must have one factor in common where channels are rescaled without changing the outputs.

A layer takes its input channels with factors of their own and gives its output channels others. What is homogeneous
(f(s x) = s f(x) for s > 0) hands factors on, sums need equal ones, Concat and Split keep theirs side by side. All that
meets another operator, an input or an output of the model keeps the factor 1.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fewbits.graph.passes.base import Declined
from fewbits.runtime.torch_graph import Step, TorchGraph

FIXED = 0
"""The class of channels that keep their size."""
_Array = TypeVar("_Array", npt.NDArray[np.float64], torch.Tensor)
Shapes = Mapping[str, tuple[int, ...]]
_SCALED, _OTHER_LAYERS = ("Conv", "Gemm"), ("ConvTranspose", "MatMul")
_HOMOGENEOUS = (
    "Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "Flatten",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScaledLayer:
    """A layer whose weight takes factors along its inputs and outputs.

    Attributes:
        node: its name.
        source, result: tensors with the channels.
        weight: name of its weight, [O, I, ...], or [I, O] where `is_turned`.
        bias: name of its bias, "" where it has none.
        groups: of a convolution, else 1.
        is_turned: whether inputs come first in the weight.
    """

    node: str
    source: str
    result: str
    weight: str
    bias: str
    groups: int = 1
    is_turned: bool = False

    def rows(self, weight: _Array) -> _Array:
        """Return the weight as [O, I, ...]; given that, as it is stored."""
        return weight.swapaxes(0, 1) if self.is_turned else weight

    def read_by(self, outputs: int, inputs: int, channels: int) -> npt.NDArray[np.int64]:
        """Return which of the channels of the source meet the elements [O, I] of the weight."""
        group = np.arange(outputs) // (outputs // self.groups)
        return group[:, None] * (channels // self.groups) + np.arange(inputs)


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels (axis 1) of a network.

    Attributes:
        classes: tensor -> class of each channel, [C]; `FIXED` is one of them.
        count: how many classes there are, `FIXED` included.
        layers: those that stand between.
        declined: node of a layer of which no channel is free -> the reason.
    """

    classes: Mapping[str, npt.NDArray[np.int64]]
    count: int
    layers: tuple[ScaledLayer, ...]
    declined: Mapping[str, str]


def find_channels(graph: TorchGraph, shapes: Shapes, kept: Mapping[str, str]) -> Channels:
    """Return the classes of channels of a graph.

    Args:
        graph: a float network.
        shapes: of every float tensor that it is fed or computes.
        kept: tensor whose channels keep their size, beside the inputs -> why; the outputs of the model among them.
    """
    found = _Union({name: shape for name, shape in shapes.items() if len(shape) >= 2 and 0 not in shape})
    readers = Counter(name for step in graph.steps for name in step.reads if name)
    layers, declined = [], dict[str, str]()
    for name, why in ({name: f"{name!r} is an input of the model" for name in graph.input_names} | dict(kept)).items():
        found.fix(name, why)
    for step in graph.steps:
        layer = None
        try:
            layer = _layer(graph, step, found.shapes, readers)
        except Declined as reason:
            declined[step.name] = str(reason)
        if layer is not None:
            layers.append(layer)
        elif not _hand_on(step, found, shapes):
            for name in (*step.reads, *step.writes):
                found.fix(name, f"{step.call.op} {step.name!r} takes its channels in the sizes that they have")
    classes, count = found.classes()
    for layer in layers:
        if not (classes[layer.source].any() or classes[layer.result].any()):
            declined[layer.node] = found.why(layer.result)
    return Channels(classes, count, tuple(layers), declined)


class _Union:
    """Sets of channels that grow together; channel c of a tensor is element start + c, element 0 of none."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes, self._start, count = shapes, dict[str, int](), 1
        for name, shape in shapes.items():
            self._start[name] = count
            count += shape[1]
        self._parents = list(range(count))
        self._fixed: dict[int, str] = {0: ""}

    def join(self, one: str, other: str, *, at: int = 0) -> None:
        """Let the channels of `one` be those of `other` from `at` on."""
        first, second = self._start[one], self._start[other] + at
        for i in range(self.shapes[one][1]):
            self._join(first + i, second + i)

    def fix(self, name: str, why: str) -> None:
        """Let the channels of a tensor keep their size; names of other values are left alone."""
        for i in range(self.shapes[name][1] if name in self.shapes else 0):
            self._fixed.setdefault(self._root(self._start[name] + i), why)

    def why(self, name: str) -> str:
        """Return why the first channel of a tensor keeps its size."""
        return self._fixed[self._root(self._start[name])]

    def classes(self) -> tuple[dict[str, npt.NDArray[np.int64]], int]:
        """Return tensor -> class of each channel, and how many there are."""
        roots = [self._root(i) for i in range(len(self._parents))]
        known, numbers = np.unique([0 if root in self._fixed else root for root in roots], return_inverse=True)
        parts = {name: numbers[at : at + self.shapes[name][1]] for name, at in self._start.items()}
        return parts, len(known)  # what is fixed is 0, which comes first

    def _join(self, one: int, other: int) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        self._parents[high] = low
        if high in self._fixed:
            self._fixed.setdefault(low, self._fixed[high])

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = i = self._parents[self._parents[i]]
        return i


def _layer(graph: TorchGraph, step: Step, shapes: Shapes, readers: Counter[str]) -> ScaledLayer | None:
    """Return a Conv or Gemm whose weight and bias are constants that nothing else reads; None for other operators.

    Raises:
        Declined: it is a layer, and cannot be rescaled.
    """
    if step.call.domain not in ("", "ai.onnx") or step.call.op not in (*_SCALED, *_OTHER_LAYERS):
        return None
    weight, bias, attributes = step.reads[1], (*step.reads, "")[2], step.call.attributes
    if step.call.op in _OTHER_LAYERS:
        if graph.known(weight) is None:
            return None
        raise Declined(f"only channels between {' and '.join(_SCALED)} are balanced, not those of {step.call.op}")
    own = [graph.known(name) for name in (weight, bias) if name]
    if any(value is None or not value.requires_grad for value in own):
        raise Declined("its weight or bias is not a constant")
    if any(readers[name] > 1 or name in graph.output_names for name in (weight, bias) if name):
        raise Declined("its weight or bias is read by another node, too")
    if step.reads[0] not in shapes or step.writes[0] not in shapes or attributes.get("transA", 0):
        raise Declined("its input or output has no channels along axis 1")
    if bias and own[1] is not None and own[1].numel() != shapes[step.writes[0]][1]:
        raise Declined("its bias has not one value per output channel")
    is_turned = step.call.op == "Gemm" and not attributes.get("transB", 0)
    groups = int(attributes.get("group", 1)) if step.call.op == "Conv" else 1
    return ScaledLayer(step.name, step.reads[0], step.writes[0], weight, bias, groups, is_turned)


def _hand_on(step: Step, found: _Union, shapes: Shapes) -> bool:
    """Join the channels that a node hands on; say whether it is one that does."""
    rule = _RULES.get(step.call.op) if step.call.domain in ("", "ai.onnx") else None
    writes = [name for name in step.writes if name in shapes]
    reads = [name for name in step.reads if name in shapes]
    if rule is None or not reads or any(name not in found.shapes for name in (*reads, *writes)):
        return False
    return rule(step, found, reads, writes)


def _alike(step: Step, found: _Union, reads: list[str], writes: list[str]) -> bool:
    """One tensor goes in, and one with the same channels comes out."""
    if len(reads) != 1 or len(writes) != 1 or step.reads[0] != reads[0]:
        return False
    if found.shapes[reads[0]][:2] != found.shapes[writes[0]][:2]:
        return False
    found.join(reads[0], writes[0])
    return True


def _sum(step: Step, found: _Union, reads: list[str], writes: list[str]) -> bool:
    """Two tensors of one shape are added."""
    if len(reads) != len(step.reads) or len({found.shapes[name] for name in (*reads, *writes)}) != 1:
        return False
    for name in reads:
        found.join(name, writes[0])
    return True


def _side_by_side(step: Step, found: _Union, reads: list[str], writes: list[str]) -> bool:
    """Parts lie side by side in one tensor: Concat writes it, Split reads it."""
    parts, named, whole = (reads, step.reads, writes[0]) if len(writes) == 1 else (writes, step.writes, reads[0])
    axis = int(step.call.attributes.get("axis", 0)) % len(found.shapes[whole])
    if len(parts) != len(named) or axis != 1:
        return False
    at = 0
    for name in parts:
        found.join(name, whole, at=at)
        at += found.shapes[name][1]
    return True


_Rule = Callable[[Step, _Union, list[str], list[str]], bool]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_HOMOGENEOUS, _alike), "Add": _sum, "Sub": _sum, "Concat": _side_by_side, "Split": _side_by_side,
}  # fmt: skip

"""Layers with weights as matrices: which input vectors and which weight rows meet in one output.

A Conv with G groups, a Gemm and a MatMul all become outputs [G, C] = weights [G, C, T, K] x inputs [G, R, K]: K inputs
per output, T independent taps (1 but for ConvTranspose), R sampled positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fewbits.graph.topology import constant, is_float32

F32 = npt.NDArray[np.float32]
_ROW_BUDGET = 4096  # inputs read per sample and layer: rows times K
_FEWEST_ROWS, _MOST_ROWS = 4, 32
_PHASES = 8  # sample i reads the positions of phase i mod 8


@dataclass(frozen=True, slots=True)
class Layer:
    """A node whose weight is constant, and how it reads its input.

    Attributes:
        node: name of the node.
        op: its operator.
        source: name of the input tensor.
        weight_shape: shape of its weight.
        groups: groups of a convolution, else 1.
        strides, dilations, pads: of a convolution (pads: begins then ends), else empty.
        transposed: Gemm: (transA, transB).
        has_bias: whether a constant bias, one value per output channel, is added to the product as it is.
    """

    node: str
    op: str
    source: str
    weight_shape: tuple[int, ...]
    groups: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    transposed: tuple[bool, bool] = (False, False)
    has_bias: bool = False

    @property
    def inputs(self) -> int:
        """K: inputs per output and tap."""
        shape = self.weight_shape
        if self.op == "Conv":
            return int(np.prod(shape[1:]))
        if self.op == "ConvTranspose":
            return shape[0] // self.groups
        return shape[1] if self.op == "Gemm" and self.transposed[1] else shape[0]

    def weight_rows(self, weight: F32) -> F32:
        """Return the weight as [G, C, T, K]."""
        groups, shape = self.groups, self.weight_shape
        if self.op == "Conv":
            return weight.reshape(groups, shape[0] // groups, 1, self.inputs)
        if self.op == "ConvTranspose":
            parts = weight.reshape(groups, self.inputs, shape[1], -1)
            return np.ascontiguousarray(parts.transpose(0, 2, 3, 1))
        rows = weight if self.op == "Gemm" and self.transposed[1] else weight.T
        return np.ascontiguousarray(rows)[None, :, None, :]

    def sample_rows(self, x: npt.NDArray[Any], first_sample: int) -> F32 | None:
        """Return sampled input vectors [G, R, K] of a batch, the same however samples are batched; None if empty."""
        most = _MOST_ROWS if self.groups == 1 else _MOST_ROWS // 4
        count = int(np.clip(_ROW_BUDGET // max(self.inputs, 1), _FEWEST_ROWS, most))
        if x.size == 0:
            return None
        if self.op == "Conv":
            return self._conv_rows(x, count, first_sample)
        if self.op == "ConvTranspose":
            images = x.reshape(x.shape[0], self.groups, self.inputs, -1)
            rows = [s[..., _positions(s.shape[-1], count, first_sample + i)] for i, s in enumerate(images)]
            return np.concatenate([r.transpose(0, 2, 1) for r in rows], axis=1)
        if self.op == "Gemm":
            return (x.T if self.transposed[0] else x)[None]
        flat = x.reshape(x.shape[0] if x.ndim > 1 else 1, -1, self.inputs)
        return np.concatenate([s[_positions(len(s), count, first_sample + i)] for i, s in enumerate(flat)])[None]

    def _conv_rows(self, x: npt.NDArray[Any], count: int, first_sample: int) -> F32 | None:
        kernel, rank = self.weight_shape[2:], len(self.strides)
        starts = tuple(-p % s for p, s in zip(self.pads[:rank], self.strides, strict=True))
        form = _Form(kernel, self.strides, self.dilations)
        if not all(form.steps(x.shape[2:], starts)):
            # no window lies inside: let it reach into the padding
            x = np.pad(x, [(0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)])
            starts = (0,) * rank
        if not all(form.steps(x.shape[2:], starts)):
            return None
        flat = x.reshape(*x.shape[:2], -1)
        rows = []
        for i, sample in enumerate(flat):
            index = _windows(form, x.shape[2:], starts, count, (first_sample + i) % _PHASES)
            patches = sample[:, index]  # [I, T, P]
            rows.append(patches.reshape(self.groups, self.inputs, -1).transpose(0, 2, 1))
        return np.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]


Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Form:
    """How the windows of a convolution lie, without its pads."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes

    def steps(self, size: Sizes, starts: Sizes) -> list[int]:
        """Return along each axis how many windows lie inside an image of `size`, the first one at `starts`."""
        axes = zip(size, starts, self.kernel, self.strides, self.dilations, strict=True)
        return [max((n - first - (k - 1) * d - 1) // step + 1, 0) for n, first, k, step, d in axes]


@lru_cache(maxsize=4096)
def _windows(form: _Form, size: Sizes, starts: Sizes, count: int, phase: int) -> npt.NDArray[np.intp]:
    """Return flat indices [T, P] of the T taps of P windows inside an image of `size`."""
    rank, steps = len(size), form.steps(size, starts)
    chosen = _positions(math.prod(steps), count, phase)
    corner = np.stack(np.unravel_index(chosen, steps)) * np.array(form.strides)[:, None] + np.array(starts)[:, None]
    grids = np.meshgrid(*[np.arange(k) * d for k, d in zip(form.kernel, form.dilations, strict=True)], indexing="ij")
    taps = np.stack(grids).reshape(rank, -1)
    return np.asarray(np.ravel_multi_index(tuple(taps[:, :, None] + corner[:, None, :]), size))


def _positions(total: int, count: int, phase: int) -> npt.NDArray[np.intp]:
    """Return `count` spread positions of `total`, other ones for each phase, without any random state."""
    if total <= count:
        return np.arange(total)
    step = total / count
    return ((np.arange(count) + (phase * 0.618034) % 1.0) * step).astype(np.intp) % total


def find_layers(graph: ir.Graph) -> tuple[Layer, ...]:
    """Return the nodes with a constant weight that can be seen as matrices (MatMul with a stacked weight cannot)."""
    found = []
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.domain in ("", "ai.onnx"):
            weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            layer = _layer(node, tuple(int(d) for d in weight.shape)) if weight is not None else None  # type: ignore[arg-type]
            if layer is not None:
                found.append(replace(layer, has_bias=_adds_bias(node)))
    return tuple(found)


def _adds_bias(node: ir.Node) -> bool:
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None or math.prod(bias.shape.numpy()[:-1]) != 1:
        return False
    return node.op_type != "Gemm" or all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))


def _layer(node: ir.Node, shape: tuple[int, ...]) -> Layer | None:
    source = node.inputs[0]
    if source is None or constant(source) is not None or not is_float32(source):
        return None
    name, attributes = str(node.name), node.attributes
    if node.op_type in ("Gemm", "MatMul"):
        transposed = (bool(attributes.get_int("transA", 0)), bool(attributes.get_int("transB", 0)))
        return Layer(name, node.op_type, str(source.name), shape, transposed=transposed) if len(shape) == 2 else None
    rank, groups = len(shape) - 2, attributes.get_int("group", 1)
    if node.op_type == "ConvTranspose":
        return Layer(name, node.op_type, str(source.name), shape, groups)
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    return Layer(
        name, "Conv", str(source.name), shape, groups,
        strides=_ints(node, "strides", (1,) * rank), dilations=_ints(node, "dilations", (1,) * rank),
        pads=_ints(node, "pads", (0,) * (2 * rank)),
    )  # fmt: skip


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in node.attributes.get_ints(name, default))

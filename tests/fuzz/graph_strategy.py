"""Random valid ONNX graphs over the operators that fewbits knows: a model and feeds for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import graph_layers as layers
import graph_moves as moves
import graph_pointwise as pointwise
import graph_rare as rare
import graph_twists as twists
import numpy as np
import onnx
from graph_draft import Draft, Tensor
from graph_names import STYLES, Namer
from hypothesis import strategies as st
from onnx import helper, numpy_helper

OPSETS = range(13, 25)
MAKERS = (
    layers.conv, layers.conv, layers.conv, layers.conv_transpose, layers.gemm, layers.gemm, layers.matmul,
    layers.matmul, layers.normalization, layers.normalization, layers.pool, layers.reduction,
    pointwise.activation, pointwise.activation, pointwise.rounding, pointwise.clip, pointwise.transcendental,
    pointwise.binary, pointwise.binary, pointwise.binary, pointwise.scaled,
    moves.reshape, moves.transpose, moves.squeeze, moves.part, moves.split, moves.concat, moves.concat, moves.spread,
    moves.resample, moves.empty, moves.indices,
    twists.tied_product, twists.tied_linear, twists.tied_embedding, twists.residual, twists.residual, twists.repeated,
    twists.island, twists.branch, *(rare.rare,) * 8,
)  # fmt: skip
WITH_BLOCKS = (
    *MAKERS, *(layers.mixing_conv,) * 12, *(layers.gemm,) * 4, *(layers.matmul,) * 6,
    *(twists.tied_product, twists.tied_linear) * 3,
)  # fmt: skip
"""The same, with more of the layers whose weights may have scales per block."""
Maker = Callable[[Draft], None]
PRECISIONS = ("w8a8", "w8a16", "w4a8", "w16a16", "fp16")
LIFTED = ("", "", *PRECISIONS, "w6a6", "fp32")
RANGES = ("minmax", "minmax", "mse", "entropy", "percentile:99.9")
TARGETS = ("qnn-htp-v73", "qnn-htp-v73", "ort-cpu")
IN_BLOCKS = {"w8a8": "w8a8g2", "w8a16": "w8a16g3", "w4a8": "w4a8g2", "w16a16": "w4a16g3", "w6a6": "w6a6g4"}
"""Precision -> one with scales per block, on a target that has them."""


@dataclass(frozen=True)
class Drawn:
    """A model, what to feed it, and how to quantize it.

    Attributes:
        model: valid ONNX.
        feeds: one batch.
        batch: how many samples that are.
        precision: of most nodes.
        lifted: precision of every `stride`-th node; empty for none.
        stride: see `lifted`.
        target: device.
        ranges: how ranges are chosen.
        is_simplified: whether preparation may use onnxslim.
        is_rerun: whether the whole way is gone twice and must give the same bytes.
    """

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    batch: int
    precision: str
    lifted: str
    stride: int
    target: str
    ranges: str
    is_simplified: bool
    is_rerun: bool

    def __repr__(self) -> str:  # what a failing test prints
        how = (f"{self.precision} + {self.lifted or 'nothing'} / {self.stride}, {self.target}, {self.ranges}, "
               f"simplify {self.is_simplified}, feeds {[(k, v.shape) for k, v in self.feeds.items()]}")  # fmt: skip
        return f"Drawn({how})\n{onnx.printer.to_text(self.model)}"


@st.composite
def drawn_graphs(
    draw: Any, most_makers: int = 12, makers: tuple[Maker, ...] = MAKERS, first_opset: int = OPSETS[0]
) -> Drawn:
    """A random graph of up to about three times `most_makers` nodes, with settings."""
    opset = draw(st.sampled_from(range(first_opset, OPSETS[-1] + 1)))
    draft = Draft(
        draw, opset, Namer(draw, draw(STYLES)), draw(st.sampled_from((1, 2, 3))),
        np.random.default_rng(draw(st.integers(0, 2**16))),
    )  # fmt: skip
    shapes = ((draft.batch, 3, 6, 6), (draft.batch, 4, 5, 5), (draft.batch, 3, 6), (draft.batch, 4), (4,), ())
    draft.new_input(*draft.one_of(*shapes))
    for _ in range(draw(st.integers(1, most_makers))):
        draft.one_of(*makers)(draft)
    return Drawn(
        _model(draft), draft.feeds, draft.batch, draft.one_of(*PRECISIONS), draft.one_of(*LIFTED),
        draft.one_of(2, 3), draft.one_of(*TARGETS), draft.one_of(*RANGES), not draft.rarely(), draft.rarely(),
    )  # fmt: skip


def drawn_in_blocks(most_makers: int = 12) -> st.SearchStrategy[Drawn]:
    """Graphs with weight scales per block where their precisions have such a form, on a target that has them."""
    return drawn_graphs(most_makers, WITH_BLOCKS).map(_in_blocks)


def _in_blocks(case: Drawn) -> Drawn:
    precision, lifted = (IN_BLOCKS.get(name, name) for name in (case.precision, case.lifted))
    return replace(case, precision=precision, lifted=lifted, target="ort-cpu")


def _model(d: Draft) -> onnx.ModelProto:
    read = {name for node in d.nodes for name in node.input}
    ends = [t for t in (*d.values, *d.sides) if t.name not in read and t not in d.inputs and not d.rarely()]
    inner = [t for t in d.values if t.name in read and t not in d.inputs]
    outputs = ends or [d.one_of(*d.values)]
    if inner and d.rarely():
        outputs.append(d.one_of(*inner))
    if d.rarely():
        outputs.append(d.one_of(*d.inputs))
    if d.constants and d.rarely():
        name = d.one_of(*d.constants)
        array = d.constants[name]
        outputs.append(Tensor(name, array.shape, kind=helper.np_dtype_to_tensor_dtype(array.dtype)))
    if d.rarely():
        d.new_input(d.batch, 3)  # which nothing reads
    outputs = list({t.name: t for t in outputs}.values())
    is_open = d.maybe()
    graph = helper.make_graph(
        d.nodes, "fuzz", [_info(t, d.batch, is_open) for t in d.inputs],
        [helper.make_tensor_value_info(t.name, t.kind, _open(t, i) if is_open else t.shape)
         for i, t in enumerate(outputs)],
        [numpy_helper.from_array(array, name) for name, array in d.constants.items()],
    )  # fmt: skip
    ir_version = 8 if d.opset < 21 else 10 if d.opset < 24 else 11
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", d.opset)], ir_version=ir_version)


def _open(tensor: Tensor, number: int) -> list[str]:
    return [f"out{number}_{axis}" for axis in range(tensor.rank)]


def _info(tensor: Tensor, batch: int, is_open: bool) -> onnx.ValueInfoProto:
    is_batched = is_open and tensor.rank > 1 and tensor.shape[0] == batch
    shape = ["batch", *tensor.shape[1:]] if is_batched else tensor.shape
    return helper.make_tensor_value_info(tensor.name, tensor.kind, shape)

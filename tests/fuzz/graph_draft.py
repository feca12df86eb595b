"""A random graph as it grows: tensors with shapes that onnx infers node by node, and a rough bound of their values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from graph_names import Namer, one_of
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64
TAME = 50.0  # above it values are not multiplied with each other any more


@dataclass(frozen=True)
class Tensor:
    """One tensor of the draft.

    Attributes:
        name: its name.
        shape: its shape for the feeds that are drawn.
        size: about how large its values get.
        kind: element type.
        is_fed: its values are those of an input, so that no rounding can tip a comparison over.
        is_positive: it holds values above zero only.
    """

    name: str
    shape: tuple[int, ...]
    size: float = 4.0
    kind: int = FLOAT
    is_fed: bool = False
    is_positive: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)


Fits = Callable[[Tensor], bool]


@dataclass
class Draft:
    """The graph so far; `draw` is hypothesis' own."""

    draw: Callable[[Any], Any]
    opset: int
    namer: Namer
    batch: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    sides: list[Tensor] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)

    def one_of(self, *options: Any) -> Any:
        return one_of(self.draw, options)

    def maybe(self) -> bool:
        return bool(self.draw(st.booleans()))

    def rarely(self) -> bool:
        return self.draw(st.integers(0, 5)) == 5

    def new_input(self, *shape: int, kind: int = FLOAT) -> Tensor:
        made = Tensor(self.namer("x"), shape, kind=kind, is_fed=True)
        form = self.one_of("normal", "normal", "normal", "positive", "negative", "zero")
        values = self.rng.standard_normal(shape).astype(np.float32)
        signed = {"positive": np.abs(values), "negative": -np.abs(values), "zero": values * 0}
        self.feeds[made.name] = np.asarray(signed.get(form, values), helper.tensor_dtype_to_np_dtype(kind))
        self.inputs.append(made)
        (self.values if kind == FLOAT else self.sides).append(made)
        return made

    def pick(self, fits: Fits = lambda t: True, *shapes: tuple[int, ...]) -> Tensor:
        """Return a float tensor that fits, rather a late one; a new input of one of `shapes` where there is none."""
        found = [t for t in self.values if t.kind == FLOAT and 0 not in t.shape and fits(t)]
        if not found or (self.rarely() and len(self.inputs) < 4 and shapes):
            return self.new_input(*self.one_of(*(shapes or ((self.batch, 4),))))
        late = found[-3:] if self.maybe() else found
        return self.one_of(*late)

    def constant(self, array: Any, stem: str = "c") -> Tensor:
        array = np.asarray(array)
        name = self.namer(stem)
        self.constants[name] = array
        size = float(np.abs(array.astype(np.float64)).max(initial=0.0))
        return Tensor(name, array.shape, size, helper.np_dtype_to_tensor_dtype(array.dtype))

    def ints(self, *numbers: int) -> Tensor:
        return self.constant(np.array(numbers, np.int64), "i")

    def normal(self, *shape: int, scale: float = 1.0, stem: str = "w") -> Tensor:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32), stem)

    def node(self, op: str, inputs: Sequence[Tensor | None], size: float | None = None, /, **more: Any) -> Tensor:
        """Append a node with one output and return it; see `several`."""
        return self.several(op, inputs, 1, size, **more)[0]

    def several(
        self, op: str, inputs: Sequence[Tensor | None], outputs: int, size: float | None = None, /, **attributes: Any
    ) -> list[Tensor]:
        """Append a node and return its outputs, which later nodes may read.

        Args:
            op: operator.
            inputs: None is an input that is left out.
            outputs: how many.
            size: about how large the results get; None is as large as the largest input.
            attributes: of the node; `like` is a tensor of the outputs' type and shape, for what onnx does not infer.
        """
        like = attributes.pop("like", None)
        names = ["" if t is None else t.name for t in inputs]
        made = [self.namer() for _ in range(outputs)]
        node = helper.make_node(op, names, made, name=self._node_name(op), **attributes)
        kinds = dict.fromkeys(made, (like.kind, like.shape)) if like is not None else self._infer(node, inputs)
        self.nodes.append(node)
        largest = max((t.size for t in inputs if t is not None), default=1.0) if size is None else size
        found = [Tensor(name, kinds[name][1], largest, kinds[name][0]) for name in made]
        for tensor in found:
            (self.values if tensor.kind == FLOAT else self.sides).append(tensor)
        return found

    def hold(self, tensor: Tensor, **facts: Any) -> Tensor:
        """Return `tensor` with more known of it, for later readers, too."""
        better = replace(tensor, **facts)
        self.values = [better if t.name == tensor.name else t for t in self.values]
        return better

    def tamed(self, tensor: Tensor, most: float = TAME) -> Tensor:
        """Return `tensor`, or something of it that is at most `most` large."""
        if tensor.size <= most:
            return tensor
        if self.maybe():
            return self.node("Tanh", [tensor], 1.0)
        return self.node("Mul", [tensor, self.constant(np.float32(most / tensor.size))], most)

    def positive(self, tensor: Tensor, least: float = 1.0) -> Tensor:
        """Return |tensor| + least."""
        size = self.node("Abs", [tensor])
        above = self.node("Add", [size, self.constant(np.float32(least))], tensor.size + least)
        return self.hold(above, is_positive=True)

    def _node_name(self, op: str) -> str:
        style = self.namer.style
        if style == "plain":
            return self.one_of("", f"{op}_{len(self.nodes)}")
        last = self.namer.taken[-1]
        return self.one_of("", "same", f"/{op}/{len(self.nodes)}", last, f"{last}_q_node", f"{last}_fp16_cast")

    def _infer(self, node: onnx.NodeProto, inputs: Sequence[Tensor | None]) -> dict[str, tuple[int, tuple[int, ...]]]:
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        types = {t.name: helper.make_tensor_type_proto(t.kind, t.shape) for t in inputs if t is not None}
        data = {t.name: numpy_helper.from_array(self.constants[t.name], t.name) for t in inputs if t is not None
                and t.name in self.constants}  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset)]
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=opsets)
        kinds = {}
        for name in node.output:
            kind = found[name].tensor_type
            assert kind.HasField("shape"), node.op_type
            assert all(dim.HasField("dim_value") for dim in kind.shape.dim), node.op_type
            kinds[name] = (kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim))
        return kinds

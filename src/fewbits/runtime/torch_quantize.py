"""Fake quantization in torch: the arithmetic of `numerics.affine` bit for bit, and a plan carried out on a graph."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fewbits.numerics.affine import broadcast_grid, stored_shape
from fewbits.runtime.torch_graph import Fusing, OnnxNamed, Step, Tensors, TorchGraph
from fewbits.spec.encodings import Encoding
from fewbits.spec.optable import NEVER_HALF
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import FP16

_WIDE_BITS = 16  # codes of more bits than this do not fit a float32


class Quantizer(nn.Module):
    """What a tensor passes on its way onto a grid; while `is_on` is False, it comes out as it went in."""

    is_on: bool

    def __init__(self) -> None:
        super().__init__()
        self.is_on = True

    def rectified(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return relu(x) as the grid holds it, or None where that is not to be had in one step."""
        return None


class FakeQuantizer(Quantizer):
    """One grid as a module: (clip(rint(x / scale) + zero_point, qmin, qmax) - zero_point) * scale.

    Gradients pass straight through inside the range and are zero outside. `is_on` switches it without rebuilding.

    Args:
        encoding: the grid.
        shape: of the tensor it is for; needed where scales differ along it (per channel, per block).
    """

    def __init__(self, encoding: Encoding, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        scale, zero_point = broadcast_grid(shape, encoding)
        spec = encoding.spec
        real = torch.float64 if spec.dtype.bits > _WIDE_BITS else torch.float32
        self.register_buffer("scale", torch.from_numpy(np.array(scale, np.float32)))
        self.register_buffer("low", torch.from_numpy(np.array(spec.qmin - zero_point)).to(real))
        self.register_buffer("high", torch.from_numpy(np.array(spec.qmax - zero_point)).to(real))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` as the grid holds it; the tensor itself while switched off."""
        if not self.is_on:
            return x
        found: torch.Tensor = _FakeQuantize.apply(x, self.scale, self.low, self.high)  # type: ignore[no-untyped-call]
        return found


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        steps = torch.round(x.to(low.dtype) / scale.to(low.dtype))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((steps >= low) & (steps <= high))
        steps = torch.clamp(steps, low, high)
        return (steps.to(x.dtype) + 0.0) * scale  # -0.0 becomes the 0.0 that a code stands for

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def as_half(x: torch.Tensor) -> torch.Tensor:
    """Return `x` rounded to float16 (what is too large becomes infinite); gradients pass straight through."""
    found: torch.Tensor = _AsHalf.apply(x)  # type: ignore[no-untyped-call]
    return found


class _AsHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.float16).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


class _ByKey(OnnxNamed):
    """Quantizers and tensors under any names: `nn.Module` itself refuses the dots that ONNX names have."""

    def set_quantizer(self, key: str, quantizer: Quantizer) -> None:
        self._modules[key] = quantizer

    def quantizer(self, key: str) -> Quantizer:
        found = self._modules[key]
        assert isinstance(found, Quantizer)
        return found

    def set_tensor(self, key: str, value: torch.Tensor) -> None:
        self._buffers[key] = value

    def tensor(self, key: str) -> torch.Tensor | None:
        return self._buffers.get(key)


class QuantizedGraph(nn.Module, Fusing):
    """A float graph with a plan carried out: what the QDQ model computes, in torch.

    Every grid of the plan is a `FakeQuantizer` in `quantizers`, under its key; `switch` turns them on and off. fp16
    nodes read and write values rounded to float16.

    Args:
        graph: the float graph; its parameters stay the float ones.
        plan: made for that graph.
        encodings: grid key -> encoding.
        biases: bias grid key -> float values that replace the graph's own.
    """

    def __init__(
        self,
        graph: TorchGraph,
        plan: Plan,
        encodings: Mapping[str, Encoding],
        biases: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.plan = plan
        self.quantizers, self.biases = _ByKey(), _ByKey()
        known = dict(graph.named_parameters())
        for key, grid in plan.grids.items():
            shape = tuple(known[grid.tensor].shape) if grid.tensor in known else ()
            if grid.role is Role.BIAS:
                shape = stored_shape(shape, encodings[key])
            self.quantizers.set_quantizer(key, FakeQuantizer(encodings[key], shape))
        for key, values in (biases or {}).items():
            self.biases.set_tensor(key, torch.from_numpy(np.array(values, np.float32)))
        self._half = {name for name, node in plan.nodes.items() if node.precision == FP16}

    def quantizer(self, key: str) -> Quantizer:
        """Return the quantizer of a grid."""
        return self.quantizers.quantizer(key)

    def switch(self, is_on: bool, keys: Iterable[str] | None = None) -> None:
        """Turn the quantizers of the named grids, or all of them, on or off."""
        for key in self.plan.grids if keys is None else keys:
            self.quantizer(key).is_on = is_on

    def forward(self, feeds: Tensors) -> dict[str, torch.Tensor]:
        """Return every output of the quantized model; see `TorchGraph`."""
        found: dict[str, torch.Tensor] = self.graph(feeds, self)
        return found

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Hook: what a node sees at an input."""
        if step.name in self._half and value.dtype == torch.float32 and (step.call.op, position) not in NEVER_HALF:
            return as_half(value)
        key = self.plan.inputs.get((step.name, position))
        if key is None:
            return value
        role = self.plan.grids[key].role
        if role is Role.BIAS and self.quantizer(key).is_on:
            stored = self.biases.tensor(key)
            if stored is not None:
                value = stored.reshape(value.shape) if stored.numel() == value.numel() else stored
        elif self.plan.outputs.get(step.reads[position]) == key:
            return value  # its producer wrote it on this grid
        found: torch.Tensor = self.quantizer(key)(value)
        return found

    def fused(self, step: Step, inputs: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """Hook: a Relu and the grid that it writes, where the quantizer takes both at once."""
        if step.call.op != "Relu" or step.name in self._half or inputs[0] is None:
            return None
        key = self.plan.outputs.get(step.writes[0])
        return None if key is None else self.quantizer(key).rectified(inputs[0])

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        """Hook: what a node hands on."""
        if step.name in self._half:
            return tuple(v if v is None or v.dtype != torch.float32 else as_half(v) for v in outputs)
        return tuple(
            value if value is None or name not in self.plan.outputs else self.quantizer(self.plan.outputs[name])(value)
            for name, value in zip(step.writes, outputs, strict=False)
        )

"""The torch executor: an nn.Module that interprets a prepared ONNX graph, for gradients and for GPUs.

Float initializers are its parameters and keep their ONNX names, so that `state_dict()` has them as the file has them.
What happens at the edges of a node (fake quantization, probes) is a `Hook`, given per call.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from fewbits.errors import DataError, MissingOperatorError, ModelError
from fewbits.graph.topology import constant, data_positions, op_rule
from fewbits.runtime.torch_operators.call import Call, Operator
from fewbits.runtime.torch_operators.table import OPERATORS, call_of

Tensors = Mapping[str, torch.Tensor]
_ORDINARY = frozenset({"", "ai.onnx"})


@dataclass(frozen=True, slots=True)
class Step:
    """One node in the order of execution.

    Attributes:
        call: operator and attributes.
        operator: the function that computes it.
        reads: name per input, "" where one is left out.
        writes: name per output, "" where one is not wanted.
        frees: names that nothing reads after this step.
    """

    call: Call
    operator: Operator
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frees: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.call.name


class Hook(Protocol):
    """What may look at, or replace, the values that pass between nodes."""

    def read(self, step: Step, position: int, value: torch.Tensor) -> torch.Tensor:
        """Return what the node sees at an input instead of `value`."""
        ...

    def wrote(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor | None, ...]:
        """Return what is handed on instead of a node's `outputs`; `inputs` are as the node saw them."""
        ...


class Fusing(ABC):
    """A hook that computes some nodes itself, together with what happens at their edges."""

    @abstractmethod
    def fused(self, step: Step, inputs: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """Return what a node with one output hands on, or None where the node is computed as usual.

        Args:
            step: the node.
            inputs: as `read` returned them.
        """


class OnnxNamed(nn.Module):
    """A module whose parameters and parts have ONNX names, whose dots `load_state_dict` takes for parts of parts."""

    def _load_from_state_dict(  # noqa: PLR0917 - as torch calls it
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        own = {prefix + name for name in (*self._parameters, *self._buffers)}
        parts = tuple(f"{prefix}{name}." for name in self._modules)
        unexpected_keys[:] = [key for key in unexpected_keys if key not in own and not key.startswith(parts)]


class TorchGraph(OnnxNamed):
    """A float ONNX graph as a module: call it with feeds by name, get outputs by name.

    Dynamic shapes come from the feeds. Float initializers that carry values are parameters under their ONNX names;
    those of layers and normalizations (weights, biases) require gradients. Shape-like constants stay on the CPU.

    Args:
        model: prepared; not changed and not kept.

    Raises:
        MissingOperatorError: the graph has an operator that the executor lacks; the message names the node.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        graph = model.graph
        self.input_names = tuple(str(value.name) for value in graph.inputs if not value.is_initializer())
        self.output_names = tuple(str(value.name) for value in graph.outputs)
        opset = graph.opset_imports.get("", 0)
        self.steps = _steps(graph, opset, set(self.output_names))
        carried, trained = _roles(graph)
        self._constants: dict[str, torch.Tensor] = {}
        for name, value in graph.initializers.items():
            tensor = channels_last(_to_torch(value))
            if name in carried and tensor.is_floating_point():
                # Module.register_parameter refuses the dots that ONNX names have; state_dict and .to() do not mind
                self._parameters[name] = nn.Parameter(tensor, requires_grad=name in trained)
            else:
                self._constants[name] = tensor

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def known(self, name: str) -> torch.Tensor | None:
        """Return the parameter or constant called `name`, or None where it is computed or fed."""
        found = self._parameters.get(name)
        return self._constants.get(name) if found is None else found

    def named_values(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the parameters under their ONNX names; `named_parameters` of an outer module would prefix them."""
        yield from ((name, parameter) for name, parameter in self._parameters.items() if parameter is not None)

    def forward(self, feeds: Tensors, hook: Hook | None = None) -> dict[str, torch.Tensor]:
        """Return every output of the graph.

        Args:
            feeds: input name -> tensor, on the module's device.
            hook: sees every value that a node reads and writes, and may replace it.

        Raises:
            DataError: an input is missing.
            ModelError: an operator cannot compute what it is given.
        """
        missing = [name for name in self.input_names if name not in feeds]
        if missing:
            raise DataError(f"The feeds lack the input {missing[0]!r}: the model reads {', '.join(self.input_names)}.")
        values: dict[str, torch.Tensor] = dict(self._constants)
        values.update((name, parameter) for name, parameter in self._parameters.items() if parameter is not None)
        values.update((name, feeds[name]) for name in self.input_names)
        for step in self.steps:
            made = zip(step.writes, self.compute(step, values, hook), strict=False)
            values.update((name, value) for name, value in made if name and value is not None)
            for name in step.frees:
                values.pop(name, None)
        return {name: values[name] for name in self.output_names}

    def compute(self, step: Step, values: Tensors, hook: Hook | None = None) -> tuple[torch.Tensor | None, ...]:
        """Return the outputs of one step, given the values that it reads by name.

        Raises:
            ModelError: the operator cannot compute what it is given.
        """
        inputs: list[torch.Tensor | None] = [values[name] if name else None for name in step.reads]
        if hook is not None:
            inputs = [None if v is None else hook.read(step, i, v) for i, v in enumerate(inputs)]
            fused = hook.fused(step, inputs) if isinstance(hook, Fusing) else None
            if fused is not None:
                return (fused,)
        try:
            found = step.operator(step.call, inputs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # torch's own checks
            shapes = ", ".join("-" if v is None else f"{v.dtype}{list(v.shape)}" for v in inputs)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"torch cannot compute {step.call.op} {step.name!r} on {shapes}: {reason}.") from error
        outputs = found if isinstance(found, tuple) else (found,)
        return outputs if hook is None else hook.wrote(step, inputs, outputs)


def feeds_to_torch(
    feeds: Mapping[str, np.ndarray[Any, Any]], device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Return arrays as tensors on `device`; of rank 4 in channels-last order, in which convolutions are faster."""
    writable = {name: np.require(value, requirements=("C", "W")) for name, value in feeds.items()}
    return {name: channels_last(torch.from_numpy(value).to(device)) for name, value in writable.items()}


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor of rank 4 in channels-last order, any other as it is."""
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _steps(graph: ir.Graph, opset: int, kept: set[str]) -> tuple[Step, ...]:
    remaining = Counter(str(v.name) for node in graph for v in node.inputs if v is not None)
    initializers = set(graph.initializers)
    steps = []
    for node in graph:
        operator = _operator(node)
        reads = tuple("" if v is None else str(v.name) for v in node.inputs)
        remaining.subtract(name for name in reads if name)
        frees = tuple({n for n in reads if n and not remaining[n] and n not in kept and n not in initializers})
        writes = tuple(str(v.name or "") for v in node.outputs)
        steps.append(Step(call_of(node, opset), operator, reads, writes, frees))
    return tuple(steps)


def check_operators(graph: ir.Graph) -> None:
    """Raise where the executor cannot run a graph for want of an operator.

    Raises:
        MissingOperatorError: the first operator that it lacks, and the node.
    """
    for node in graph:
        _operator(node)


def _operator(node: ir.Node) -> Operator:
    operator = OPERATORS.get(node.op_type) if node.domain in _ORDINARY else None
    if operator is None:
        domain = f"{node.domain}::" if node.domain not in _ORDINARY else ""
        raise MissingOperatorError(
            f"The torch executor has no operator {domain}{node.op_type}, which node {node.name!r} needs: use what runs "
            f"in onnxruntime alone (rank by brute force; of the methods that improve, cle and smooth)."
        )
    return operator


def _roles(graph: ir.Graph) -> tuple[set[str], set[str]]:
    """Return the initializers that carry values, and those of them that training changes."""
    carried, trained = set(), set()
    for node in graph:
        rule = op_rule(node)
        layer = set() if rule is None else {p for p in (rule.weight, rule.bias) if p is not None}
        data = range(len(node.inputs)) if rule is None else {*data_positions(node, rule), *layer}
        for position, value in enumerate(node.inputs):
            if value is not None and constant(value) is not None and position in data:
                carried.add(str(value.name))
                if position in layer:
                    trained.add(str(value.name))
    return carried, trained


def _to_torch(value: ir.Value) -> torch.Tensor:
    tensor = value.const_value
    if tensor is None:
        raise ModelError(f"The initializer {value.name!r} has no value: its external data may be missing.")
    array = tensor.numpy()
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise ModelError(
            f"torch has no tensors of type {tensor.dtype.name}, as the initializer {value.name!r} is."
        ) from error

"""A torch model that runs on named arrays: the reference that its ONNX form is compared with.

In: a module or program, and example inputs. Out: a `TorchModel`, called as an ONNX Runtime `Runner` is: a dict of
arrays in, a dict of arrays out. Needs torch; imported inside functions only.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fewbits.errors import DataError, ModelError
from fewbits.graph.naming import unique_name
from fewbits.runtime.data.userfile import user_code
from fewbits.runtime.torch_load import Module

Array = npt.NDArray[Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class TorchModel:
    """A module in evaluation mode, and how named arrays become its arguments.

    Attributes:
        module: what runs.
        program: the saved program that `module` was unpacked from, or None.
        names: the inputs, in the order of the call.
        arrange: tensors in the order of `names` -> (args, kwargs).
        device: where the module's weights are.
        outputs: names of the outputs; empty takes those of `output_names`.
    """

    module: nn.Module
    program: torch.export.ExportedProgram | None
    names: tuple[str, ...]
    arrange: Callable[[Sequence[Any]], Call]
    device: torch.device
    outputs: tuple[str, ...] = ()

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name.

        Raises:
            DataError: the model fails on these feeds.
            ModelError: an output is no tensor.
        """
        args, kwargs = self.arguments(feeds)
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
        with torch.no_grad(), user_code(f"The torch model, run on {shapes},", error=DataError):
            result = self.module(*args, **kwargs)
        tensors = _tensors(result)
        names = self.outputs or output_names(tensors, self.names)
        if len(names) != len(tensors):
            raise ModelError(f"The torch model has {len(tensors)} outputs, but {len(names)} output names are given.")
        return {name: _array(tensor) for name, (_, tensor) in zip(names, tensors, strict=True)}

    def arguments(self, feeds: Mapping[str, Array]) -> Call:
        """Return the call that `feeds` make."""
        return self.arrange([_tensor(feeds[name]).to(self.device) for name in self.names])


@contextmanager
def evaluating(module: Module) -> Iterator[None]:
    """Put a module into evaluation mode for the block, then every part of it back into its own mode."""
    parts = {part: part.training for part in module.modules()} if isinstance(module, nn.Module) else {}
    try:
        if isinstance(module, nn.Module):
            module.eval()
        yield
    finally:
        for part, is_training in parts.items():
            part.training = is_training


def bind(module: Module, given: Any) -> tuple[TorchModel, dict[str, Any]]:
    """Return the model for inputs given as one value, a tuple or a dict by argument name; and these values by name.

    Args:
        module: a module or a program.
        given: tensors, arrays or shapes; None takes the example inputs of a saved program.

    Raises:
        DataError: the values do not fit the arguments of `forward`, or none are given.
    """
    if isinstance(module, torch.export.ExportedProgram):
        return _bind_program(module, given)
    if given is None:
        raise DataError("No inputs are given: add --input-shape 1,3,224,224, or example_inputs in Python.")
    args, kwargs = ((), dict(given)) if isinstance(given, Mapping) else (given, {})
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise DataError(
            f"The inputs do not fit forward{signature}: {error}. Give one for each argument that has no default, in "
            f"order or by name."
        ) from None
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}_{position}": one for position, one in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    names = tuple(named)

    def arrange(tensors: Sequence[Any]) -> Call:
        return ((), dict(zip(names, tensors, strict=True))) if kwargs else (tuple(tensors), {})

    return TorchModel(module, None, names, arrange, _device(module)), named


def as_arrays(values: Mapping[str, Any]) -> dict[str, Array]:
    """Return tensors and arrays as arrays.

    Raises:
        DataError: a value is neither.
    """
    arrays = {}
    for name, value in values.items():
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise DataError(
                f"The example input {name!r} is a {type(value).__name__}, no tensor: give tensors or arrays only, and "
                f"set other arguments in a module of your own that wraps this one."
            )
        arrays[name] = _array(value) if isinstance(value, torch.Tensor) else value
    return arrays


def check_model(model: TorchModel, example: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs on the example inputs of a model that a graph can hold.

    Raises:
        ModelError: its weights are bfloat16; it changes its own state when it runs; or an output holds NaN.
        DataError: it fails on the example inputs.
    """
    tensors = dict(chain(model.module.named_parameters(), model.module.named_buffers()))
    wide = next((name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16), None)
    if wide is not None:
        raise ModelError(
            f"The weight {wide!r} is bfloat16, which onnxruntime does not compute on a CPU: convert module.float()."
        )
    versions = {name: tensor._version for name, tensor in tensors.items()}  # noqa: SLF001 - counts in-place writes
    outputs = model(example)
    written = next((name for name, tensor in tensors.items() if tensor._version != versions[name]), None)  # noqa: SLF001
    if written is not None:
        raise ModelError(
            f"The model writes to its own {written!r} when it runs, and a graph has no state: switch it to evaluation "
            f"mode before it is saved, or make the state an input and an output."
        )
    for name, array in outputs.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ModelError(
                f"Output {name!r} of the torch model holds NaN on the example inputs: load trained weights, or give "
                f"inputs that it can work with."
            )
    return outputs


def _bind_program(program: torch.export.ExportedProgram, given: Any) -> tuple[TorchModel, dict[str, Any]]:
    names = tuple(str(name) for name in program.graph_signature.user_inputs)
    if given is None:
        if program.example_inputs is None:
            raise DataError("The saved program holds no example inputs: add --input-shape, or example_inputs.")
        given = tuple(pytree.tree_leaves(program.example_inputs))
    named = dict(given) if isinstance(given, Mapping) else dict(zip(names, given, strict=False))
    if set(named) != set(names) or len(named) != len(names if isinstance(given, Mapping) else given):
        raise DataError(f"The saved program takes the inputs {', '.join(map(repr, names))}: give each of them once.")

    def arrange(tensors: Sequence[Any]) -> Call:
        args, kwargs = pytree.tree_unflatten(list(tensors), program.call_spec.in_spec)
        return args, kwargs

    module = program.module()
    return TorchModel(module, program, names, arrange, _device(module)), {name: named[name] for name in names}


def output_names(tensors: Sequence[tuple[tuple[Any, ...], torch.Tensor]], inputs: Sequence[str]) -> tuple[str, ...]:
    """Return readable names: `output`; of a tuple output_0, output_1; of a dict its keys, never those of an input."""
    if len(tensors) == 1 and not _is_named(tensors[0][0]):
        tensors = [((), tensors[0][1])]
    taken = set(inputs)
    names = []
    for path, _ in tensors:
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        names.append(unique_name("_".join(parts if _is_named(path) else ["output", *parts]), taken))
    return tuple(names)


def _is_named(path: tuple[Any, ...]) -> bool:
    return bool(path) and not isinstance(path[0], pytree.SequenceKey)


def _tensors(result: Any) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    """Return (where it is, tensor) of every output; those that are None are left out, as the exporter does."""
    found = [(tuple(path), leaf) for path, leaf in pytree.tree_flatten_with_path(result)[0] if leaf is not None]
    strange = next((type(leaf).__name__ for _, leaf in found if not isinstance(leaf, torch.Tensor)), None)
    if strange is not None or not found:
        what = f"returns a {strange}" if strange else "returns no tensor"
        raise ModelError(f"The torch model {what}: return tensors, or tuples, lists and dicts of them.")
    return found


def _device(module: nn.Module) -> torch.device:
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # a copy: torch refuses some strides, warns of read-only memory


def _array(tensor: torch.Tensor) -> Array:
    plain = tensor.detach().cpu()
    return np.array((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())

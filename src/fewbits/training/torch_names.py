"""Which entries of a user's torch module became which parameters of the ONNX graph, and values from one to the other.

A layer that a BatchNorm followed became one layer, with f = gamma / sqrt(var + eps) per output channel:

    w_graph = f w,  b_graph = f (b - mean) + beta

Back in the module the trained values are w = w_graph / f and beta = b_graph - f (b - mean); gamma, mean, var and b stay
as they are, so that it computes in evaluation mode what the float graph does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from fewbits.errors import ModelError, SpecError
from fewbits.graph.topology import op_rule
from fewbits.spec.optable import Kind

State = dict[str, torch.Tensor]
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CLOSE = 1e-4  # of the largest value: folding rounds differently here and in the exporter


@dataclass(frozen=True, slots=True)
class Folded:
    """A layer and the BatchNorm that was folded into it.

    Attributes:
        weight, bias: names in the graph.
        layer, norm: paths in the module.
    """

    weight: str
    bias: str
    layer: str
    norm: str


@dataclass(frozen=True, slots=True)
class NetNames:
    """What parameters of the graph are called in the module that it was converted from.

    Attributes:
        same: (name in the graph, entry of the module's state dict, whether it is transposed there); several entries
            where the exporter made one of what is equal.
        folded: layers with a BatchNorm.
        left: trained parameters of the graph that no entry holds, as where two layers of the module became one.
    """

    same: tuple[tuple[str, str, bool], ...]
    folded: tuple[Folded, ...]
    left: tuple[str, ...]


def find_names(net: nn.Module, model: ir.Model, trained: frozenset[str]) -> NetNames:
    """Return the names whose values agree, so that nothing is taken for something else.

    Args:
        net: as it was converted.
        model: the float graph made of it, before training.
        trained: names of the graph's parameters to find.
    """
    values = {name: _tensor(value) for name, value in model.graph.initializers.items() if name in trained}
    state = net.state_dict()
    folded = [
        one for one in _candidates(net, model) if {one.weight, one.bias} <= values.keys() and _fits(net, one, values)
    ]
    found = {name for one in folded for name in (one.weight, one.bias)}
    taken = {f"{path}.{part}" for one in folded for path in (one.layer, one.norm) for part in ("weight", "bias")}
    same: list[tuple[str, str, bool]] = []
    named = [(name, name, False) for name in values]
    learned = [entry for entry, _ in net.named_parameters(remove_duplicate=False)]  # no statistics that happen to agree
    equal = [(name, entry, False) for entry in learned for name in values]  # what the exporter made one of
    for name, entry, is_transposed in (*named, *_transposed(net, model), *equal):
        if name in values and name not in found and entry in state and entry not in taken:
            theirs = state[entry].T if is_transposed else state[entry]
            if theirs.shape == values[name].shape and torch.equal(theirs.cpu().float(), values[name]):
                same.append((name, entry, is_transposed))
                taken.add(entry)
    left = values.keys() - found - {name for name, _, _ in same}
    return NetNames(tuple(same), tuple(folded), tuple(sorted(left)))


def net_state(names: NetNames, net: nn.Module, values: Mapping[str, torch.Tensor]) -> State:
    """Return the state dict of `net` with trained values; `net` itself stays as it is.

    Args:
        names: from `find_names`.
        net: the module, or one like it.
        values: name in the graph -> value.

    Raises:
        ModelError: a trained parameter has no entry in the module.
        SpecError: the module is another one.
    """
    if names.left:
        raise ModelError(
            f"The trained parameter {names.left[0]!r} belongs to no entry of the torch module, in which its layer is "
            f"written otherwise ({len(names.left)} in all): take the trained float network from the exported folder."
        )
    _check(names, net)
    state = {key: value.detach().clone() for key, value in net.state_dict().items()}
    for name, entry, is_transposed in names.same:
        value = values[name].detach()
        _put(state, entry, value.T if is_transposed else value)
    for one in names.folded:
        factor, weight = _factor(net, one), values[one.weight].detach().cpu()
        if bool((factor == 0).any()):  # a channel that gamma had silenced
            norm = net.get_submodule(one.norm)
            assert isinstance(norm, _NORMS)
            assert norm.running_var is not None
            root = (norm.running_var.detach().cpu() + norm.eps).sqrt()
            _put(state, f"{one.norm}.weight", torch.where(factor == 0, root, norm.weight.detach().cpu()))
            factor = torch.where(factor == 0, 1.0, factor)
        _put(state, f"{one.layer}.weight", weight / _rows(factor, weight))
        _put(state, f"{one.norm}.bias", values[one.bias].detach().cpu().reshape(-1) - factor * _shift(net, one))
    return state


def graph_values(names: NetNames, net: nn.Module) -> State:
    """Return the values of `net` as the graph has them: name in the graph -> value.

    Raises:
        SpecError: the module is another one.
    """
    _check(names, net)
    state = net.state_dict()
    found: State = {}
    for name, entry, is_transposed in names.same:  # of several entries, the first has the name itself
        found.setdefault(name, state[entry].detach().T if is_transposed else state[entry].detach())
    for one in names.folded:
        found[one.weight], found[one.bias] = _folded_values(net, one)
    return found


def _candidates(net: nn.Module, model: ir.Model) -> Iterator[Folded]:
    """Yield layers whose node is named after a BatchNorm, as the exporter names what it folded."""
    parts, readers = dict(net.named_modules()), Counter(value for node in model.graph for value in node.inputs)
    for node in model.graph:
        rule, scope = op_rule(node), str(node.name).rpartition("/")[0].replace("/", ".")
        if rule is None or rule.kind is not Kind.LINEAR or len(node.inputs) < 3:
            continue
        if any(value is None or readers[value] > 1 for value in node.inputs[1:3]):
            continue
        weight, bias = (str(value.name) for value in node.inputs[1:3] if value is not None)
        layer = weight.removesuffix(".weight")
        norm = parts.get(scope)
        has_state = isinstance(norm, _NORMS) and norm.affine and norm.running_var is not None
        if has_state and isinstance(parts.get(layer), _LAYERS):
            yield Folded(weight, bias, layer, scope)


def _transposed(net: nn.Module, model: ir.Model) -> Iterator[tuple[str, str, bool]]:
    """Yield the weights of nodes that are named after a Linear, whose weight MatMul has the other way round."""
    parts = dict(net.named_modules())
    for node in model.graph:
        scope = str(node.name).rpartition("/")[0].replace("/", ".")
        if node.op_type in {"MatMul", "Gemm"} and isinstance(parts.get(scope), nn.Linear):
            value = node.inputs[1]
            if value is not None:
                yield str(value.name), f"{scope}.weight", True


def _fits(net: nn.Module, one: Folded, values: Mapping[str, torch.Tensor]) -> bool:
    for mine, theirs in zip(_folded_values(net, one), (values[one.weight], values[one.bias]), strict=True):
        if mine.shape != theirs.shape or float((mine - theirs).abs().max()) > _CLOSE * float(theirs.abs().max()):
            return False
    return True


def _folded_values(net: nn.Module, one: Folded) -> tuple[torch.Tensor, torch.Tensor]:
    layer, norm, factor = net.get_submodule(one.layer), net.get_submodule(one.norm), _factor(net, one)
    weight, beta = (part.detach().cpu() for part in (layer.weight, norm.bias) if isinstance(part, torch.Tensor))
    return weight * _rows(factor, weight), factor * _shift(net, one) + beta


def _factor(net: nn.Module, one: Folded) -> torch.Tensor:
    norm = net.get_submodule(one.norm)
    assert isinstance(norm, _NORMS)
    assert norm.running_var is not None
    return norm.weight.detach().cpu() / (norm.running_var.detach().cpu() + norm.eps).sqrt()


def _shift(net: nn.Module, one: Folded) -> torch.Tensor:
    """Return b - mean."""
    layer, norm = net.get_submodule(one.layer), net.get_submodule(one.norm)
    assert isinstance(layer, _LAYERS)
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    mean = norm.running_mean.detach().cpu()
    return -mean if layer.bias is None else layer.bias.detach().cpu() - mean


def _rows(factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return factor.reshape(-1, *[1] * (weight.ndim - 1))


def _check(names: NetNames, net: nn.Module) -> None:
    entries = [entry for _, entry, _ in names.same]
    entries += [f"{path}.weight" for one in names.folded for path in (one.layer, one.norm)]
    state = net.state_dict()
    lacking = [entry for entry in entries if entry not in state]
    if lacking:
        raise SpecError(f"The torch module has no {lacking[0]!r}: give the one that was converted, or one like it.")


def _put(state: State, entry: str, value: torch.Tensor) -> None:
    before = state[entry]
    if before.shape != value.shape:
        raise SpecError(
            f"{entry!r} has the shape {list(before.shape)} in the torch module and {list(value.shape)} in the trained "
            f"network: give the module that was converted, or one like it."
        )
    state[entry] = value.to(before.device, before.dtype).contiguous()


def _tensor(value: ir.Value) -> torch.Tensor:
    assert value.const_value is not None
    return torch.from_numpy(np.array(value.const_value.numpy(), np.float32))

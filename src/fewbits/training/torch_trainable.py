"""A plan carried out on a float graph as a module to train: weights and biases under their ONNX names, and scales."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from fewbits.errors import DataError, ModelError, SpecError
from fewbits.graph.topology import op_rule
from fewbits.quantization.biases import bias_rows, fit_bias
from fewbits.runtime.torch_fold import folded
from fewbits.runtime.torch_graph import Tensors, TorchGraph
from fewbits.runtime.torch_quantize import FakeQuantizer, QuantizedGraph, Quantizer
from fewbits.spec.dtypes import PerChannel
from fewbits.spec.encodings import Encoding
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Grid, Plan, Role
from fewbits.training.torch_lsq import LearnedQuantizer
from fewbits.training.torch_names import NetNames, find_names, graph_values, net_state
from fewbits.training.torch_reestimate import Reestimated, reestimate
from fewbits.training.torch_segments import run_in_segments


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training made.

    Attributes:
        model: the float graph with the trained weights and biases.
        encodings: grid key -> encoding, of every grid of the plan, as evaluation mode uses them.
        pinned: grid key -> encoding, of every grid but those of biases, which follow from the others: what the ordinary
            export takes as pins, so that it derives none of them anew.
    """

    model: ir.Model
    encodings: Mapping[str, Encoding]
    pinned: Mapping[str, Encoding]


class Trainable(QuantizedGraph):
    """A float graph with a plan carried out, whose weights, biases, scales and zero points are learned.

    In evaluation mode it computes what the exported model does: biases are rounded to the int32 grids that follow from
    the scales of the moment. While training, biases are float, since those grids round far below all others. Grids that
    share an encoding in the plan learn it together. Grids stay as they are where the operator fixes the range or the
    plan asks for headroom, and where `fixed` names them. A zero point stays where the grid is symmetric, and where it
    starts as the lowest or highest code, since such a range ends at zero for a reason. fp16 nodes read and write values
    rounded to float16.

    Works: `state_dict` and `load_state_dict`, alone or as a part of your own module, and optimizers' own; training goes
    on bit for bit where it was saved. `copy.deepcopy` and `torch.optim.swa_utils.AveragedModel`. `torch.autocast` with
    bfloat16: operators compute in it, grids and parameters stay float32; leave it to evaluate as the exported file
    does. Gradient checkpointing: set `segments`. `DistributedDataParallel`, the module made in every process: where
    several keep a model file, convert once and make it from the file. Any device.

    Does not: other types than float32 (`.half()`, `.to(torch.bfloat16)`, `.double()`) are refused, since grids are
    defined in it. `torch.save(module)` and pickling: save `state_dict()`. `torch.compile` gives the same bits and
    nothing in return: the graph is interpreted node by node, and compiled code is left at every quantizer, so that it
    compiles for long and runs no faster; compile what is around the module.

    Args:
        model: the float model to start from, prepared; not changed.
        plan: made for it.
        encodings: grid key -> encoding to start from.
        fixed: keys of further grids that are not learned.
        exporter: called by `export` with the module and its arguments.
        reference: the float network that `reestimate` aims at; None takes `model`.

    Attributes:
        segments: 0 keeps all that gradients need; otherwise the graph runs in as many segments while it trains, of
            which one at a time is kept and the others are computed again in the backward pass: the same bits, one more
            forward pass. The square root of the number of nodes needs the least memory.
        names: what the parameters are called in the torch module that the model was converted from; None where there
            is none.

    Raises:
        ModelError: the graph has an operator that the torch executor lacks.
        SpecError: a grid is per block or has more than 16 bits, or `fixed` names none of the plan.
    """

    codes: torch.Tensor

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        encodings: Mapping[str, Encoding],
        *,
        fixed: Collection[str] = (),
        exporter: Callable[..., Any] | None = None,
        reference: ir.Model | None = None,
    ) -> None:
        super().__init__(TorchGraph(model), plan, encodings)
        unknown = sorted(set(fixed) - set(plan.grids))
        if unknown:
            raise SpecError(f"The plan has no grid {unknown[0]!r} that could be kept fixed: name keys of its grids.")
        self.segments = 0
        self.names: NetNames | None = None
        self._origin = _Origin(model, model if reference is None else reference)
        self._exporter = exporter
        self._decayed = _multiplied(model.graph)
        known = dict(self.graph.named_values())
        kept = {plan.source(key) for key, grid in plan.grids.items() if key in fixed or _is_fixed(grid)}
        for key, grid in plan.grids.items():
            source = plan.source(key)
            if grid.role is Role.BIAS:
                continue
            if source != key and _is_equal(encodings[key], encodings[source]):
                continue
            shape = tuple(known[grid.tensor].shape) if grid.tensor in known else ()
            try:
                made = LearnedQuantizer(encodings[key], shape, role=grid.role, learns=source not in kept)
            except SpecError as error:
                raise SpecError(f"The grid {key!r} cannot be trained: {error}") from error
            self.quantizers.set_quantizer(key, made)
        self._tie(encodings)
        limits = [[grid.spec.qmin, grid.spec.qmax] for grid in plan.grids.values() if grid.role is not Role.BIAS]
        self.register_buffer("codes", torch.tensor(limits, dtype=torch.float32).reshape(-1, 2))

    def _tie(self, encodings: Mapping[str, Encoding]) -> None:
        """Let grids that copy an encoding use the quantizer of its origin, and biases those that they are scaled by."""
        for key, grid in self.plan.grids.items():
            source = self.plan.source(key)
            if grid.role is not Role.BIAS and source != key and _is_equal(encodings[key], encodings[source]):
                self.quantizers.set_quantizer(key, self._learned(source))
        for key, grid in self.plan.grids.items():
            if grid.role is Role.BIAS:
                assert grid.scaled_by is not None
                parents = (self._learned(grid.scaled_by[0]), self._learned(grid.scaled_by[1]))
                self.quantizers.set_quantizer(key, BiasQuantizer(grid, parents))

    def _learned(self, key: str) -> LearnedQuantizer:
        found = self.quantizer(key)
        assert isinstance(found, LearnedQuantizer)
        return found

    def forward(self, feeds: Tensors | torch.Tensor, *more: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every output of the model by name.

        Args:
            feeds: input name -> tensor; or the first input.
            *more: the other inputs, in the model's order.

        Raises:
            DataError: an input is missing, or there are too many.
            ModelError: an operator cannot compute what it is given.
        """
        if not isinstance(feeds, Mapping):
            given, names = (feeds, *more), self.graph.input_names
            if len(given) != len(names):
                many = f"{len(names)} inputs ({', '.join(names)})"
                raise DataError(f"The model reads {many}, and was given {len(given)}.")
            feeds = dict(zip(names, given, strict=True))
        if self.segments and self.training and torch.is_grad_enabled():
            return run_in_segments(self.graph, feeds, self, self.segments)
        return super().forward(feeds)

    def parameter_groups(
        self, lr: float, *, scale_lr: float | None = None, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return groups for an optimizer of torch: weights; biases and normalizations; scales and zero points.

        Every parameter that learns is in one group, and a parameter that grids share is there once. Scales and zero
        points are relative, so that Adam and its kin suit them: a step changes a scale by about `scale_lr` of itself.
        Under plain SGD their gradients have LSQ's size, and one rate may do for all. Schedules, gradient clipping and
        optimizers that take groups work as for any module.

        Args:
            lr: learning rate of weights, biases and normalizations.
            scale_lr: of scales and zero points, as a share of scale and range under Adam; None takes `lr`.
            weight_decay: of the weights; the others have none.
        """
        trained = {name: value for name, value in self.graph.named_values() if value.requires_grad}
        groups = {
            "weights": [value for name, value in trained.items() if name in self._decayed],
            "biases": [value for name, value in trained.items() if name not in self._decayed],
            "scales": [value for value in self.quantizers.parameters() if value.requires_grad],
        }
        scales = lr if scale_lr is None else scale_lr
        return [
            {"params": groups["weights"], "lr": lr, "weight_decay": weight_decay, "name": "weights"},
            {"params": groups["biases"], "lr": lr, "weight_decay": 0.0, "name": "biases"},
            {"params": groups["scales"], "lr": scales, "weight_decay": 0.0, "name": "scales"},
        ]

    @property
    def reference(self) -> TorchGraph:
        """A new float network, the one that the quantized network was made of, before any training."""
        return TorchGraph(self._origin.reference).eval().to(self.graph.device)

    def reestimate(self, batches: Iterable[Any], reference: TorchGraph | None = None) -> Reestimated:
        """Give layers the channel means and standard deviations that they have in the float network; reads no labels.

        What re-estimating BatchNorms is where they are folded: rows of weights, their scales and biases change, codes
        do not. It is for Conv and Gemm with a bias and a weight scale per channel. `fewbits qat` ends with it where
        held-out samples gain; in a loop of your own, call it yourself. It is for a network that was not trained, or
        trained to follow the float one. Labels move statistics for a reason, and taking them back may cost more than it
        brings, so keep it where the score says so.

        Args:
            batches: what the module is called with, without labels; all of them are held in memory.
            reference: the float network, with the same nodes; None takes the one before training.

        Raises:
            DataError: there are no batches, or one of them cannot be used.
            SpecError: the reference lacks a node.
        """
        return reestimate(self, batches, self.reference if reference is None else reference)

    def torch_state_dict(self, net: nn.Module) -> dict[str, torch.Tensor]:
        """Return a state dict with the trained values for the torch module that `from_torch` was given.

        Weights and biases are carried over, as trained and not rounded: `net` then computes in evaluation mode what the
        float graph does. Of a BatchNorm, which was folded, only the bias takes new values; its weight, running mean and
        variance stay as `net` has them. Scales and zero points have no place there. Other entries stay.

        Args:
            net: the module or one like it, with the BatchNorm statistics to keep; not changed.

        Raises:
            SpecError: this module was not made by `from_torch`, or `net` is another one.
            ModelError: a trained parameter has no entry in `net`.
        """
        return net_state(self._names(), net, dict(self.graph.named_values()))

    def load_torch(self, net: nn.Module) -> None:
        """Take over the weights and biases of the torch module that `from_torch` was given; grids stay as they are.

        BatchNorms are folded with the statistics that they have now. Trained parameters that have no entry in `net`
        stay.

        Raises:
            SpecError: this module was not made by `from_torch`, or `net` is another one.
        """
        mine = dict(self.graph.named_values())
        with torch.no_grad():
            for name, value in graph_values(self._names(), net).items():
                if mine[name].shape != value.shape:
                    raise SpecError(
                        f"{name!r} has the shape {list(mine[name].shape)} in this module and {list(value.shape)} in "
                        f"the torch module: give the one that was converted, or one like it."
                    )
                mine[name].copy_(value)

    def name_after(self, net: nn.Module) -> None:
        """Find what the parameters are called in the torch module that the model was converted from, just now."""
        trained = frozenset(name for name, value in self.graph.named_values() if value.requires_grad)
        self.names = find_names(net, self._origin.reference, trained)

    def _names(self) -> NetNames:
        if self.names is None:
            raise SpecError("This module knows no torch module: make it with fewbits.qat.from_torch.")
        return self.names

    def finish(self) -> Trained:
        """Return the model and the grids as they are now; training can go on.

        Raises:
            ModelError: a parameter became NaN or infinite.
            SpecError: the scale of a bias leaves float32.
        """
        for name, value in self.named_parameters():
            if not bool(value.isfinite().all()):
                raise ModelError(f"The parameter {name!r} became NaN or Inf in training: use a lower learning rate.")
        known = dict(self.graph.named_values())
        pinned: dict[str, Encoding] = {}
        biases: dict[str, Encoding] = {}
        for key, grid in self.plan.grids.items():
            quantizer = self.quantizer(key)
            if isinstance(quantizer, BiasQuantizer):
                biases[key] = quantizer.encoding(known[grid.tensor])
            else:
                pinned[key] = self._learned(key).encoding()
        return Trained(folded(self._origin.model, self.graph), {**pinned, **biases}, pinned)

    def export(self, output: str | Path, **options: Any) -> Any:
        """Write the artifact of the module as it is now, score the file that was written, and return the result.

        Args:
            output: folder for the files.
            options: metric, higher_is_better, eval_data, eval_samples, preprocess and progress, as in `quantize`.

        Raises:
            SpecError: the module was made without a model file, data and target to export with.
            FewbitsError: training diverged, an option cannot be used, or the folder cannot be written.
        """
        if self._exporter is None:
            raise SpecError("This module has nothing to export with: make it with fewbits.qat.trainable.")
        return self._exporter(self, output, **options)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """Move the module, as torch does; refuse another type."""
        found = fn(torch.zeros(1)).dtype
        if found != torch.float32:
            raise SpecError(
                f"A module to train stays in float32, in which its grids are defined, and cannot become {found}: use "
                f"torch.autocast to compute in fewer bits."
            )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        """Load, as torch does; refuse the state of another precision, whose tensors may well have the same shapes."""
        saved = state_dict.get(f"{prefix}codes")
        if saved is not None:
            self._check_codes(saved.cpu())
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _check_codes(self, saved: torch.Tensor) -> None:
        keys = [key for key, grid in self.plan.grids.items() if grid.role is not Role.BIAS]
        advice = "make it with the precision, profile and target of the saved one, or load its `graph` alone"
        if len(saved) != len(keys):
            raise SpecError(f"The saved state has {len(saved)} grids, and this module {len(keys)}: {advice}.")
        mine = self.codes.cpu()
        for key, theirs, own in zip(keys, saved, mine, strict=True):
            if bool(((theirs - own).abs() > 0.5).any()):  # averages of equal numbers are off by a rounding
                given, here = (f"{float(v[0]):.0f} to {float(v[1]):.0f}" for v in (theirs, own))
                raise SpecError(f"The saved grid {key!r} has the codes {given}, and this module's {here}: {advice}.")


class BiasQuantizer(Quantizer):
    """The int32 grid of a bias, which follows from the grids that it is scaled by; float passes while training.

    Args:
        grid: of the bias.
        parents: quantizers of the layer's input and weight.
    """

    def __init__(self, grid: Grid, parents: tuple[LearnedQuantizer, LearnedQuantizer]) -> None:
        super().__init__()
        self.grid = grid
        self._parents = parents  # in a tuple, so that their state is not this module's, too

    def encoding(self, value: torch.Tensor) -> Encoding:
        """Return the grid that export gives to these values.

        Raises:
            SpecError: the product of the scales leaves float32.
        """
        source, weight = (parent.encoding() for parent in self._parents)
        values = np.ascontiguousarray(value.detach().cpu().numpy())
        return fit_bias(bias_rows(values, self.grid, weight.scale.size), self.grid, source, weight)[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the bias as it is stored in evaluation mode, the tensor itself otherwise."""
        if self.training or not self.is_on:
            return x
        encoding = self.encoding(x)
        rows = x
        if isinstance(encoding.spec.granularity, PerChannel):
            rows = x.reshape(-1) if encoding.spec.granularity.axis == 0 else x
            rows = rows.expand(*rows.shape[:-1], encoding.scale.size)
        found: torch.Tensor = FakeQuantizer(encoding, tuple(rows.shape)).to(x.device)(rows)
        return found.reshape(x.shape) if found.numel() == x.numel() else found


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """The float models that training starts from and refers to, which copies of the module share."""

    model: ir.Model
    reference: ir.Model

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Origin":
        return self


def _multiplied(graph: ir.Graph) -> frozenset[str]:
    """Return the names of the tensors that layers multiply by: what weight decay is for."""
    found = set()
    for node in graph:
        rule = op_rule(node)
        if rule is not None and rule.kind is Kind.LINEAR and rule.weight is not None and len(node.inputs) > rule.weight:
            value = node.inputs[rule.weight]
            if value is not None:
                found.add(str(value.name))
    return frozenset(found)


def _is_fixed(grid: Grid) -> bool:
    """Whether a grid is decided by the operator, or leaves codes unused that learning would use."""
    return grid.fixed_range is not None or grid.headroom > 1


def _is_equal(one: Encoding, other: Encoding) -> bool:
    return (
        one.spec == other.spec
        and np.array_equal(one.scale, other.scale)
        and np.array_equal(one.zero_point, other.zero_point)
    )

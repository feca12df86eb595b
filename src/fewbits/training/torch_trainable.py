"""A plan carried out on a float graph as a module to train: weights and biases under their ONNX names, and scales."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

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
    plan asks for headroom, and where `fixed` names them. fp16 nodes read and write values rounded to float16.

    Args:
        model: the float model to start from, prepared; not changed.
        plan: made for it.
        encodings: grid key -> encoding to start from.
        fixed: keys of further grids that are not learned.
        exporter: called by `export` with the module and its arguments.

    Raises:
        ModelError: the graph has an operator that the torch executor lacks.
        SpecError: a grid is per block or has more than 16 bits, or `fixed` names none of the plan.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        encodings: Mapping[str, Encoding],
        *,
        fixed: Collection[str] = (),
        exporter: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(TorchGraph(model), plan, encodings)
        unknown = sorted(set(fixed) - set(plan.grids))
        if unknown:
            raise SpecError(f"The plan has no grid {unknown[0]!r} that could be kept fixed: name keys of its grids.")
        self._origin = _Origin(model)
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
        if isinstance(feeds, Mapping):
            return super().forward(feeds)
        given, names = (feeds, *more), self.graph.input_names
        if len(given) != len(names):
            raise DataError(f"The model reads {len(names)} inputs ({', '.join(names)}), and was given {len(given)}.")
        return super().forward(dict(zip(names, given, strict=True)))

    def parameter_groups(
        self, lr: float, *, scale_lr: float | None = None, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return groups for an optimizer of torch: weights; biases and normalizations; scales and zero points.

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
    """The float model that training starts from, which copies of the module share: nothing changes it."""

    model: ir.Model

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

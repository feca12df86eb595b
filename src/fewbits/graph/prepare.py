"""Prepare a float model: an equivalent graph that quantizes well, and the list of what changed and what was declined.

In: any loaded model. Out: a private copy at opset 21 or newer without Constant, Identity and (where exact)
BatchNormalization nodes, its shapes inferred. Tensor names of inputs and outputs are kept. What each pass does is said
in its own file; `PASSES` is the order.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.graph import foreign_types
from fewbits.graph.foreign_types import TypesOf
from fewbits.graph.load import check_finite
from fewbits.graph.naming import name_nodes
from fewbits.graph.opset import raise_opset
from fewbits.graph.passes import (
    constants,
    dead_code,
    fold_affine,
    fold_batchnorm,
    fuse_gelu,
    fuse_matmul_add,
    identities,
    lower_batchnorm,
    simplify,
    to_float32,
)
from fewbits.graph.passes.base import Pass, PassResult, Skipped
from fewbits.graph.shapes import infer_shapes

MAX_ROUNDS = 3

PASSES = (
    Pass(constants.NAME, constants.run),
    Pass(identities.NAME, identities.run),
    Pass(simplify.NAME, simplify.run),
    Pass(fuse_gelu.NAME, fuse_gelu.run),
    Pass(fuse_matmul_add.NAME, fuse_matmul_add.run),
    Pass(fold_batchnorm.NAME, fold_batchnorm.run),
    Pass(fold_affine.NAME, fold_affine.run),
    Pass(lower_batchnorm.NAME, lower_batchnorm.run),
    Pass(dead_code.NAME, dead_code.run),
)


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did over all rounds: one line per edit, and what it left in the end, with the reason."""

    name: str
    changed: tuple[str, ...]
    declined: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An equivalent graph and how it came about; `changes` holds the passes that did or declined something."""

    model: ir.Model
    changes: tuple[PassReport, ...]

    @property
    def is_changed(self) -> bool:
        """Whether any pass edited the graph."""
        return any(report.changed for report in self.changes)

    @property
    def declined(self) -> tuple[Skipped, ...]:
        """Everything that was left as it was, with the reasons, in the order of the passes."""
        return tuple(skipped for report in self.changes for skipped in report.declined)


def prepare(
    model: ir.Model,
    *,
    simplify: bool = True,
    check: Callable[[bytes], None] | None = None,
    types_of: TypesOf | None = None,
) -> Prepared:
    """Return an equivalent model that is ready to be quantized; `model` is left as it is.

    Args:
        model: from `load_model`.
        simplify: let onnxslim rewrite the graph; the other passes always run.
        check: called with the bytes of a converted or simplified model, raises if it does not run; pass a loader of
            the runtime.
        types_of: told the bytes of a model, returns type and shape of its outputs; asked about operators that onnx
            does not know.

    Raises:
        ModelError: a weight is not finite, or the shapes of the graph contradict each other.
    """
    work = model.clone()
    first = constants.run(work)
    check_finite(work)
    reports = [_take_in_float32(work)]
    reports.append(PassReport("types", (), _unusual_types(work)))
    work, raised = raise_opset(work, check=check)
    reports.append(PassReport("opset", raised.changed, raised.declined))
    infer_shapes(work)
    reports.append(_asked(work, types_of))
    passes = [_bound(row, check) for row in PASSES if simplify or row.name != "simplify"]
    reports += _run_until_stable(work, passes, first)
    foreign_types.learn(work, types_of)  # what simplification forgot
    name_nodes(work)
    return Prepared(work, tuple(report for report in reports if report.changed or report.declined))


def _bound(row: Pass, check: Callable[[bytes], None] | None) -> Pass:
    return Pass(row.name, lambda model: simplify.run(model, check)) if row.run is simplify.run else row


def _run_until_stable(model: ir.Model, passes: list[Pass], first: PassResult) -> list[PassReport]:
    """Run `passes` in order until a round changes nothing, at most MAX_ROUNDS times."""
    changed: dict[str, list[str]] = {row.name: [] for row in passes}
    declined: dict[str, tuple[Skipped, ...]] = {}
    changed[constants.NAME] += first.changed
    for _ in range(MAX_ROUNDS):
        stable = True
        for row in passes:
            result = row.run(model)
            changed[row.name] += result.changed
            declined[row.name] = result.declined
            if result.changed:
                stable = False
                infer_shapes(model)
        if stable:
            break
    return [PassReport(row.name, tuple(changed[row.name]), declined[row.name]) for row in passes]


def _take_in_float32(model: ir.Model) -> PassReport:
    """Before anything else: converters and the runtime know float32 best, and bfloat16 least."""
    result = PassResult()
    if to_float32.is_wanted(model):
        infer_shapes(model)
        result = to_float32.run(model)
    return PassReport(to_float32.NAME, result.changed, result.declined)


def _asked(model: ir.Model, types_of: TypesOf | None) -> PassReport:
    result = foreign_types.learn(model, types_of)
    return PassReport(foreign_types.NAME, result.changed, result.declined)


def _unusual_types(model: ir.Model) -> tuple[Skipped, ...]:
    kinds = Counter(
        value.const_value.dtype
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    )
    return tuple(
        Skipped(kind.name.lower(), f"{count} constants have this type, which is left as it is")
        for kind, count in kinds.items()
        if kind != ir.DataType.FLOAT
    )

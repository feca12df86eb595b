"""Rules of the diagnosis that rest on operators that bring values of different size onto one grid: Add, Sub, Concat."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from fewbits.analysis.diagnose_case import FEW_STEPS, Case, Evidence, lift_lines, number, origin
from fewbits.analysis.tensors import DEAD_SHARE, OUTLIER_RATIO, TensorFact
from fewbits.graph.optable import Kind
from fewbits.graph.topology import constant, op_rule
from fewbits.numerics.affine import F64

_ADDING = frozenset({"Add", "Sub", "Sum"})


def box_head(case: Case) -> Evidence | None:
    """A Concat at an output of the graph puts boxes and scores, or the like, on one grid."""
    for node in case.nodes:
        if node.op_type != "Concat" or not _is_at_output(node.outputs[0]):
            continue
        joined = case.network.facts.get(str(node.outputs[0].name))
        found = _unequal(case, node) or _populations(joined)
        steps = joined.steps(found[1]) if joined is not None and found is not None else None
        if joined is None or found is None or steps is None or steps >= FEW_STEPS:
            continue
        large, small = found
        sources = [origin(value) for value in node.inputs]
        makers = [str(s.producer().name) for s in sources if s is not None and s.producer() is not None]  # type: ignore[union-attr]
        groups = [case.network.owners[name].name for name in makers if name in case.network.owners]
        precision, _ = case.lifted("activations")
        return Evidence(
            joined.name,
            f"Concat {str(node.name)!r} at the output puts values up to {number(large)} and values up to "
            f"{number(small)} on one grid (boxes and scores, as a rule): the small ones keep {steps:.0f} of "
            f"{(1 << (joined.bits or 0)) - 1} steps{case.outlook('activations')}.",
            lift_lines([case.group.name, *groups], precision),
            {"large": large, "small": small, "ratio": large / small, "steps": steps},
        )
    return None


def unequal_add(case: Case) -> Evidence | None:
    """The inputs of an Add, Sub or Concat have very different ranges: the small one gets few steps of the output."""
    for node in case.nodes:
        if node.op_type not in (*_ADDING, "Concat"):
            continue
        result = case.network.grid(str(node.outputs[0].name))
        follower = result is None and next(iter(node.outputs[0].uses()), None)
        if follower and case.network.owners.get(str(follower.node.name)) is case.group:
            result = case.network.grid(str(follower.node.outputs[0].name))  # an Add and its Relu have one grid
        found = _unequal(case, node)
        if found is None or result is None or result.scale.size != 1:
            continue
        large, small = found
        names = {fact.absmax: fact.name for fact in _inputs(case, node)}
        steps = 2 * small / float(result.scale.reshape(()))
        if steps >= FEW_STEPS:
            continue
        return Evidence(
            str(node.outputs[0].name),
            f"{node.op_type} {str(node.name)!r} joins {names[large]!r}, which reaches {number(large)}, and "
            f"{names[small]!r}, which reaches {number(small)}, on one grid: the small branch keeps {steps:.0f} of its "
            f"{result.spec.qmax - result.spec.qmin} steps{case.outlook('activations')}.",
            case.lift("activations"),
            {"large": large, "small": small, "ratio": large / small, "steps": steps},
        )
    return None


def _unequal(case: Case, node: ir.Node) -> tuple[float, float] | None:
    """Return (largest, smallest) absolute maximum of a node's inputs where they are `OUTLIER_RATIO` apart."""
    reach = [fact.absmax for fact in _inputs(case, node) if fact.absmax > 0]
    if len(reach) < 2 or max(reach) <= OUTLIER_RATIO * min(reach):
        return None
    return max(reach), min(reach)


def _inputs(case: Case, node: ir.Node) -> Iterator[TensorFact]:
    """Yield the facts of what a node joins, constants left out: a small constant is no branch."""
    for value in node.inputs:
        if value is not None and constant(value) is None:
            fact = case.network.facts.get(str(value.name))
            if fact is not None:
                yield fact


def _populations(fact: TensorFact | None) -> tuple[float, float] | None:
    """Return (smallest of the large, largest of the small) channel maximum where a wide gap parts the channels."""
    if fact is None:
        return None
    reach: F64 = np.sort(fact.channel_absmax)
    reach = reach[reach > DEAD_SHARE * reach.max(initial=0.0)]
    if len(reach) < 2:
        return None
    jumps = reach[1:] / reach[:-1]
    gap = int(jumps.argmax())
    return (float(reach[-1]), float(reach[gap])) if jumps[gap] > OUTLIER_RATIO else None


def _is_at_output(value: ir.Value) -> bool:
    """Whether a value is an output of the graph, or reaches one through operators that only pass it on or join it."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return True
        for use in value.uses():
            rule = op_rule(use.node)
            if rule is not None and rule.kind in (Kind.PASS, Kind.CONCAT) and use.idx in (rule.data or (use.idx,)):
                waiting.append(use.node.outputs[0])
    return False

"""Rules of the diagnosis that rest on operators that bring values of different size onto one grid: Add, Sub, Concat."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from fewbits.analysis.diagnose_case import FEW_STEPS, Case, Evidence, lift_lines, number
from fewbits.analysis.tensors import DEAD_SHARE, OUTLIER_RATIO, TensorFact
from fewbits.graph.topology import constant, op_rule
from fewbits.numerics.affine import F64
from fewbits.spec.optable import Kind

HEAD_STEPS = 64.0
"""Scores are compared with thresholds and ranked: fewer steps than these, 6 bits, are few."""
_JOINING = frozenset({"Add", "Sub", "Sum", "Concat"})


def box_head(case: Case) -> Evidence | None:
    """A Concat at an output of the graph puts boxes and scores, or the like, on one grid."""
    for node in case.nodes:
        joined = case.network.facts.get(str(node.outputs[0].name))
        if node.op_type != "Concat" or joined is None or not _is_at_output(node.outputs[0]):
            continue
        large, small = _unequal(case, node) or _populations(joined) or (0.0, 0.0)
        steps = joined.steps(small)
        if not small or steps is None or steps >= HEAD_STEPS:
            continue
        makers = [maker for value in node.inputs if (maker := case.network.maker(value)) is not None]
        return Evidence(
            joined.name,
            f"Concat {str(node.name)!r} at the output puts values up to {number(large)} and values up to "
            f"{number(small)} on one grid (boxes and scores, as a rule): the small ones keep {steps:.0f} of "
            f"{joined.grid_steps} steps{case.outlook('activations')}.",
            lift_lines([case.group.name, *makers], case.lifted("activations")[0]),
            {"large": large, "small": small, "ratio": large / small, "steps": steps},
        )
    return None


def unequal_add(case: Case) -> Evidence | None:
    """The inputs of an Add, Sub or Concat have very different ranges: the small one gets few steps of the output."""
    for node in case.nodes:
        found = _unequal(case, node) if node.op_type in _JOINING else None
        result = _result(case, node)
        if found is None or result is None:
            continue
        (large, small), names = found, {fact.absmax: fact.name for fact in _inputs(case, node)}
        steps = result.steps(small)
        if steps is None or steps >= FEW_STEPS:
            continue
        return Evidence(
            result.name,
            f"{node.op_type} {str(node.name)!r} joins {names[large]!r}, which reaches {number(large)}, and "
            f"{names[small]!r}, which reaches {number(small)}, on one grid: the small branch keeps {steps:.0f} of its "
            f"{result.grid_steps} steps{case.outlook('activations')}.",
            case.lift_around(result.name),
            {"large": large, "small": small, "ratio": large / small, "steps": steps},
        )
    return None


def _result(case: Case, node: ir.Node) -> TensorFact | None:
    """Return the fact of what a node makes on a grid: of an Add with its Relu that is what the Relu gives."""
    value = node.outputs[0]
    fact = case.network.facts.get(str(value.name))
    follower = next((use.node for use in value.uses()), None)
    if fact is None and follower is not None and str(follower.name) in case.group.nodes:
        return case.network.facts.get(str(follower.outputs[0].name))
    return fact


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


def _populations(fact: TensorFact) -> tuple[float, float] | None:
    """Return the maximum of the large and of the small channels where a wide gap parts them."""
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

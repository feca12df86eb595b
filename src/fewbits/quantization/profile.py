"""Which precision every node runs in: the profile as the user gives it, spread over groups that must agree."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from fewbits.errors import SpecError
from fewbits.graph.opset import QDQ_OPSET
from fewbits.graph.topology import constant, data_positions, data_values, fusions, is_float32, op_rule
from fewbits.quantization.half import castable_inputs
from fewbits.quantization.read_in_float import read_in_float
from fewbits.spec.optable import FLOAT_REASONS, Kind
from fewbits.spec.plan import NodePlan
from fewbits.spec.precision import FP16, FP32, Precision
from fewbits.spec.target import Target


@dataclass(frozen=True, slots=True)
class Profile:
    """A mixed-precision assignment: one precision for all nodes, others by node name.

    Attributes:
        default: precision of every node that is not named.
        nodes: node name -> precision.
    """

    default: Precision
    nodes: Mapping[str, Precision] = field(default_factory=dict)

    @classmethod
    def parse(cls, default: str, nodes: Mapping[str, str] | None = None) -> "Profile":
        """Return the profile of precision names, `Profile.parse("w8a8", {"head": "fp16"})`."""
        return cls(Precision.parse(default), {k: Precision.parse(v) for k, v in (nodes or {}).items()})

    def __str__(self) -> str:
        return str(self.default) + (f" + {len(self.nodes)} nodes" if self.nodes else "")


def assign(
    graph: ir.Graph, profile: Profile, target: Target, half_refused: Mapping[str, str]
) -> tuple[dict[str, NodePlan], dict[ir.Node, ir.Node]]:
    """Return the precision of every node (with a reason where it must stay float32) and the fusions (follower -> head).

    Fused operators follow their head; operators that pass values through follow their producer.

    Raises:
        SpecError: the profile names a node that the graph does not have, or blocks of weights that the target lacks.
    """
    for precision in (profile.default, *profile.nodes.values()):
        if precision.block_size and not target.per_block:
            raise SpecError(
                f"Target {target.name!r} has no weights with scales per block ({precision}): write "
                f"{replace(precision, block_size=None)}, or choose a target with per_block, such as ort-cpu."
            )
    nodes = list(graph)
    missing = sorted(set(profile.nodes) - {str(n.name) for n in nodes})
    if missing:
        raise SpecError(f"The profile names the node {missing[0]!r}, which the prepared graph does not have.")
    fused = fusions(graph, target.fused, target.left_float)
    reasons = float_reasons(graph, target)
    plans: dict[str, NodePlan] = {}
    for node in nodes:
        plan = _plan_node(node, profile, target, reasons.get(node, ""), (fused, plans))
        refused = ""
        if plan.precision == FP16:
            refused = half_refused.get(str(node.name), "")
            if not castable_inputs(node, graph.opset_imports.get("", QDQ_OPSET)):
                refused = f"ONNX has no float16 {node.op_type}"
        plans[str(node.name)] = NodePlan(node.op_type, FP32, refused) if refused else plan
    return plans, fused


def _plan_node(
    node: ir.Node,
    profile: Profile,
    target: Target,
    reason: str,
    before: tuple[Mapping[ir.Node, ir.Node], Mapping[str, NodePlan]],
) -> NodePlan:
    """`before` holds follower -> head and the plans of the nodes above."""
    fused, done = before
    if reason:
        return NodePlan(node.op_type, FP32, reason)
    if node in fused:
        head = done[str(fused[node].name)]
        return NodePlan(node.op_type, head.precision, head.reason)
    rule = op_rule(node)
    source = node.inputs[0] if node.inputs else None
    if rule is not None and rule.kind is Kind.PASS and source is not None and source.producer() is not None:
        above = done.get(str(source.producer().name))  # type: ignore[union-attr]
        if above is not None and not above.reason:
            return NodePlan(node.op_type, above.precision)
    precision = profile.nodes.get(str(node.name), profile.default)
    reason = "the profile asks for fp32" if precision == FP32 else _width_reason(precision, target)
    return NodePlan(node.op_type, FP32 if reason else precision, reason)


def _width_reason(precision: Precision, target: Target) -> str:
    if precision.float_bits == 16 and not target.fp16:
        return f"{target.name} has no float16"
    return ""


def float_reasons(graph: ir.Graph, target: Target) -> dict[ir.Node, str]:
    """Return why nodes stay in float32 whatever the profile says; the others are not named."""
    data = data_values(graph)
    found = ((node, _float_reason(node, target, data)) for node in graph)
    return {**read_in_float(graph), **{node: reason for node, reason in found if reason}}


def _float_reason(node: ir.Node, target: Target, data: set[ir.Value]) -> str:
    if node.domain not in ("", "ai.onnx"):
        return f"operator {node.domain}::{node.op_type} is not part of ONNX"
    if node.op_type in target.left_float:
        return target.left_float[node.op_type]
    if any(v is not None and v.name and v.dtype is None for v in (*node.inputs, *node.outputs[:1])):
        return "the types of its tensors are not known: it follows an operator that is not part of ONNX"
    if not any(is_float32(v) for v in node.outputs):
        return "it computes no float32 values"
    rule = op_rule(node)
    if rule is None:
        return FLOAT_REASONS.get(node.op_type, f"operator {node.op_type} is not in the table of known operators")
    if not any(v in data for v in node.outputs) or not data_positions(node, rule):
        return "its values come from constants or shapes, not from data"
    if len([v for v in node.outputs if is_float32(v)]) > 1 and rule.kind is not Kind.PASS:
        return f"{node.op_type} with several outputs is not supported"
    empty = [v.name for v in node.inputs if v and (tensor := constant(v)) is not None and not tensor.size]
    if rule.weight is not None and empty:
        return f"its weight {empty[0]!r} has no elements"
    return ""

"""Diagnose: what is wrong with the groups that cost the most accuracy, in words, and what mends it.

In: a quantized network, the facts of its tensors, the sensitivity of its groups. Out: findings, worst group first. The
table RULES is the diagnosis: for each group the first rule that finds something names the cause.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from fewbits.analysis.diagnose_bits import activation_bits, sensitive, weight_bits
from fewbits.analysis.diagnose_case import Case, Evidence, Network
from fewbits.analysis.diagnose_channels import loud_activation_channel, loud_weight_channel, quiet_channel
from fewbits.analysis.diagnose_joins import box_head, unequal_add
from fewbits.analysis.diagnose_norms import unfused_normalization
from fewbits.analysis.diagnose_ranges import long_tail, mask, outlier_sample
from fewbits.analysis.sensitivity import Part, Sensitivity
from fewbits.analysis.tensors import TensorFacts
from fewbits.quantization.encode import Encoded
from fewbits.quantization.groups import Group
from fewbits.spec.plan import Plan

WORST = 10
"""Findings at most."""
LEAST_SHARE = 0.01
"""Groups that cause less than this share of all groups' errors together are left alone."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in one place, and what mends it.

    Attributes:
        group: name of the group.
        tensor: name of the tensor at fault; "" where it is no single one.
        cause: name of the rule that found it.
        sentence: for people, with its figures.
        remedy: options or lines to paste.
        figures: name -> number that the cause rests on.
    """

    group: str
    tensor: str
    cause: str
    sentence: str
    remedy: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    Attributes:
        cause: its name.
        part: of the group's error that it explains; the rule is skipped where that part carries less than a tenth.
        find: returns what it found in a group, or None.
    """

    cause: str
    part: Part
    find: Callable[[Case], Evidence | None]


RULES: tuple[Rule, ...] = (
    Rule("outlier-sample", "activations", outlier_sample),  # first: it spoils what the others look at
    Rule("mask", "activations", mask),
    Rule("unfused-normalization", "activations", unfused_normalization),
    Rule("box-head", "activations", box_head),
    Rule("unequal-add", "activations", unequal_add),
    Rule("channel-range", "weights", loud_weight_channel),
    Rule("channel-range", "activations", loud_activation_channel),
    Rule("channel-range", "activations", quiet_channel),
    Rule("long-tail", "activations", long_tail),
    Rule("weight-bits", "weights", weight_bits),
    Rule("activation-bits", "activations", activation_bits),
    Rule("sensitive", "all", sensitive),
)


def diagnose(  # noqa: PLR0917 - what the stages before have made, in their order
    graph: ir.Graph,
    plan: Plan,
    encoded: Encoded,
    facts: TensorFacts,
    sensitivity: Sensitivity,
    groups: Sequence[Group],
    *,
    precision: str,
    worst: int = WORST,
) -> tuple[Finding, ...]:
    """Return what is wrong with the worst groups, the most sensitive first.

    One thing that harms several groups (a tensor between two of them, a sample, a normalization in pieces) is named
    once, for the worst of them.

    Args:
        graph: the prepared float graph.
        plan: of the precision in question.
        encoded: its encodings.
        facts: of its tensors.
        sensitivity: of its groups, in this precision and any others; wider ones tell which would help.
        groups: of the graph.
        precision: the one in question.
        worst: findings at most.

    Raises:
        SpecError: the sensitivity does not hold the precision.
    """
    by_name = {group.name: group for group in groups}
    network = Network(
        graph, plan, encoded, facts, sensitivity, precision,
        nodes={str(node.name): node for node in graph},
        owners={node: group for group in groups for node in group.nodes},
    )  # fmt: skip
    ranked = [name for name in sensitivity.ranked(precision) if name in by_name]
    errors = {name: sensitivity.error(name, precision) for name in ranked}
    least = LEAST_SHARE * sum(errors.values())
    findings: list[Finding] = []
    named: set[tuple[str, str]] = set()
    for name in ranked:
        if len(findings) >= worst or not 0 < errors[name] >= least:
            break
        parts = (network.figure(name, "weights"), network.figure(name, "activations"))
        cause, found = _explain(Case(network, by_name[name], errors[name], *parts))
        subject = (cause, found.key or found.tensor or name)
        if subject not in named:
            named.add(subject)
            findings.append(Finding(name, found.tensor, cause, found.sentence, found.remedy, found.figures))
    return tuple(findings)


def _explain(case: Case) -> tuple[str, Evidence]:
    for rule in RULES:
        found = rule.find(case) if case.matters(rule.part) else None
        if found is not None:
            return rule.cause, found
    raise AssertionError("the last rule finds something in every group")

"""Verb inspect: what a model is made of, and what of it a target can quantize."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.artifact import names
from fewbits.graph.inspect import GraphSummary, inspect_graph
from fewbits.graph.load import load_model
from fewbits.graph.prepare import PassReport
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.spec.plan import Plan
from fewbits.spec.target import DEFAULT_TARGET, Target, load_target
from fewbits.workflow.source import ModelLike, model_name, output_folder, prepare_for

PRECISION = "w8a8"


@dataclass(frozen=True, slots=True)
class OperatorPlan:
    """One operator type of the prepared graph.

    Attributes:
        op: its type.
        nodes: how many there are.
        quantized: how many of them get grids on the target.
        reasons: why the others do not -> how many.
    """

    op: str
    nodes: int
    quantized: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class InspectResult:
    """What `inspect` found.

    Attributes:
        model: what was inspected.
        summary: inputs, outputs, operators, parameters, MACs of the model as given.
        target: device profile.
        operators: one row per operator type of the prepared graph, the most frequent first.
        changes: what preparing would do and decline.
    """

    model: str
    summary: GraphSummary
    target: str
    operators: tuple[OperatorPlan, ...]
    changes: tuple[PassReport, ...]


def inspect(
    model: ModelLike,
    *,
    target: str | Path | Target = DEFAULT_TARGET,
    dims: Mapping[str, int] | None = None,
    simplify: bool = True,
) -> InspectResult:
    """Return what a model is made of and what of it can be quantized on a target; nothing is written.

    Args:
        model: a path, bytes, a model in memory, or an output folder, whose float companion is inspected.
        target: device profile, its name, a TOML file or aimet:FILE.json.
        dims: open dimension -> size; an open batch counts as 1.
        simplify: let onnxslim rewrite the graph before planning.

    Raises:
        FewbitsError: the model or an option cannot be used.
    """
    device = load_target(target)
    folder = output_folder(model)
    graph = load_model(model if folder is None else folder / names.FLOAT)
    summary = inspect_graph(graph, dims)
    prepared = prepare_for(graph, None, simplify=simplify)
    plan = resolve(prepared.model, Profile.parse(PRECISION), device)
    return InspectResult(model_name(model), summary, device.name, _operators(plan), prepared.changes)


def _operators(plan: Plan) -> tuple[OperatorPlan, ...]:
    counts = Counter(node.op for node in plan.nodes.values())
    reasons: dict[str, Counter[str]] = {op: Counter() for op in counts}
    for node in plan.nodes.values():
        if node.reason:
            reasons[node.op][node.reason] += 1
    return tuple(
        OperatorPlan(op, count, count - reasons[op].total(), dict(reasons[op].most_common()))
        for op, count in counts.most_common()
    )

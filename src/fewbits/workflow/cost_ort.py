"""Costs measured with ONNX Runtime on this machine: the time of every group, from one profile per precision.

The network is profiled in each candidate precision as a whole. ONNX Runtime fuses, splits and renames nodes; each node
of the graph that it runs is given to the group whose node or tensor it is named after, or else to that of the nearest
node behind or before it.

Conversions are measured on tensors of the sizes that occur. Where types meet, ONNX Runtime also fuses less and changes
layouts; by what factor that raises (or lowers) the measured times is fitted to runs of a few mixed profiles.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from fewbits.analysis.cost_fit import Sample, Term, with_conversions
from fewbits.analysis.cost_layout import Layout
from fewbits.analysis.cost_probes import probe_profiles
from fewbits.analysis.costs import Costs
from fewbits.artifact.folder import temporary_folder
from fewbits.graph.save import save_model
from fewbits.runtime.profile_session import NodeTime
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_conversions import measured_conversions
from fewbits.workflow.cost_profiles import remembered_profile, remembered_time

PROBES = 4
"""Mixed profiles to run for every two activation types."""
_RIDGE = 0.1
_AFFIXES = re.compile(r"^InsertedPrecisionFreeCast_|(_token_\d+|_nchwc|/duplicated|_fp16|_(d?q)(_node)?)$")
"""What ONNX Runtime, and fewbits itself, put before and behind the names of tensors and nodes."""


def ort_latency_costs(context: CostContext, precisions: Sequence[str]) -> Costs:
    """Return microseconds per sample, measured.

    The total of a profile of one precision is the latency of that model; that of others is a prediction. Sessions run
    as for models that mix widths: one whose activations all have 16 bits is quicker than its total says, since
    ONNX Runtime then dequantizes weights once (see `SessionPolicy`).

    Args:
        context: the network, and the store that remembers what was measured on this machine.
        precisions: the candidates.

    Raises:
        SpecError: a precision cannot be, or a shape is not known.
        ModelError: onnxruntime cannot run the model in one of them.
    """
    layout = context.layout(precisions)
    spent = {name: _spent(context, layout, name) for name in layout.plans}
    fixed = min(times.get("", 0.0) for times in spent.values())

    def timed(profile: Mapping[str, str]) -> float:
        with _written(context, profile) as (_, path):
            return remembered_time(context, path, context.feeds)

    costs = Costs("ort-latency", "us", _by_group(layout, spent, fixed), {}, fixed, is_estimate=True, whole=timed)
    conversions = measured_conversions(context, layout)
    if not conversions:
        return costs
    probes = list(probe_profiles(layout, PROBES))
    with context.stages.stage("time mixed profiles", len(probes)) as told:
        samples = []
        for profile in probes:
            samples.append(Sample(profile, timed(profile)))
            told.advance(1)
    return with_conversions(costs, [Term(conversions, expected=1.0, ridge=_RIDGE)], samples)


@contextmanager
def _written(context: CostContext, profile: Mapping[str, str]) -> Iterator[tuple[ir.Model, Path]]:
    """Lend the model in a profile, in memory and as a file."""
    made = context.make(profile).model
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        save_model(made, path)
        yield made, path


def _by_group(layout: Layout, spent: Mapping[str, Mapping[str, float]], fixed: float) -> dict[str, dict[str, float]]:
    """Return group -> precision -> time; what is in no group beyond `fixed` is spread over all groups alike."""
    factors = {}
    for name, times in spent.items():
        total = sum(times.values())
        grouped = total - times.get("", 0.0)
        factors[name] = (total - fixed) / grouped if grouped > 0 else 1.0
    return {
        group.name: {name: factors[name] * spent[name].get(group.name, 0.0) for name in layout.precisions(group)}
        for group in layout.groups
    }


def _spent(context: CostContext, layout: Layout, precision: str) -> dict[str, float]:
    """Return group ("" for none) -> microseconds in the network that is in one precision as a whole."""
    profile = {group.name: precision for group in layout.groups}
    with context.stages.stage(f"profile {precision}"), _written(context, profile) as (model, path):
        nodes = remembered_profile(context, path, context.feeds).nodes
    owners = groups_of(model.graph, layout, nodes)
    found: dict[str, float] = {}
    for node, owner in zip(nodes, owners, strict=True):
        found[owner] = found.get(owner, 0.0) + node.us
    return found


def groups_of(quantized: ir.Graph, layout: Layout, nodes: Sequence[NodeTime]) -> list[str]:
    """Return for each node of an optimized graph the group that it belongs to, "" for none.

    Args:
        quantized: the graph before ONNX Runtime optimized it.
        layout: of the float graph that it was made from.
        nodes: of the optimized graph, in the order in which they run.
    """
    names = _names(quantized, layout)
    found = [next((names[n] for n in _candidates(node) if n in names), None) for node in nodes]
    # what ORT made up itself, such as the body of a function, belongs to what comes behind it, or else before it
    readers = {name: i for i in reversed(range(len(nodes))) for name in nodes[i].inputs}
    writers = {name: i for i, node in enumerate(nodes) for name in node.outputs}
    for i in reversed(range(len(nodes))):
        found[i] = _first(found, i, [readers[name] for name in nodes[i].outputs if name in readers])
    for i, node in enumerate(nodes):
        found[i] = _first(found, i, [writers[name] for name in node.inputs if name in writers])
    return [owner or "" for owner in found]


def _first(found: Sequence[str | None], index: int, neighbours: Iterable[int]) -> str | None:
    """Return the group of a node, or the first that a neighbour of it has."""
    return next((owner for i in (index, *neighbours) if (owner := found[i]) is not None), None)


def _names(quantized: ir.Graph, layout: Layout) -> dict[str, str]:
    """Return node or tensor of a QDQ graph -> its group, "" for those that are in none.

    A grid belongs to the group that writes on it; that of a constant, or of what comes from no group, to its reader.
    """
    found: dict[ir.Node, str] = {}
    nodes = list(quantized)
    inserted = {node for node in nodes if str(node.name) not in layout.nodes}
    for node in nodes:
        above = node.inputs[0].producer() if node in inserted and node.inputs[0] is not None else None
        found[node] = layout.owners.get(str(node.name), "") if above is None else found[above]
    for node in reversed(nodes):
        if node in inserted and not found[node]:
            below = (found[use.node] for value in node.outputs for use in value.uses() if use.node in found)
            found[node] = next((owner for owner in below if owner), "")
    names = {str(node.name): owner for node, owner in found.items()}
    return names | {str(value.name): owner for node, owner in found.items() for value in node.outputs}


def _candidates(node: NodeTime) -> Iterable[str]:
    """Yield the names under which a node may be known, with what was put before and behind them taken off."""
    for name in (node.name, *node.outputs):
        known, shorter = "", name
        while shorter and shorter != known:
            yield shorter
            known, shorter = shorter, _AFFIXES.sub("", shorter, count=1)

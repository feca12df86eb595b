"""Rules of the diagnosis for channels of very different ranges under one scale."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fewbits.analysis.diagnose_case import FEW_STEPS, Case, Evidence, number
from fewbits.analysis.tensors import DEAD_SHARE, OUTLIER_RATIO, TensorFact
from fewbits.graph.topology import constant
from fewbits.numerics.affine import F64
from fewbits.spec.dtypes import PerTensor

LOUD_MEAN = 4.0
"""A channel is loud throughout when its mean magnitude is this many times the median channel's."""
CRUSHED_STEPS = 8.0
"""A quiet channel is crushed below so many steps: 3 bits."""


def loud_weight_channel(case: Case) -> Evidence | None:
    """One channel of a weight is far wider than the others under one scale."""
    for node, fact, grid in case.weight_facts():
        if not isinstance(grid.spec.granularity, PerTensor) or not fact.outlier_channels:
            continue
        steps = 2 * fact.channel_median / float(grid.scale.reshape(()))
        if steps < FEW_STEPS:
            why = f"The weight of {node.op_type} {str(node.name)!r} has one scale here{case.outlook('weights')}."
            words = (grid.spec.qmax - grid.spec.qmin, why, case.lift("weights"))
            return _loud_evidence(fact, fact.outlier_channels, steps, words)
    return None


def loud_activation_channel(case: Case) -> Evidence | None:
    """One channel of an activation is far wider than the others, and not in a few elements only."""
    loud = [(fact, channels) for fact in case.activation_facts() if (channels := _loud_throughout(fact))]
    crushed = [(f, c) for f, c in loud if (steps := f.steps(f.channel_median)) is not None and steps < FEW_STEPS]
    if not crushed:
        return None
    fact, channels = max(crushed, key=lambda found: found[1][0][1])
    words = (fact.grid_steps, f"An activation has one scale{case.outlook('activations')}.", case.lift_around(fact.name))
    return _loud_evidence(fact, channels, fact.steps(fact.channel_median) or 0.0, words)


def _loud_throughout(fact: TensorFact) -> list[tuple[int, float]]:
    """Return the outlier channels whose mean magnitude stands out, too: in the others a few elements do."""
    means = np.array(fact.channel_mean)
    if not fact.outlier_channels:
        return []
    typical = float(np.median(means[means > 0]))
    return [(i, ratio) for i, ratio in fact.outlier_channels if i < len(means) and means[i] > LOUD_MEAN * typical]


def _loud_evidence(
    fact: TensorFact, loud: Sequence[tuple[int, float]], steps: float, words: tuple[int, str, str]
) -> Evidence:
    """Return the evidence of loud channels, the loudest first; `words` are the grid's steps, the reason, the remedy."""
    (channel, ratio), (codes, why, remedy) = loud[0], words
    others = f" ({len(loud) - 1} more stand{'s' if len(loud) == 2 else ''} out)" if len(loud) > 1 else ""
    kept = f"{steps:.0f}" if steps >= 1 else "less than 1"
    return Evidence(
        fact.name,
        f"Channel {channel} of {fact.name!r} reaches {number(ratio * fact.channel_median)}{others}, the median channel "
        f"{number(fact.channel_median)}, {number(ratio)} times less: under one scale the others keep {kept} of {codes} "
        f"steps. {why}",
        remedy,
        {"channel": float(channel), "ratio": ratio, "median": fact.channel_median, "steps": steps},
    )


def quiet_channel(case: Case) -> Evidence | None:
    """A channel of a layer's input has few steps, and large weights make it count as much as the others.

    The layer may be in this group, or read what the group makes: the grid is the matter of both.
    """
    made = [value for node in case.nodes for value in node.outputs]
    readers = [use.node for value in made for use in value.uses() if use.idx == 0]
    for node in dict.fromkeys((*case.nodes, *readers)):
        value = node.inputs[0] if node.inputs else None
        fact = case.network.facts.get(str(value.name)) if value is not None else None
        gain = input_gain(node)
        if fact is None or fact.scale is None or gain is None or len(gain) != fact.channels:
            continue
        reach, gain = fact.channel_absmax, gain[: len(fact.channel_low)]
        alive = reach > DEAD_SHARE * reach.max(initial=0.0)
        steps = reach * (2 if fact.low < 0 else 1) / fact.scale
        is_heard = reach * gain > np.median((reach * gain)[alive]) / 2 if alive.any() else alive
        is_quiet = OUTLIER_RATIO * reach < np.median(reach[alive]) if alive.any() else alive
        crushed = alive & is_heard & is_quiet & (steps < CRUSHED_STEPS)
        if crushed.any():
            channel = int(np.argmax(np.where(crushed, gain, 0.0)))
            figures = {
                "channel": float(channel),
                "absmax": float(reach[channel]),
                "steps": float(steps[channel]),
                "gain": float(gain[channel] / np.median(gain[alive])),
                "channels": float(crushed.sum()),
            }
            return Evidence(fact.name, _quiet(case, node, fact, figures), case.lift_around(fact.name), figures)
    return None


def _quiet(case: Case, node: ir.Node, fact: TensorFact, figures: dict[str, float]) -> str:
    count = int(figures["channels"])
    others = f"; {count - 1} more {'is' if count == 2 else 'are'} alike" if count > 1 else ""
    return (
        f"Channel {figures['channel']:.0f} of {fact.name!r} reaches only {number(figures['absmax'])}, "
        f"{figures['steps']:.1f} of {fact.grid_steps} steps, and {node.op_type} {str(node.name)!r} weighs "
        f"it {number(figures['gain'])} times as much as the median channel, its rounding too{others}"
        f"{case.outlook('activations')}."
    )


def input_gain(node: ir.Node) -> F64 | None:
    """Return by how much each input channel of a layer with constant weights is amplified at most, [inputs].

    That is the largest sum of magnitudes over the taps, among the outputs that read the channel. None for operators
    other than Conv, Gemm and MatMul with a matrix.
    """
    stored = constant(node.inputs[1]) if len(node.inputs) > 1 and node.op_type in ("Conv", "Gemm", "MatMul") else None
    weight = np.abs(stored.numpy()).astype(np.float64) if stored is not None else None
    if weight is None or weight.ndim < 2:
        return None
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        taps = weight.reshape(*weight.shape[:2], -1).sum(axis=2)  # [outputs, inputs / groups]
        return np.asarray(taps.reshape(groups, -1, weight.shape[1]).max(axis=1).ravel())
    if weight.ndim != 2 or (node.op_type == "Gemm" and node.attributes.get_int("transA", 0)):
        return None
    is_transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return np.asarray(weight.max(axis=0 if is_transposed else 1))

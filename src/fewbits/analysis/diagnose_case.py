"""What the rules of a diagnosis look at: one group at a time, with its tensors, their grids and its error."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from fewbits.analysis.sensitivity import Part, Sensitivity
from fewbits.analysis.tensors import TensorFact, TensorFacts
from fewbits.graph.topology import constant, is_float32, op_rule
from fewbits.quantization.encode import Encoded
from fewbits.quantization.groups import Group
from fewbits.spec.dtypes import DType
from fewbits.spec.encodings import Encoding
from fewbits.spec.optable import Kind
from fewbits.spec.plan import Plan, Role
from fewbits.spec.precision import Precision
from fewbits.spec.target import load_target, target_names

FEW_STEPS = 32
"""Below so many steps values count as crushed: 5 bits, the fewest that networks commonly bear."""
CLEAR_GAIN = 4.0
"""A wider precision is worth naming when it divides the group's error by this (6 dB, one bit)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rule found in a group.

    Attributes:
        tensor: the tensor at fault; "" where it is no single one.
        sentence: for people, with its figures.
        remedy: options or lines to paste.
        figures: name -> number that the cause rests on.
        key: what is at fault, when it is not the tensor: the same thing is named once.
    """

    tensor: str
    sentence: str
    remedy: str
    figures: Mapping[str, float]
    key: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A quantized network and what is known of it.

    Attributes:
        graph: the prepared float graph.
        plan: of the precision in question.
        encoded: its encodings.
        facts: of its tensors.
        sensitivity: of its groups.
        precision: name of the precision in question.
        nodes: node name -> node.
        owners: node name -> its group.
    """

    graph: ir.Graph
    plan: Plan
    encoded: Encoded
    facts: TensorFacts
    sensitivity: Sensitivity
    precision: str
    nodes: Mapping[str, ir.Node]
    owners: Mapping[str, Group]

    def allows(self, precision: str) -> bool:
        """Whether the target has weights as wide as a precision wants them; a target from a file is taken to."""
        wanted = Precision.parse(precision)
        if wanted.is_float or self.plan.target not in target_names():
            return True
        return DType.container(wanted.weight_bits, signed=True) in load_target(self.plan.target).weight_types

    def maker(self, value: ir.Value | None) -> str | None:
        """Return the name of the group that computes a value, past operators that only pass it on; None for none."""
        node = value.producer() if value is not None else None
        while node is not None and (rule := op_rule(node)) is not None and rule.kind is Kind.PASS and node.inputs[0]:
            above = node.inputs[0].producer()
            if above is None:
                break
            node = above
        group = self.owners.get(str(node.name)) if node is not None else None
        return group.name if group is not None else None

    def around(self, tensor: str) -> tuple[str, ...]:
        """Return the names of the groups that make or read a tensor, past operators that pass its values on."""
        start = next(v for node in self.nodes.values() for v in (*node.inputs, *node.outputs) if v and v.name == tensor)
        waiting, found = [start], [start.producer()]
        while waiting:
            for use in waiting.pop().uses():
                found.append(use.node)
                rule = op_rule(use.node)
                if rule is not None and rule.kind is Kind.PASS and use.idx == 0:
                    waiting += use.node.outputs
        names = (str(node.name) for node in found if node is not None)
        return tuple(dict.fromkeys(self.owners[name].name for name in names if name in self.owners))

    def figure(self, group: str, part: Part) -> float | None:
        """Return the error of a group's part in the precision in question, where it was found."""
        found = self.sensitivity.figures.get((group, self.precision, part))
        return found.error if found is not None else None


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One group of a network.

    Attributes:
        network: that it is in.
        group: the group.
        error: relative output error that quantizing it alone causes.
        weights: the part of it that weights cause; None where it is not known.
        activations: the part of it that activations cause; None likewise.
    """

    network: Network
    group: Group
    error: float
    weights: float | None
    activations: float | None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The nodes of the group."""
        return tuple(self.network.nodes[name] for name in self.group.nodes)

    def matters(self, part: Part) -> bool:
        """Whether a part carries a tenth of the group's error, or its figure is not known."""
        found = {"weights": self.weights, "activations": self.activations, "all": self.error}[part]
        others = [value for value in (self.weights, self.activations) if value is not None]
        return found is None or found >= 0.1 * max(others, default=0.0)

    def weight_facts(self) -> Iterator[tuple[ir.Node, TensorFact, Encoding]]:
        """Yield (reader, fact, grid) for every weight that the group reads on a grid."""
        for node in self.nodes:
            for position, value in enumerate(node.inputs):
                key = self.network.plan.inputs.get((str(node.name), position))
                fact = self.network.facts.get(str(value.name)) if value is not None else None
                if key is not None and fact is not None and self.network.plan.grids[key].role is Role.WEIGHT:
                    yield node, fact, self.network.encoded.encodings[key]

    def activation_facts(self) -> list[TensorFact]:
        """Return the facts of what the group writes, then of what it reads, on grids of one scale; each once."""
        written = [value for node in self.nodes for value in node.outputs]
        read = [value for node in self.nodes for value in node.inputs]
        names = dict.fromkeys(str(v.name) for v in (*written, *read) if is_float32(v) and constant(v) is None and v)
        facts = (self.network.facts.get(name) for name in names)
        return [fact for fact in facts if fact is not None and fact.role == "activation" and fact.scale is not None]

    def lifted(self, part: Part) -> tuple[str, float | None]:
        """Return the precision to lift this group to, and its error there where that was found.

        The cheapest of the precisions of the sensitivity that makes the error clearly smaller; where none of them does,
        the one that widens `part`.
        """
        known = self.network.sensitivity
        others = sorted((p for p in known.precisions if p != self.network.precision), key=_cost)
        for precision in others:
            if (self.group.name, precision, "all") in known.figures:
                error = known.error(self.group.name, precision)
                if error * CLEAR_GAIN <= self.error:
                    return precision, error
        wider = widened(self.network.precision, part)
        return (wider if self.network.allows(wider) else "fp16"), None

    def lift(self, part: Part) -> str:
        """Return the remedy that runs this group in a wider precision."""
        return lift_lines([self.group.name], self.lifted(part)[0])

    def lift_around(self, tensor: str) -> str:
        """Return the remedy that puts an activation on a wider grid for all: in the groups that make and read it."""
        return lift_lines((self.group.name, *self.network.around(tensor)), self.lifted("activations")[0])

    def outlook(self, part: Part) -> str:
        """Return what the wider precision leaves, as the end of a sentence; empty where it was not measured."""
        precision, error = self.lifted(part)
        return f"; in {precision} it leaves {decibels(error)}" if error is not None else ""


def lift_lines(groups: Iterable[str], precision: str) -> str:
    """Return how to run `groups` (by name) in `precision`.

    >>> lift_lines(["conv3"], "w8a16")
    '--profile lift.toml, with the line "conv3" = "w8a16" in it'
    """
    lines = [f'{json.dumps(group, ensure_ascii=False)} = "{precision}"' for group in dict.fromkeys(groups)]
    return f"--profile lift.toml, with the line{'s' if len(lines) > 1 else ''} {', '.join(lines)} in it"


def widened(precision: str, part: Part) -> str:
    """Return the precision with 16 bits in one part, or the next that is wider where it has them.

    >>> widened("w8a8", "activations"), widened("w4a8", "weights"), widened("w8a16", "activations")
    ('w8a16', 'w8a8', 'fp16')
    """
    now = Precision.parse(precision)
    if now.is_float:
        return "fp32"
    if part == "weights" and now.weight_bits < 8:
        return str(replace(now, weight_bits=8))
    if part == "weights" and now.weight_bits == 8:
        return str(Precision(16, 16))  # devices with 16-bit weights want activations as wide
    if part != "weights" and now.activation_bits < 16:
        return str(replace(now, activation_bits=16))
    return "fp16"


def _cost(precision: str) -> tuple[int, int]:
    found = Precision.parse(precision)
    weight, activation = (found.float_bits or found.weight_bits), (found.float_bits or found.activation_bits)
    return weight * activation, activation


def decibels(error: float | None) -> str:
    """Return an error as SQNR in words.

    >>> decibels(0.01), decibels(0.0), decibels(None)
    ('20.0 dB', 'no error', 'an unknown error')
    """
    if error is None:
        return "an unknown error"
    if error <= 0:
        return "no error"
    return "nothing of the signal" if math.isinf(error) else f"{-10 * math.log10(error):.1f} dB"


def number(value: float) -> str:
    """Return a figure with three digits.

    >>> number(12.3456), number(0.00012), number(-1e9), number(1000)
    ('12.3', '0.00012', '-1e+09', '1000')
    """
    return f"{value:.4g}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"


def names_of(nodes: Sequence[ir.Node]) -> str:
    """Return nodes as the words of a sentence: their number, the first and the last.

    >>> names_of([ir.Node("", op, [], name=op.lower()) for op in ("Sub", "Pow", "Sqrt")])
    "3 operators ('sub' to 'sqrt')"
    """
    return f"{len(nodes)} operators ({str(nodes[0].name)!r} to {str(nodes[-1].name)!r})"

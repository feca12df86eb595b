"""Recurrent layers, step by step: RNN, GRU and LSTM, in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn.functional import linear

from fewbits.errors import ModelError
from fewbits.runtime.torch_operators.arguments import ints, lacks, needed, optional
from fewbits.runtime.torch_operators.call import Call, Inputs, Operator

_FUNCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu
}  # fmt: skip
_DEFAULTS = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DIRECTIONS = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}

State: TypeAlias = tuple[torch.Tensor, ...]
"""What is carried from step to step, [batch, hidden] each: the output, and the cell of an LSTM."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """One direction of a layer.

    Attributes:
        op: RNN, GRU or LSTM.
        functions: its activations.
        recurrent: weights of the state, [gates x hidden, hidden].
        bias: of input and of state, [gates x hidden] each.
        peepholes: of an LSTM, [3 x hidden]; None where it has none.
        is_reset_late: a GRU resets behind its product instead of before.
    """

    op: str
    functions: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    recurrent: torch.Tensor
    bias: tuple[torch.Tensor, torch.Tensor]
    peepholes: torch.Tensor | None
    is_reset_late: bool

    def step(self, given: torch.Tensor, state: State) -> State:
        """Return the next state; `given` is x W^T + Wb of one time step."""
        return {"RNN": self._rnn, "GRU": self._gru, "LSTM": self._lstm}[self.op](given, state)

    def _rnn(self, given: torch.Tensor, state: State) -> State:
        return (self.functions[0](given + linear(state[0], self.recurrent, self.bias[1])),)

    def _gru(self, given: torch.Tensor, state: State) -> State:
        before, size = state[0], 2 * self.recurrent.shape[1]
        gate, activation = self.functions
        both = gate(given[:, :size] + linear(before, self.recurrent[:size], self.bias[1][:size]))
        update, reset = both.chunk(2, dim=1)
        weight, bias = self.recurrent[size:], self.bias[1][size:]
        late = reset * linear(before, weight, bias) if self.is_reset_late else linear(reset * before, weight, bias)
        new = activation(given[:, size:] + late)
        return ((1 - update) * new + update * before,)

    def _lstm(self, given: torch.Tensor, state: State) -> State:
        before, cell = state
        gate, activation, last = self.functions
        i, o, f, c = (given + linear(before, self.recurrent, self.bias[1])).chunk(4, dim=1)
        to_i, to_o, to_f = (0.0, 0.0, 0.0) if self.peepholes is None else self.peepholes.chunk(3)
        new = gate(f + to_f * cell) * cell + gate(i + to_i * cell) * activation(c)
        return gate(o + to_o * new) * last(new), new


def recurrent(call: Call, inputs: Inputs) -> tuple[torch.Tensor | None, ...]:
    """Return Y [steps, directions, batch, hidden], and the last states [directions, batch, hidden].

    Source: ONNX RNN-14, GRU-14, LSTM-14, with `layout`, `sequence_lens` and peepholes; without `clip` and
    `input_forget`.
    """
    x, is_batch_first = needed(call, inputs, 0), bool(call.attributes.get("layout", 0))
    x = x.transpose(0, 1) if is_batch_first else x
    directions = _direction(call)
    active = _active(x, optional(inputs, 4))
    made = [_run(call, inputs, x, (number, way), active) for number, way in enumerate(directions)]
    y = torch.stack([one for one, _ in made], dim=1)
    last = [torch.stack(parts) for parts in zip(*(state for _, state in made), strict=True)]
    if is_batch_first:
        y, last = y.permute(2, 0, 1, 3), [one.transpose(0, 1) for one in last]
    return (y, *last)[: len(call.outputs)]


def _run(
    call: Call, inputs: Inputs, x: torch.Tensor, which: tuple[int, int], active: torch.Tensor | None
) -> tuple[torch.Tensor, State]:
    """Return one direction's outputs [steps, batch, hidden] and its last state."""
    number, way = which
    cell, state = _cell(call, inputs, x, number), _begin(call, inputs, x, number)
    given = linear(x, needed(call, inputs, 1)[number], cell.bias[0])
    found: list[torch.Tensor] = [state[0]] * len(x)
    for step in range(len(x))[::way]:
        new = cell.step(given[step], state)
        if active is None:
            state, found[step] = new, new[0]
        else:  # behind its end a sequence keeps its state, and its output is zero
            goes_on = active[step]
            state = tuple(torch.where(goes_on, one, old) for one, old in zip(new, state, strict=True))
            found[step] = torch.where(goes_on, new[0], torch.zeros_like(new[0]))
    return torch.stack(found) if found else x.new_zeros(0, x.shape[1], state[0].shape[1]), state


def _direction(call: Call) -> tuple[int, ...]:
    name = call.attributes.get("direction", "forward")
    if name not in _DIRECTIONS:
        raise ModelError(
            f"{call.op} {call.name!r} has the direction {name!r}: the model is not valid; mend its export."
        )
    return _DIRECTIONS[name]


def _cell(call: Call, inputs: Inputs, x: torch.Tensor, number: int) -> _Cell:
    for name in ("clip", "input_forget"):
        if call.attributes.get(name, 0):
            raise lacks(call, name)
    defaults = _DEFAULTS[call.op]
    named = tuple(name.lower() for name in call.attributes.get("activations", ())) or defaults * 2
    wanted = named[number * len(defaults) : (number + 1) * len(defaults)]
    if unknown := [name for name in wanted if name not in _FUNCTIONS]:
        raise lacks(call, f"the activation {unknown[0]!r}")
    weight = needed(call, inputs, 2)[number]
    size = _GATES[call.op] * weight.shape[1]
    both = optional(inputs, 3)
    bias = x.new_zeros(2 * size) if both is None else both[number]
    holes = optional(inputs, 7) if call.op == "LSTM" else None
    return _Cell(
        call.op, tuple(_FUNCTIONS[name] for name in wanted), weight, (bias[:size], bias[size:]),
        None if holes is None else holes[number], bool(call.attributes.get("linear_before_reset", 0)),
    )  # fmt: skip


def _begin(call: Call, inputs: Inputs, x: torch.Tensor, number: int) -> State:
    hidden = needed(call, inputs, 2).shape[2]
    states = []
    for position in (5, 6) if call.op == "LSTM" else (5,):
        given = optional(inputs, position)
        if given is None:
            states.append(x.new_zeros(x.shape[1], hidden))
        else:
            states.append(given[:, number] if call.attributes.get("layout", 0) else given[number])
    return tuple(states)


def _active(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor | None:
    """Return for every step and sequence whether it is before the end, [steps, batch, 1]; None where all are."""
    if lengths is None or min(ints(lengths), default=len(x)) >= len(x):
        return None
    steps = torch.arange(len(x), device=x.device)
    return (steps[:, None] < lengths.to(x.device)[None, :])[..., None]


OPERATORS: Mapping[str, Operator] = dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent)

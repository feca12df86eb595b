"""bias-correction: the codes stay, and each bias takes the value of least error behind the activation function.

Nagel et al. 2019, Data-Free Quantization through Weight Equalization and Bias Correction, section 4.2, keeps the
mean of a layer's output as it was. Behind a Relu that is not the best: where a channel is seldom above zero the error
of its weights lifts the mean of what comes out, and those means add up from layer to layer. So the loss here is the
squared error of act(w x + b) over rows that the layer reads in the quantized model; the bias that keeps the mean, and
the one that is there, are where the search begins, and the latter stays where nothing is better.

Biases that are best for their layers may still leave the network's outputs worse, and then all of them stay.
"""

from dataclasses import dataclass, replace

import torch

from fewbits.improvement.layer_case import LayerCase, Rounded
from fewbits.improvement.torch_activation import Act, activation_after, is_identity
from fewbits.improvement.torch_layers import LayerLeftError, LayerWalk
from fewbits.improvement.torch_walk import FLOAT, QUANTIZED, Walk
from fewbits.numerics.output_error import RelativeOutputError
from fewbits.runtime.torch_graph import Step

_MOST_ELEMENTS = 4_000_000  # values of the output that a layer's loss is taken over
_HALVINGS = 7  # of the step, which begins at the deviation of the output's error
_MOVES = (-1.0, -0.5, 0.5, 1.0)
_PRESENT = "present"  # the stream of outputs as they were


def correct_bias(layers: LayerWalk, step: Step) -> Rounded:
    """Return the present codes of a layer with the bias of least error; the present bias where none is better.

    Args:
        layers: the walk, which stands before `step`.
        step: a node with a weight.

    Raises:
        LayerLeftError: the layer has no bias that could change, or the data say nothing of it.
    """
    layer = layers.layers[step.name]
    if not layers.gives_rows(layer):
        why = "the outputs of a ConvTranspose are sums of several rows" if layer.has_bias else "it has none of its own"
        raise LayerLeftError(f"its bias cannot be corrected: {why}")
    case = layers.case(step)
    found = case.present
    loss = _loss_of(layers, step, case, found)
    shape = loss.given.shape[0], 1, loss.given.shape[2]
    present = torch.from_numpy(layers.walk.values_of(step.reads[2]).copy()).to(loss.given).reshape(shape)
    best, before, after = loss.least(present)
    return replace(found, before=before, after=after, bias=best.cpu().numpy().ravel())


def _loss_of(layers: LayerWalk, step: Step, case: LayerCase, found: Rounded) -> "_Loss":
    groups, channels, _, inputs = case.weights.shape
    weight = torch.from_numpy(found.weights).reshape(found.codes.shape)
    count = max(_MOST_ELEMENTS // (groups * max(channels, inputs)), 1)
    given, wanted = [], []
    for x, y in layers.rows(step, count):
        given.append(x @ weight.to(x).transpose(1, 2))
        wanted.append(y)
    return _Loss(torch.cat(given, 1), torch.cat(wanted, 1), activation_after(layers.walk.floating, step, case.layer))


@dataclass(eq=False)
class _Loss:
    """Squared error of act(given + b) against act(wanted), per channel.

    Attributes:
        given: w x in the quantized model, [G, R, C].
        wanted: w x + b in the float model, [G, R, C].
        act: the function that follows.
    """

    given: torch.Tensor
    wanted: torch.Tensor
    act: Act

    def least(self, present: torch.Tensor) -> tuple[torch.Tensor, float, float]:
        """Return the bias [G, 1, C] of least loss, and the losses before and after, over the power of the output."""
        target = self.act(self.wanted)
        power = float((target - target.mean(1, keepdim=True)).pow(2).mean()) or 1.0
        error = self.wanted - self.given
        best = present
        first = least = self._of(best, target)
        best, least = self._better(best, least, error.mean(1, keepdim=True), target)
        if not is_identity(self.act):
            step = error.std(1, keepdim=True, unbiased=False)
            for _ in range(_HALVINGS):
                for move in _MOVES:
                    best, least = self._better(best, least, best + move * step, target)
                step = step / 2
        return best, float(first.mean()) / power, float(least.mean()) / power

    def _of(self, bias: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self.act(self.given + bias) - target).pow(2).mean(1, keepdim=True)

    def _better(
        self, best: torch.Tensor, least: torch.Tensor, trial: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._of(trial, target)
        is_better = found < least
        return torch.where(is_better, trial, best), torch.where(is_better, found, least)


@dataclass(eq=False)
class OutputCheck:
    """Compares the network's outputs before and after a walk, on the data of the walk.

    Attributes:
        walk: stands before its first node when this is made.
    """

    walk: Walk

    def __post_init__(self) -> None:
        walk = self.walk
        with torch.no_grad():
            for batch in walk.batches:
                feeds = {name: walk.value(QUANTIZED, name, batch) for name in walk.floating.input_names}
                for name, value in walk.quantized(feeds).items():
                    walk.cache.put(_PRESENT, name, batch, value)

    def objection(self) -> str | None:
        """Return why the result of a walk that came to its end is no gain; None where it is one."""
        before, after = self._error(_PRESENT), self._error(QUANTIZED)
        if before is None or after is None or after < before:
            return None
        return f"together with the other biases the error of the outputs would go from {before:.4g} to {after:.4g}"

    def _error(self, stream: str) -> float | None:
        """Return the relative error of the outputs of a stream; None where none can be compared."""
        walk, names = self.walk, self.walk.floating.output_names
        error = RelativeOutputError(names, "power")
        for batch in walk.batches:
            wanted = {name: walk.value(FLOAT, name, batch).cpu().numpy() for name in names}
            read = walk.cache.get if stream == _PRESENT else walk.value
            given = {name: read(stream, name, batch).cpu().numpy() for name in names}
            error.update(wanted, given)
            for name in names:
                walk.cache.drop(_PRESENT, name, batch)
        return error.value

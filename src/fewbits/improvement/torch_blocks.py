"""Block reconstruction: the codes, scales and biases of a block's layers are learned together on the block's output.

Li et al. 2021, BRECQ: what one layer of a block does wrong another can make up for, which no layer by itself sees. The
start is what `gptq` finds layer by layer. Codes are learned with hard rounding in the forward pass and gradients that
pass straight through it (Bengio et al. 2013), so that what is measured is what will be shipped; the best state that was
measured on all batches is kept, the start among them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fewbits.improvement.blocks import find_blocks
from fewbits.improvement.layer_case import Rounded
from fewbits.improvement.methods import Effort
from fewbits.improvement.rounded_store import RoundedStore
from fewbits.improvement.torch_adaround import first_guess
from fewbits.improvement.torch_drop import Dropping, mixed
from fewbits.improvement.torch_layers import LayerWalk
from fewbits.improvement.torch_walk import FLOAT, QUANTIZED
from fewbits.runtime.progress import Progress
from fewbits.runtime.torch_graph import Step

_RATE = 0.005  # in steps of the grid, in shares of a scale, in units of a bias
_CHECKS = 6  # times that the loss on all batches is taken
_PATIENCE = 2  # checks without a better state before learning stops


def learn_block(
    layers: LayerWalk, steps: Sequence[Step], begin: Mapping[str, Rounded], effort: Effort
) -> dict[str, Rounded]:
    """Return the layers of a block as learned; those of `begin` where learning won nothing.

    Args:
        layers: the walk; the float stream stands behind the block, the quantized one before it.
        steps: the nodes of the block.
        begin: node -> where it starts; these are in place.
        effort: iterations and seed.
    """
    if not begin:
        return {}
    block = _Block(layers, steps, begin)
    if not block.outputs:
        return dict(begin)
    quantized = layers.walk.quantized
    keys = [key for node in begin if (key := layers.walk.weight_key(node)) is not None]
    quantized.switch(False, keys)  # weights come rounded already, on scales that are still learned
    try:
        return block.learn(effort)
    finally:
        quantized.switch(True, keys)


def improve_blocks(
    layers: LayerWalk, effort: Effort, store: RoundedStore, *, progress: Progress | None = None
) -> dict[str, Rounded]:
    """Walk through the whole graph and learn one block after the other."""
    walk, found = layers.walk, {}
    for first, end in find_blocks(walk.steps, set(layers.layers), walk.floating.input_names):
        if layers.is_late():
            break
        steps = walk.steps[first:end]
        nodes = [step.name for step in steps if step.name in layers.layers]
        known = {node: one for node in nodes if (one := store.known(node)) is not None}
        begin = _begin(layers, steps, known if len(known) == len(nodes) else None)
        if len(known) < len(nodes):
            learned = learn_block(layers, steps, begin, effort)
            put_in_place(layers, steps, learned)
            walk.forward(QUANTIZED, steps)
            for node, one in learned.items():
                store.keep(node, one)
            begin = learned
        found.update(begin)
        walk.free(steps)
        if progress is not None and nodes:
            progress.advance(len(nodes))
    return found


def _begin(layers: LayerWalk, steps: Sequence[Step], known: Mapping[str, Rounded] | None) -> dict[str, Rounded]:
    """Bring both streams to the end of a block, with layers as they are known or as `gptq` finds them."""
    walk, begin = layers.walk, {}
    inner = {name for step in steps for name in step.writes}
    for step in steps:
        gone = inner.intersection(step.frees)  # what enters the block is read again while it is learned
        walk.forward(FLOAT, [step], drops=gone.intersection(layers.drops(step)))
        if step.name in layers.layers:
            one = layers.improve(step, first_guess if known is None else lambda _, step: known[step.name])
            if one is not None:
                begin[step.name] = one
        walk.forward(QUANTIZED, [step], drops=gone)
        for batch in walk.batches:
            for name in gone:
                walk.cache.drop(FLOAT, name, batch)
    return begin


@dataclass(eq=False)
class _Learned:
    """One layer: latent codes, a factor for each of its scales [G, C * T, B], and a shift of the bias."""

    begin: Rounded
    bounds: tuple[int, int]
    latent: torch.Tensor
    factor: torch.Tensor
    shift: torch.Tensor | None
    scales: torch.Tensor
    bias: torch.Tensor | None
    blocks: torch.Tensor | None

    def weight(self) -> torch.Tensor:
        codes, steps = _Round.apply(self.latent, *self.bounds), self.scales * self.factor  # type: ignore[no-untyped-call]
        found: torch.Tensor = codes * (steps if self.blocks is None else steps[..., self.blocks])
        return found

    def values(self) -> Rounded:
        """Return the present state as numpy has it."""
        codes = self.latent.detach().round().clamp(*self.bounds).cpu().double().numpy()
        factor = self.factor.detach().cpu().double().numpy()
        scale = (self.begin.scale * factor[:, :: self.begin.taps]).astype(np.float32).astype(np.float64)
        bias = self.begin.bias
        if self.shift is not None and self.bias is not None:
            bias = (self.bias + self.shift).detach().cpu().numpy().ravel()
        return replace(self.begin, codes=codes, scale=scale, bias=bias)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, low: int, high: int) -> torch.Tensor:
        return x.round().clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0], None, None


@dataclass(eq=False)
class _Block:
    layers: LayerWalk
    steps: Sequence[Step]
    begin: Mapping[str, Rounded]
    outputs: list[str] = field(init=False)
    powers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        walk = self.layers.walk
        inside = {step.name for step in self.steps}
        made = [name for step in self.steps for name in step.writes if name]
        later = {name for step in walk.steps if step.name not in inside for name in step.reads}
        kept = [name for name in made if name in later or name in walk.floating.output_names]
        self.outputs = [n for n in kept if walk.value(FLOAT, n, 0).is_floating_point() and self._varies(n)]

    def _varies(self, name: str) -> bool:
        """Note the power of an output, that is its variance over all batches; say whether there is any."""
        walk = self.layers.walk
        count = len(walk.batches)
        mean = sum(float(walk.value(FLOAT, name, batch).mean()) for batch in walk.batches) / count
        power = sum(float((walk.value(FLOAT, name, batch) - mean).pow(2).mean()) for batch in walk.batches) / count
        self.powers[name] = power
        return math.isfinite(power) and power > 0

    def learn(self, effort: Effort) -> dict[str, Rounded]:
        walk = self.layers.walk
        learned = {node: self._learned(node, found) for node, found in self.begin.items()}
        parts = [p for one in learned.values() for p in (one.latent, one.factor, one.shift) if p is not None]
        optimizer = torch.optim.Adam(parts, lr=_RATE, betas=(0.9, 0.99))
        generator = torch.Generator().manual_seed(effort.seed)
        drawn = torch.Generator(walk.device).manual_seed(effort.seed)
        dropping = Dropping(walk.quantized, effort.drop, drawn) if effort.drop else None
        first = least = self._loss_of_all(learned)
        best, waited = {node: one.values() for node, one in learned.items()}, 0
        pause = max(effort.iterations // _CHECKS, 1)
        for i in range(effort.iterations):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * i / effort.iterations))
            batch = int(torch.randint(len(walk.batches), (1,), generator=generator))
            loss = self._loss(learned, batch, dropping)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if i % pause == pause - 1:
                found = self._loss_of_all(learned)
                waited = 0 if found < least else waited + 1
                if found < least:
                    least, best = found, {node: one.values() for node, one in learned.items()}
                if waited > _PATIENCE:
                    break
        return {node: replace(one, before=first, after=least) for node, one in best.items()}

    def _learned(self, node: str, found: Rounded) -> _Learned:
        walk = self.layers.walk
        key = walk.weight_key(node)
        assert key is not None
        spec = walk.start.plan.grids[key].spec
        device = walk.floating.device
        scales = torch.from_numpy(np.repeat(found.scale, found.taps, axis=1)).float().to(device)
        latent = torch.from_numpy(found.codes).float().to(device).requires_grad_(True)
        is_free = walk.encodings[key].scale.size == found.scale.size
        factor = torch.ones_like(scales).requires_grad_(is_free and found.taps == 1)
        bias = None if found.bias is None else torch.from_numpy(found.bias.copy()).to(device)
        shift = None if bias is None else torch.zeros_like(bias).requires_grad_(True)
        blocks = None if found.blocks is None else torch.from_numpy(found.blocks).to(device)
        return _Learned(found, (spec.qmin, spec.qmax), latent, factor, shift, scales, bias, blocks)

    def _given(self, learned: Mapping[str, _Learned]) -> dict[str, torch.Tensor]:
        """Return weights and biases by the names under which the nodes read them."""
        given: dict[str, torch.Tensor] = {}
        steps = {step.name: step for step in self.steps}
        for node, one in learned.items():
            layer, reads = self.layers.layers[node], steps[node].reads
            given[reads[1]] = _shaped(layer, one)
            if one.shift is not None and one.bias is not None:
                known = self.layers.walk.quantized.graph.known(reads[2])
                assert known is not None
                given[reads[2]] = (one.bias + one.shift).reshape(known.shape)
        return given

    def _loss(self, learned: Mapping[str, _Learned], batch: int, dropping: Dropping | None = None) -> torch.Tensor:
        walk, given = self.layers.walk, self._given(learned)
        if dropping is not None:
            given.update(self._entering(batch, dropping))
        made = walk.run(QUANTIZED, self.steps, batch, given, dropping)
        errors = [
            (made[name] - walk.value(FLOAT, name, batch)).pow(2).mean() / self.powers[name] for name in self.outputs
        ]
        return torch.stack(errors).mean()

    def _entering(self, batch: int, dropping: Dropping) -> dict[str, torch.Tensor]:
        """Return what the block reads of what was computed before it: of both streams, element by element."""
        walk = self.layers.walk
        made = {name for step in self.steps for name in step.writes}
        names = dict.fromkeys(name for step in self.steps for name in step.reads if name and name not in made)
        found = {}
        for name in names:
            if walk.floating.known(name) is None:
                rounded, exact = (walk.value(stream, name, batch) for stream in (QUANTIZED, FLOAT))
                if rounded.is_floating_point() and rounded.shape == exact.shape:
                    found[name] = mixed(rounded, exact, dropping.share, dropping.generator)
        return found

    def _loss_of_all(self, learned: Mapping[str, _Learned]) -> float:
        with torch.no_grad():
            return float(np.mean([float(self._loss(learned, batch)) for batch in self.layers.walk.batches]))


def _shaped(layer: Any, one: _Learned) -> torch.Tensor:
    """Return learned rows as the weight that the node reads; gradients pass through."""
    rows, taps = one.weight(), one.begin.taps
    groups, count, inputs = rows.shape
    if layer.op == "Conv":
        return rows.reshape(layer.weight_shape)
    if layer.op == "ConvTranspose":
        parts = rows.reshape(groups, count // taps, taps, inputs)
        return parts.permute(0, 3, 1, 2).reshape(layer.weight_shape)
    return rows[0] if layer.op == "Gemm" and layer.transposed[1] else rows[0].T


def put_in_place(layers: LayerWalk, steps: Sequence[Step], found: Mapping[str, Rounded]) -> None:
    """Give the quantized model the layers of a block."""
    for step in _among(steps, found):
        layers.take(step, found[step.name])


def _among(steps: Sequence[Step], found: Mapping[str, Rounded]) -> Iterator[Step]:
    yield from (step for step in steps if step.name in found)

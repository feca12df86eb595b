"""What a trained module computes node by node, each fed what onnxruntime has upstream in the exported file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fewbits.graph.load import load_model
from fewbits.graph.save import to_bytes
from fewbits.numerics.metrics import SqnrAccumulator
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.precision import FP16
from fewbits.workflow.sessions import with_outputs

torch = pytest.importorskip("torch")

from fewbits.runtime.torch_graph import feeds_to_torch  # noqa: E402

Counts = npt.NDArray[np.int64]
ONE = RunOptions(threads=1)


def distill(module, teacher, feeds, steps: int, *, weight_lr=1e-3, scale_lr=2e-3) -> list[float]:
    """Let the module learn what the float graph gives, in place; return the losses and leave it in evaluation mode."""
    with torch.no_grad():
        wanted = {name: value for name, value in teacher(feeds).items() if value.is_floating_point()}
    optimizer = torch.optim.Adam(module.parameter_groups(weight_lr, scale_lr=scale_lr))
    losses = []
    module.train()
    for _ in range(steps):
        given = module(feeds)
        loss = sum((given[name] - value).square().mean() / value.var() for name, value in wanted.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    module.eval()
    return losses


@dataclass
class Fed:
    """A hook that hands every node onnxruntime's own values, and counts how far the node's outputs are from them.

    Attributes:
        module: what is compared.
        theirs: tensor -> what onnxruntime computed.
        counts: tensor with a grid -> elements that are equal, that are within one step of the grid, and all.
        errors: tensor of an fp16 node -> its error so far; onnxruntime computes those in float32 and rounds nothing to
            float16.
        rounded: of the values of onnxruntime in `errors`, those that are float16 numbers, and all.
    """

    module: Any
    theirs: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    errors: dict[str, SqnrAccumulator] = field(default_factory=dict)
    rounded: Counts = field(default_factory=lambda: np.zeros(2, np.int64))

    def read(self, step, position, value):
        return self.module.read(step, position, value)

    def wrote(self, step, inputs, outputs):
        found = list(self.module.wrote(step, inputs, outputs))
        for i, name in enumerate(step.writes[: len(found)]):
            if name in self.theirs and found[i] is not None:
                self._count(name, found[i], self.theirs[name])
                found[i] = self.theirs[name]
        return tuple(found)

    def _count(self, name: str, mine: torch.Tensor, theirs: torch.Tensor) -> None:
        key = self.module.plan.outputs.get(name)
        if key is None:
            self.errors.setdefault(name, SqnrAccumulator()).update(theirs.numpy(), mine.numpy())
            self.rounded += [int((theirs.half().float() == theirs).sum()), theirs.numel()]
            return
        off = (mine.double() - theirs.double()).abs() / self.module.quantizer(key).encoding().scale.item()
        both = [int((off < 1e-3).sum()), int((off < 1.001).sum()), theirs.numel()]
        self.counts[name] = self.counts.get(name, np.zeros(3, np.int64)) + both

    def _steps(self, name: str) -> int:
        plan = self.module.plan
        spec = plan.grids[plan.outputs[name]].spec
        return int(spec.qmax - spec.qmin)

    @property
    def halves(self) -> dict[str, float]:
        """Tensor of an fp16 node -> SQNR in dB."""
        return {name: error.db for name, error in self.errors.items()}

    def within_1(self) -> dict[str, float]:
        """Return tensor -> share of the elements that are at most one step off."""
        return {name: float(found[1] / found[2]) for name, found in self.counts.items()}

    def equal(self) -> float:
        """Return the share of elements that are equal, over all tensors but Sigmoids on grids of more than 8 bits.

        Both sides approximate a Sigmoid, by some millionths, and differently on each processor: 65,535 steps show that.
        """
        sigmoids = {step.writes[0] for step in self.module.graph.steps if step.call.op == "Sigmoid"}
        wide = {name for name in sigmoids & set(self.counts) if self._steps(name) > 255}
        total = np.sum([found for name, found in self.counts.items() if name not in wide], axis=0)
        return float(total[0] / total[2])


def fed_by_onnxruntime(module, stored: bytes, feeds: Iterable[dict[str, np.ndarray]], options=ONE) -> Fed:
    """Run the exported file, and every node of the module on what the file's own nodes read, batch after batch."""
    model = load_model(stored)
    where = handed_on(module, model)
    wide = with_outputs(model, tuple(where.values()))
    runner = open_session(to_bytes(wide), policy=SessionPolicy.EXACT, options=options)
    fed = Fed(module)
    for one in feeds:
        values = runner(one)
        fed.theirs = {name: torch.from_numpy(np.array(values[out], np.float32)) for name, out in where.items()}
        with torch.no_grad():
            module.graph(feeds_to_torch(one), fed)
    return fed


def handed_on(module, model) -> dict[str, str]:
    """Return tensor -> its name in the exported file, of every tensor that has a grid or is float16.

    What stays in float32 is computed on both sides from what is handed on.
    """
    there = {str(value.name) for node in model.graph for value in node.outputs}
    ends = {str(value.name) for value in model.graph.outputs}
    halves = {name for name, node in module.plan.nodes.items() if node.precision == FP16}
    found = {}
    for step in module.graph.steps:
        for name in step.writes:
            key = module.plan.outputs.get(name)
            if key is None and step.name not in halves:
                continue
            own = [name] if name in ends or key is None else []
            also = [f"{name}_fp16"] if key is None else [f"{key}_clipped_dq", f"{key}_dq"]
            chosen = next((one for one in (*own, *also) if one in there), None)
            if chosen is not None:
                found[name] = chosen
    return found


def outputs(module, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the module's outputs as arrays."""
    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in feeds.items()}
        return {name: value.numpy() for name, value in module(given).items()}


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name

"""What a trained module computes node by node, each fed what onnxruntime has upstream in the exported file."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fewbits.graph.load import load_model
from fewbits.graph.save import to_bytes
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session
from fewbits.spec.precision import FP16
from fewbits.workflow.sessions import with_outputs

torch = pytest.importorskip("torch")

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
    """A hook that hands every node onnxruntime's own values, and notes how far the node's outputs are from them.

    Attributes:
        off: tensor with a grid -> distance of every element in steps of the grid.
        halves: tensor of an fp16 node -> SQNR; onnxruntime computes those in float32 and rounds nothing to float16.
    """

    module: Any
    theirs: dict[str, Any]
    off: dict[str, np.ndarray] = field(default_factory=dict)
    halves: dict[str, float] = field(default_factory=dict)

    def read(self, step, position, value):
        return self.module.read(step, position, value)

    def wrote(self, step, inputs, outputs):
        found = list(self.module.wrote(step, inputs, outputs))
        for i, name in enumerate(step.writes[: len(found)]):
            if name in self.theirs:
                theirs = self.theirs[name]
                key = self.module.plan.outputs.get(name)
                if key is None:
                    self.halves[name] = sqnr_db(theirs, found[i].numpy())
                else:
                    unit = self.module.quantizer(key).encoding().scale.item()
                    self.off[name] = np.abs(found[i].numpy() - theirs.astype(np.float64)) / unit
                found[i] = torch.from_numpy(theirs)
        return tuple(found)

    def within_1(self) -> dict[str, float]:
        """Return tensor -> share of the elements that are at most one step off."""
        return {name: float((off < 1.001).mean()) for name, off in self.off.items()}

    def equal(self) -> float:
        """Return the share of elements that are equal, over all tensors."""
        return float(np.mean(np.concatenate([off.ravel() for off in self.off.values()]) < 1e-3))


def fed_by_onnxruntime(module, stored: bytes, feeds: dict[str, np.ndarray]) -> Fed:
    """Run the exported file, and every node of the module on what the file's own nodes read."""
    model = load_model(stored)
    where = handed_on(module, model)
    runner = open_session(to_bytes(with_outputs(model, tuple(where.values()))), policy=SessionPolicy.EXACT, options=ONE)
    values = runner(feeds)
    fed = Fed(module, {name: np.array(values[out], np.float32) for name, out in where.items()})
    with torch.no_grad():
        module.graph({name: torch.from_numpy(value) for name, value in feeds.items()}, fed)
    return fed


def handed_on(module, model) -> dict[str, str]:
    """Return tensor -> its name in the exported file, of every tensor that has a grid or is float16."""
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

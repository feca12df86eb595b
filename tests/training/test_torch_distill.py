"""Distillation: the student comes closer to its teacher, ends in its best state, and stops where it should."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.errors import SpecError
from fewbits.training.schedule import RATES, Training
from fewbits.training.torch_distill import Distillation, distill
from fewbits.training.torch_samples import Samples

WIDTH = 6


class Net(nn.Module):
    """A module that returns its output and a hint by name."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inner = torch.relu(self.first(feeds["x"]))
        return {"inner": inner, "y": self.last(inner), "one": torch.ones(1)}


class Broken(Net):
    """A student whose training makes it worse: its gradient has the wrong sign."""

    def forward(self, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = super().forward(feeds)
        return {name: 2 * value.detach() - value for name, value in found.items()}


def samples(count: int = 200, batch: int = 20) -> Samples:
    rows = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
    return Samples([{"x": rows}], batch)


def near(teacher: Net, *, kind: type[Net] = Net) -> Net:
    """Return a student that begins a little off its teacher."""
    student = kind(1)
    student.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in teacher.state_dict().items()})
    return student


def test_the_student_comes_closer_and_ends_in_its_best_state() -> None:
    teacher, data = Net(0), samples()
    pair = Distillation(near(teacher), teacher, ("y", "one"), ("inner",))
    found = distill(pair, data, Training(steps=200, rate=0.02))
    assert found.after < 0.1 * found.before
    assert pair.held_out_loss(data) == found.after == min(loss for _, loss in found.history)
    assert found.steps == 200
    assert not found.stopped
    assert set(pair.powers) == {"y", "inner"}  # a constant has no power to compare with


def test_a_student_that_only_gets_worse_ends_as_it_began() -> None:
    teacher, data = Net(0), samples()
    student = near(teacher, kind=Broken)
    begin = {name: value.clone() for name, value in student.state_dict().items()}
    found = distill(Distillation(student, teacher, ("y",)), data, Training(steps=200, rate=0.02))
    assert found.after == found.before
    assert found.stopped == "held-out samples got no better"
    assert found.steps < 200
    assert all(torch.equal(value, begin[name]) for name, value in student.state_dict().items())


def test_equal_seeds_give_equal_bits() -> None:
    teacher, ends = Net(0), []
    for _ in range(2):
        torch.manual_seed(5)
        student = near(teacher)
        distill(Distillation(student, teacher, ("y",)), samples(), Training(steps=40, seed=3))
        ends.append(student.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_rate_is_found_among_those_that_are_tried() -> None:
    teacher = Net(0)
    found = distill(Distillation(near(teacher), teacher, ("y",)), samples(), Training(steps=60))
    assert found.rate in RATES


def test_training_ends_when_the_time_is_up() -> None:
    teacher = Net(0)
    pair = Distillation(near(teacher), teacher, ("y",))
    found = distill(pair, samples(), Training(steps=100_000, rate=0.01, minutes=0.005))
    assert found.stopped == "the time was up"
    assert found.after < found.before


def test_the_power_of_a_tensor_is_its_variance() -> None:
    teacher, data = Net(0), samples()
    pair = Distillation(near(teacher), teacher, ("y",), ("inner",))
    pair.prepare(data)
    with torch.no_grad():
        values = torch.cat([teacher(batch)["y"] for batch in data.held_out]).double()
    assert math.isclose(pair.powers["y"], float(values.var(correction=0)), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"steps": 0}, "at least one step"), ({"batch_size": 0}, "at least one step"), ({"rate": 2.0}, "share above 0"),
     ({"rate": math.nan}, "share above 0"), ({"minutes": 0.0}, "positive number of minutes")],
)  # fmt: skip
def test_schedules_that_cannot_be_are_refused(given: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Training(**given)

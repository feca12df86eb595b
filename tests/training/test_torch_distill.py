"""Distillation: the student comes closer to its teacher, ends in its best state, and stops where it should."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.errors import DataError, SpecError
from fewbits.training.schedule import LABELS, RATES, SCALE_FACTORS, Training
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_loop import distill
from fewbits.training.torch_samples import Samples
from fewbits.training.torch_steps import best_rates, next_trial, open_optimizer, take_step

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


def test_parts_of_the_loss_that_are_not_there_lie_on_the_same_device() -> None:
    teacher = Net(0).to("meta")
    pair = Distillation(Net(1).to("meta"), teacher, ("y",))
    pair.powers["y"] = 1.0
    with torch.device("meta"):
        batch = {"x": torch.empty(4, WIDTH)}
    assert pair.loss(batch).device.type == "meta"


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


def test_weights_and_scales_have_rates_of_their_own() -> None:
    teacher = Net(0)
    student = near(teacher)
    pair = Distillation(student, teacher, ("y",), scales=(student.last.bias,))
    pair.prepare(samples())
    before = {name: value.clone() for name, value in student.state_dict().items()}
    take_step(pair, next(samples().forever(0)), open_optimizer(pair), (0.01, 0.0))
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"first.weight", "first.bias", "last.weight"}


def test_rates_are_tried_upwards_until_they_fare_worse_and_then_those_of_scales() -> None:
    tried: list = []
    fares = {rate: abs(i - 1) + 1.0 for i, rate in enumerate(RATES)}  # the second is best
    while (rates := next_trial(tried)) is not None:
        tried.append((rates, fares[rates[0]] + (0.0 if rates[1] < 0.1 * rates[0] else 0.1)))
    assert [rates[0] for rates, _ in tried] == [*RATES[:4], RATES[1], RATES[1]]
    assert len({rates for rates, _ in tried}) == 6
    assert best_rates(tried) == (RATES[1], RATES[1] * min(SCALE_FACTORS))


def test_a_loss_that_swings_does_not_end_training() -> None:
    class Swinging(Distillation):
        looks = 0

        def held_out_loss(self, samples: Samples) -> float:
            self.looks += 1
            return 1.0 if self.looks == 1 else 2.0 + self.looks % 2

    teacher = Net(0)
    pair = Swinging(near(teacher), teacher, ("y",))
    assert distill(pair, samples(), Training(steps=40, rate=0.001)).steps == 40


def test_hints_weigh_less_than_outputs_however_large_their_error() -> None:
    teacher = Net(0)
    student = near(teacher)
    with torch.no_grad():
        student.first.bias.add_(3.0)
    pair = Distillation(student, teacher, ("y",), ("inner",))
    pair.prepare(samples())
    with_hints = pair.held_out_loss(samples())
    pair.weights = (1.0, 0.0, 0.0)
    assert math.isclose(with_hints, 1.3 * pair.held_out_loss(samples()), rel_tol=1e-6)


@pytest.mark.parametrize("asked", [False, True])
def test_labels_correct_a_teacher_that_is_wrong(asked: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(400, WIDTH)).astype(np.float32)
    classes = (rows[:, 0] > 0).astype(np.int64)
    data = Samples([{"x": rows, LABELS: classes}], 20)
    teacher = Net(0)
    with torch.no_grad():
        teacher.last.weight.mul_(10.0)
    student = near(teacher)
    pair = Distillation(student, teacher, ("y",), with_labels=asked)
    distill(pair, data, Training(steps=300, rate=0.02))
    with torch.no_grad():
        right = [
            float((f({"x": torch.from_numpy(rows)})["y"].argmax(1).numpy() == classes).mean())
            for f in (teacher, student)
        ]
    assert (right[1] > right[0] + 0.15) is asked
    assert pair.label_loss == ("cross-entropy" if asked else None)


@pytest.mark.parametrize(
    ("labels", "said"),
    [(np.full(40, 7), "from 7 to 7 are no classes of an output of 2"), (np.zeros((40, 5)), "neither classes nor real")],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, said: str) -> None:
    data = Samples([{"x": np.ones((40, WIDTH), np.float32), LABELS: labels}], 20)
    pair = Distillation(Net(1), Net(0), ("y",), with_labels=True)
    with pytest.raises(DataError, match=said):
        pair.prepare(data)


def test_real_labels_pull_as_hard_as_the_teacher() -> None:
    teacher, rows = Net(0), np.random.default_rng(0).normal(size=(400, WIDTH)).astype(np.float32)
    with torch.no_grad():
        wanted = teacher({"x": torch.from_numpy(rows)})["y"]
    student = near(teacher)
    data = Samples([{"x": rows, LABELS: wanted.numpy() + 2.0}], 20)
    pair = Distillation(student, teacher, ("y",), with_labels=True)
    distill(pair, data, Training(steps=400, rate=0.02))
    with torch.no_grad():
        given = student({"x": torch.from_numpy(rows)})["y"]
    assert pair.label_loss == "squared-error"
    assert abs(float((given - wanted).mean()) - 1.0) < 0.05


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
     ({"rate": math.nan}, "share above 0"), ({"minutes": 0.0}, "positive number of minutes"),
     ({"window": -1}, "or 0 for whole samples")],
)  # fmt: skip
def test_schedules_that_cannot_be_are_refused(given: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Training(**given)

"""A training that was stopped goes on from its last look, and ends with the bits of one that was not."""

from pathlib import Path

import pytest
import torch
from test_torch_distill import Net, near, samples

from fewbits.errors import OutputError
from fewbits.training.schedule import Training
from fewbits.training.torch_checkpoint import Checkpoint
from fewbits.training.torch_distill import Distillation
from fewbits.training.torch_loop import Distilled, distill


class StopError(Exception):
    """What a killed process is to the loop."""


class Steps:
    """Counts steps, and stops at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.done, self.last = 0, last

    def advance(self, samples: int) -> None:
        self.done += samples
        if self.last is not None and self.done >= self.last:
            raise StopError


def run(path: Path | None, last: int | None = None, key: str = "one") -> tuple[Distilled, dict, int]:
    torch.manual_seed(5)
    teacher = Net(0)
    student = near(teacher)
    told = Steps(last)
    checkpoint = Checkpoint(path, lambda: key)
    pair = Distillation(student, teacher, ("y",), ("inner",), scales=(student.last.bias,))
    found = distill(pair, samples(), Training(steps=60), checkpoint=checkpoint, progress=told)
    return found, student.state_dict(), told.done


@pytest.mark.parametrize("last", [50, 155, 180, 199])  # in the range test of 140 steps, and behind it
def test_it_ends_with_the_same_bits_wherever_it_was_stopped(tmp_path: Path, last: int) -> None:
    straight, wanted, steps = run(None)
    assert steps == Training(steps=60).all_steps
    with pytest.raises(StopError):
        run(tmp_path / "c", last)
    found, given, counted = run(tmp_path / "c")
    assert found == straight
    assert counted == steps
    assert all(torch.equal(value, wanted[name]) for name, value in given.items())


def test_it_goes_on_and_does_not_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(tmp_path / "c", 185)
    made = torch.load(tmp_path / "c", weights_only=True)["standing"]
    assert made["step"] > 0
    made["history"][0] = (0, -7.0)
    Checkpoint(tmp_path / "c", lambda: "one").write(made)
    assert run(tmp_path / "c")[0].history[0] == (0, -7.0)


def test_one_of_another_training_is_not_used(tmp_path: Path) -> None:
    run(tmp_path / "c")
    assert Checkpoint(tmp_path / "c", lambda: "other").read() is None
    assert run(tmp_path / "c", key="other")[0].history[0][1] > 0


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"no checkpoint")
    with pytest.raises(OutputError, match="cannot be read: delete it, and training starts anew"):
        run(tmp_path / "c")

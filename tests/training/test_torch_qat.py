"""The end of a training without labels: channel statistics are re-estimated where held-out samples gain by it."""

from pathlib import Path

import pytest

import fewbits
from fewbits.errors import FewbitsError
from fewbits.runtime.session import RunOptions

torch = pytest.importorskip("torch")

from fewbits.training.schedule import CHECKPOINT, Training  # noqa: E402
from fewbits.training.torch_trainable import Trainable  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def trained(output: Path | None = None):
    """Train for one step that changes next to nothing: what differs is what comes behind it."""
    return fewbits.qat.train(
        DIGITS / "digits.onnx", data=DIGITS / "calib.npz", eval_data=DIGITS / "eval.npz", metric="top1", samples=64,
        eval_samples=300, precision="w3a8", methods="qat", ranges="minmax", run_options=RunOptions(threads=1),
        training=Training(steps=1, rate=1e-7), output=output,
    )  # fmt: skip


def test_statistics_are_taken_over_where_held_out_samples_gain():
    result = trained()
    (row,) = result.methods
    (note,) = (note for note in result.record.notes if "channel means and deviations of the float model" in note)
    before, after = row.objective
    assert after < 0.97 * before
    assert note.endswith(f"to {after:.4g}.")


def test_they_stay_where_held_out_samples_lose(monkeypatch, tmp_path):
    original, calls = Trainable.reestimate, []

    def spoilt(self, batches, reference=None):
        found = original(self, batches, reference)
        calls.append(found)
        with torch.no_grad():
            for value in self.graph.parameters():
                value.mul_(3)
        return found

    monkeypatch.setattr(Trainable, "reestimate", spoilt)
    with pytest.raises(FewbitsError, match="can be improved by qat"):  # a step at a rate of 1e-7 alone improves nothing
        trained(tmp_path / "out")
    assert not (tmp_path / "out" / CHECKPOINT).exists()
    assert len(calls) == 1
    assert calls[0].changed

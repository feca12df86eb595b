"""Channel statistics are given back to a quantized network, and codes of weights stay as they are."""

from pathlib import Path

import numpy as np
import pytest

from fewbits.errors import DataError, SpecError

torch = pytest.importorskip("torch")

from trainable_cases import feeds, outputs, train, trainable  # noqa: E402

from fewbits.runtime.torch_graph import TorchGraph  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
LAYERS = ("first", "depthwise", "head")
"""Of the shared network; `unbiased` has no bias, and that of `dense` is read in another layout."""


pytestmark = pytest.mark.usefixtures("one_thread")


class Seen:
    """A hook that keeps what layers give, before any grid, and sees their inputs as `net` quantizes them, if any."""

    def __init__(self, net=None) -> None:
        self.net, self.found = net, {}

    def read(self, step, position, value):
        return value if self.net is None else self.net.read(step, position, value)

    def wrote(self, step, inputs, outputs):
        self.found[step.name] = outputs[0].detach()
        return outputs if self.net is None else self.net.wrote(step, inputs, outputs)


@torch.no_grad()
def statistics(net, node: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of every channel of a node's outputs."""
    graph, seen = (net, Seen()) if isinstance(net, TorchGraph) else (net.eval().graph, Seen(net))
    graph(feeds(), seen)
    value = seen.found[node].transpose(0, 1).flatten(1).double()
    return value.mean(1), value.std(1, correction=0)


def codes(net) -> dict[str, torch.Tensor]:
    """Return the codes of all weights."""
    found = {}
    for key, grid in net.plan.grids.items():
        if grid.role.value == "weight":
            quantizer = net.quantizer(key)
            with torch.no_grad():
                found[key] = (quantizer(net.graph.known(grid.tensor)) / quantizer.scale).round()
    return found


def disturb(net) -> None:
    """Scale and shift the channels of the first layers, as training may."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight, bias in (("w1", "b1"), ("w2", "b2")):
            factor = 0.5 + 1.5 * torch.rand(8, generator=generator)
            net.graph.known(weight).mul_(factor.reshape(-1, 1, 1, 1))
            net.quantizer(weight).ratio.mul_(factor.reshape(-1, 1, 1, 1))
            net.graph.known(bias).mul_(factor).add_(torch.randn(8, generator=generator))


def test_disturbed_statistics_come_back_and_codes_stay():
    net = trainable("w8a8").eval()
    before, stored = outputs(net), codes(net)
    disturb(net)
    off = outputs(net)
    for key, value in codes(net).items():
        assert float((value != stored[key]).float().mean()) < 0.01  # rounding of the disturbance itself
    stored = codes(net)
    done = net.reestimate([feeds()])
    for key, value in codes(net).items():
        assert torch.equal(value, stored[key]), key
    for node in done.changed:
        (mean, std), (mean_wanted, std_wanted) = statistics(net, node), statistics(net.reference, node)
        torch.testing.assert_close(mean, mean_wanted, atol=2e-3 * float(std_wanted.max()), rtol=0)
        torch.testing.assert_close(std, std_wanted, rtol=2e-3, atol=1e-6)
    after = outputs(net)
    errors = [float(np.square(one["y"] - before["y"]).mean()) for one in (off, after)]
    assert errors[1] < 0.05 * errors[0]
    assert done.changed["first"] > 0.3


def test_scales_follow_the_factor_of_their_channel():
    net = trainable("w4a8").eval()
    train(net, steps=3)
    net.eval()
    before = (net.graph.known("w1").detach().clone(), net.quantizer("w1").scale.clone())
    net.reestimate([feeds()])
    factor = net.quantizer("w1").scale / before[1]
    assert float((factor - 1).abs().max()) > 1e-4
    torch.testing.assert_close(net.graph.known("w1").detach(), before[0] * factor, rtol=1e-6, atol=1e-7)


def test_layers_that_cannot_be_scaled_are_named_with_the_reason():
    net = trainable("w8a8", fixed=["w5"])
    done = net.reestimate([feeds()["image"], (feeds()["image"].numpy(),)])
    assert set(done.changed) == {"first", "depthwise", "dense"}
    assert set(done.declined) == {"unbiased", "head"}
    assert "no constant bias" in done.declined["unbiased"]
    assert "kept fixed" in done.declined["head"]
    assert net.training


def test_what_cannot_be_used_is_refused():
    net = trainable("w8a8")
    with pytest.raises(DataError, match="no batches"):
        net.reestimate([])
    with pytest.raises(DataError, match=r"reads 1 inputs \(image\), and a batch has 2: give batches without labels"):
        net.reestimate([(feeds()["image"], torch.zeros(48))])
    with pytest.raises(DataError, match="lacks the input 'image'"):
        net.reestimate([{"picture": feeds()["image"]}])
    import fewbits

    other = fewbits.calibrate(
        DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=8, run_options=fewbits.RunOptions(threads=1)
    ).model
    with pytest.raises(SpecError, match="has no node"):
        net.reestimate([feeds()], TorchGraph(other))


def test_the_objective_on_real_data_does_not_get_worse():
    import fewbits

    images = torch.from_numpy(np.load(DIGITS / "calib.npz")["image"])
    net = fewbits.qat.trainable(
        DIGITS / "digits.onnx", data=DIGITS / "calib.npz", precision="w4a8", run_options=fewbits.RunOptions(threads=1)
    ).eval()
    held_out = torch.from_numpy(np.load(DIGITS / "eval.npz")["image"][:400])

    @torch.no_grad()
    def error() -> float:
        wanted = net.reference({"image": held_out})["logits"]
        return float((net(held_out)["logits"] - wanted).square().mean() / wanted.square().mean())

    before = error()
    net.reestimate(images.split(100))
    assert error() < before

"""Trained values go back to the torch module that was converted, and new ones come from there."""

import numpy as np
import pytest

import fewbits
from fewbits.errors import ModelError, SpecError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

ONE = fewbits.RunOptions(threads=1)


class Net(nn.Module):
    """Layers with and without a BatchNorm, a Linear that becomes a MatMul, a LayerNorm, and one that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU())
        self.plain = nn.Conv2d(6, 8, 1)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.plain(self.deep(self.stem(image))).flatten(2).transpose(1, 2)
        tokens = tokens + self.mix(self.norm(tokens)).relu()
        return self.head(tokens.mean(1))


def randomized(net: nn.Module) -> nn.Module:
    """Return a network whose normalizations are not those of a new one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                for value in (part.weight, part.running_var):
                    value.copy_(0.5 + torch.rand(len(value), generator=generator))
                for value in (part.bias, part.running_mean):
                    value.copy_(0.3 * torch.randn(len(value), generator=generator))
    return net.eval()


def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((32, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return randomized(Net())


def quantized(net: nn.Module, **options: object):
    return fewbits.qat.from_torch(
        net, torch.zeros(2, 1, 8, 8), data=images(), precision="w8a8", run_options=ONE, **options
    )


@pytest.fixture(scope="module")
def trained(net):
    """A module after some steps of training."""
    module = quantized(net).train()
    optimizer = torch.optim.Adam(module.parameter_groups(1e-2))
    for _ in range(5):
        optimizer.zero_grad()
        module(torch.from_numpy(images()))["output"].square().mean().backward()
        optimizer.step()
    return module


@torch.no_grad()
def assert_computes(net: nn.Module, module, error: float = 1e-5) -> None:
    """Assert that a torch network computes what the float graph of a module does."""
    x = torch.from_numpy(images())
    wanted, found = module.graph({"image": x})["output"], net.eval()(x)
    assert float((found - wanted).square().mean().sqrt()) <= error * float(wanted.square().mean().sqrt())


def test_every_trained_parameter_has_its_entry(net, trained):
    assert trained.names.left == ()
    assert {(one.layer, one.norm) for one in trained.names.folded} == {("stem.0", "stem.1"), ("deep.0", "deep.1")}
    entries = {entry for _, entry, _ in trained.names.same}
    assert {"plain.weight", "plain.bias", "mix.weight", "norm.weight", "norm.bias", "head.weight"} <= entries
    turned = {entry for _, entry, is_transposed in trained.names.same if is_transposed}
    assert turned == {"mix.weight"}


def test_trained_values_make_the_torch_network_compute_the_same(net, trained):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = trained.torch_state_dict(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    other = Net()
    other.load_state_dict(state)
    assert_computes(other, trained)
    with pytest.raises(AssertionError):
        assert_computes(net, trained)
    kept = [f"{path}.{part}" for path in ("stem.1", "deep.1") for part in ("weight", "running_mean", "running_var")]
    assert all(torch.equal(state[name], before[name]) for name in kept)


def test_values_come_from_the_torch_network_and_grids_stay(net, trained):
    module = quantized(net)
    scales = {key: encoding.scale for key, encoding in module.finish().pinned.items()}
    other = Net()
    other.load_state_dict(trained.torch_state_dict(net))
    module.load_torch(other)
    for name, value in trained.graph.named_values():
        torch.testing.assert_close(module.graph.known(name), value.detach(), rtol=1e-4, atol=1e-6)
    for key, encoding in module.finish().pinned.items():
        assert np.array_equal(encoding.scale, scales[key]), key


def test_a_channel_that_gamma_silenced_can_come_back(net):
    silenced = Net()
    silenced.load_state_dict(net.state_dict())
    with torch.no_grad():
        silenced.stem[1].weight[2] = 0
    module = quantized(silenced.eval())
    with torch.no_grad():
        module.graph.known("stem.0.weight")[2] += 0.3
    other = Net()
    other.load_state_dict(module.torch_state_dict(silenced))
    assert_computes(other, module)


class Twice(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(image.flatten(1)).relu())


def test_a_weight_with_two_names_goes_to_both():
    torch.manual_seed(0)
    net = Twice().eval()
    module = quantized(net)
    with torch.no_grad():
        for name, value in module.graph.named_values():
            if name.endswith("weight"):
                value.mul_(1.5)
    state = module.torch_state_dict(net)
    assert torch.equal(state["first.weight"], state["second.weight"])
    net.load_state_dict(state)
    assert_computes(net, module)


class Fresh(nn.Module):
    """A mean, a bias and a parameter that is not used have one value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3)
        self.unused = nn.Linear(1, 6)
        for value in (self.norm.running_mean, self.second.bias, self.unused.bias):
            nn.init.constant_(value, 0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(image)).relu())


def test_values_that_only_happen_to_be_equal_are_not_mixed_up():
    torch.manual_seed(0)
    net = Fresh().eval()
    module = quantized(net)
    with torch.no_grad():
        module.graph.known("second.bias").add_(1.0)
    state = module.torch_state_dict(net)
    assert torch.equal(state["norm.running_mean"], net.norm.running_mean)
    other = Fresh().eval()
    other.load_state_dict(state)
    assert_computes(other, module)
    with torch.no_grad():
        other.second.bias.fill_(2.0)
        other.unused.bias.fill_(3.0)
    module.load_torch(other)
    assert torch.equal(module.graph.known("second.bias"), torch.full((6,), 2.0))


class Scaled(nn.Module):
    """A weight that is computed from another: the graph holds the product."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(10, 64))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(image.flatten(1), self.raw * 0.1)


def test_what_has_no_entry_is_named_and_what_is_no_counterpart_is_refused(net, trained):
    torch.manual_seed(0)
    odd = Scaled().eval()
    module = quantized(odd)
    (left,) = module.names.left
    with pytest.raises(ModelError, match=rf"'{left}' belongs to no entry of the torch module"):
        module.torch_state_dict(odd)
    with pytest.raises(SpecError, match=r"The torch module has no '.*': give the one that was converted"):
        trained.torch_state_dict(odd)
    wider = Net()
    wider.head = nn.Linear(8, 11)
    with pytest.raises(SpecError, match=r"'head\.weight' has the shape \[11, 8\] in the torch module and \[10, 8\]"):
        trained.torch_state_dict(wider)
    with pytest.raises(SpecError, match=r"'head\.weight' has the shape \[10, 8\] in this module and \[11, 8\]"):
        trained.load_torch(wider)


def test_a_module_from_a_file_knows_no_torch_network(net, tmp_path):
    fewbits.convert(net, torch.zeros(2, 1, 8, 8), output=tmp_path / "net.onnx", dynamic_batch=True)
    module = fewbits.qat.trainable(tmp_path / "net.onnx", data=images(), precision="w8a8", run_options=ONE)
    with pytest.raises(SpecError, match=r"make it with fewbits\.qat\.from_torch"):
        module.torch_state_dict(net)

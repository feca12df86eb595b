"""Learned grids: the bits of the numpy arithmetic, and the gradients of LSQ and LSQ+ computed in numpy."""

import copy
import math

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from fewbits import qat
from fewbits.errors import SpecError
from fewbits.numerics.affine import bias_encoding, broadcast_grid, encoding_from_range, fake_quantize
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Role

torch = pytest.importorskip("torch")

from fewbits.training.torch_lsq import FARTHEST, LearnedQuantizer  # noqa: E402

GRIDS = [
    (DType.INT4, 4, True), (DType.UINT8, 4, False), (DType.INT8, 8, True), (DType.UINT8, 8, False),
    (DType.INT8, 8, False), (DType.INT16, 16, True), (DType.UINT16, 16, False), (DType.UINT16, 16, True),
    (DType.INT8, 6, True), (DType.INT4, 2, True),
]  # fmt: skip
SHAPE = (6, 5, 4, 3)
GRANULARITIES = [PerTensor(), PerChannel(0), PerChannel(1)]


pytestmark = pytest.mark.usefixtures("one_thread")


def values(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def encoding_of(grid: tuple[DType, int, bool], granularity: Granularity = PerTensor()) -> Encoding:  # noqa: B008
    """Return a grid that clips some of `values`, its range around zero."""
    shape = () if isinstance(granularity, PerTensor) else (SHAPE[granularity.axis],)
    spread = np.linspace(0.8, 1.2, math.prod(shape)).reshape(shape)
    return encoding_from_range(-0.9 * spread, 1.3 * spread, QuantSpec(*grid, granularity))


def by_formula(x: np.ndarray, given: np.ndarray, encoding: Encoding, role: Role) -> tuple[np.ndarray, ...]:
    """Return dL/dx, and the gradients that ratio and zero_share should have, in the layout of the scale, in float64."""
    spec = encoding.spec
    scale, zero = (v.astype(np.float64) for v in broadcast_grid(x.shape, encoding))
    steps = x.astype(np.float64) / scale
    low, high = spec.qmin - zero, spec.qmax - zero
    inside = (np.rint(steps) >= low) & (np.rint(steps) <= high)
    d_scale = np.where(inside, np.rint(steps) - steps, np.where(steps < low, low, high))
    axes = tuple(i for i in range(x.ndim) if scale.ndim == 0 or scale.shape[i] == 1)
    count = x[0].size if role is Role.ACTIVATION else x.size / scale.size
    factor = 1 / math.sqrt(count * spec.qmax)
    total = (given * d_scale).sum(axes).reshape(scale.shape)
    outside = (given * ~inside).sum(axes).reshape(scale.shape)
    return given * inside, factor / scale * total, -factor / scale / (spec.qmax - spec.qmin) * outside


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_forward_has_the_bits_of_the_encoding(grid, granularity):
    encoding = encoding_of(grid, granularity)
    quantizer = LearnedQuantizer(encoding, SHAPE)
    x = values()
    x.flat[:6] = [0.0, -0.0, np.inf, -np.inf, 1e-45, 3.4e38]
    rng = np.random.default_rng(1)
    for moved in (False, True):
        if moved:
            with torch.no_grad():
                for parameter in quantizer.parameters():
                    parameter.mul_(torch.from_numpy(rng.uniform(0.5, 1.5, parameter.shape).astype(np.float32)))
        now = quantizer.encoding()
        assert np.array_equal(now.scale, encoding.scale) is not moved
        found = quantizer(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_array_equal(found.view(np.int32), fake_quantize(x, now).view(np.int32))
        assert now.spec == encoding.spec
        assert now.scale.shape == encoding.scale.shape
        if grid[2] or not moved:
            np.testing.assert_array_equal(now.zero_point, encoding.zero_point)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("role", [Role.ACTIVATION, Role.WEIGHT])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients_are_those_of_lsq(grid, granularity, role, order):
    encoding = encoding_of(grid, granularity)
    quantizer = LearnedQuantizer(encoding, SHAPE, role=role)
    x, given = values(), values(seed=1)
    leaf = torch.from_numpy(x).contiguous(memory_format=order).requires_grad_()
    quantizer(leaf).backward(torch.from_numpy(given))
    for_x, for_ratio, for_zero = by_formula(x, given, encoding, role)
    np.testing.assert_array_equal(leaf.grad.numpy(), for_x.astype(np.float32))
    assert 0 < np.count_nonzero(for_x) < x.size
    # x / s has the precision of a float32 before it is rounded: of 65 thousand steps, a hundredth of one
    room = {"rtol": 1e-3, "atol": (2e-2 if grid[1] == 16 else 1e-4) * np.abs(for_ratio).max()}
    np.testing.assert_allclose(quantizer.ratio.grad.numpy(), for_ratio, **room)
    if grid[2]:
        assert quantizer.zero_share is None
    else:
        np.testing.assert_allclose(quantizer.zero_share.grad.numpy(), for_zero, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("grid", [(DType.INT4, 4, True), (DType.UINT8, 8, False)], ids=str)
def test_the_clipped_part_has_the_slope_of_finite_differences(grid):
    encoding = encoding_of(grid)
    low, high = (float(end) for end in encoding.range)
    x = torch.tensor([low - 3, low - 1, high + 2, high + 5])
    given = torch.tensor([1.0, -0.5, 2.0, 0.3])
    quantizer = LearnedQuantizer(encoding, role=Role.WEIGHT)
    (quantizer(x) * given).sum().backward()
    factor = 1 / math.sqrt(4 * encoding.spec.qmax)
    slope = float(quantizer.ratio.grad) / factor * float(encoding.scale)

    def at(scale: float) -> float:
        made = Encoding(encoding.spec, np.float32(scale).reshape(()), encoding.zero_point)
        return float((fake_quantize(x.numpy(), made).astype(np.float64) * given.numpy()).sum())

    step = 0.01 * float(encoding.scale)
    wanted = (at(float(encoding.scale) + step) - at(float(encoding.scale) - step)) / (2 * step)
    assert slope == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_with_fixed_codes_the_slope_is_that_of_code_minus_position(bits):
    """Where codes do not change, y = code s: differences give codes, and -x / s is what straight-through adds."""
    encoding = encoding_of((DType.INT8, bits, True))
    scale = float(encoding.scale)
    codes = np.array([-3, -1, 0, 2, 5])
    x = ((codes + np.array([0.2, -0.3, 0.1, 0.4, -0.1])) * scale).astype(np.float32)
    wider = Encoding(encoding.spec, np.float32(scale * 1.001).reshape(()), encoding.zero_point)
    moved = (fake_quantize(x, wider).astype(np.float64) - fake_quantize(x, encoding)) / (wider.scale - encoding.scale)
    np.testing.assert_allclose(moved, codes, rtol=1e-3, atol=1e-3)
    quantizer = LearnedQuantizer(encoding, role=Role.WEIGHT)
    quantizer(torch.from_numpy(x)).sum().backward()
    slope = float(quantizer.ratio.grad) * math.sqrt(x.size * encoding.spec.qmax) * scale
    assert slope == pytest.approx(float((moved - x / scale).sum()), abs=1e-2)


def test_the_zero_point_has_the_slope_of_finite_differences():
    encoding = encoding_of((DType.UINT8, 8, False))
    low, high = (float(end) for end in encoding.range)
    x = np.float32([low - 1, 0.01, high + 1, high + 2])
    quantizer = LearnedQuantizer(encoding, role=Role.WEIGHT)
    quantizer(torch.from_numpy(x)).sum().backward()
    one_up = Encoding(encoding.spec, encoding.scale, encoding.zero_point + 1)
    per_code = float(fake_quantize(x, one_up).sum() - fake_quantize(x, encoding).sum())  # three clipped values: -3 s
    factor = 1 / math.sqrt(4 * 255)
    wanted = factor / float(encoding.scale) ** 2 / 255 * per_code
    assert float(quantizer.zero_share.grad) == pytest.approx(wanted, rel=1e-3)


def test_a_step_of_gradient_descent_moves_the_scale_as_in_lsq():
    encoding, x = encoding_of((DType.INT8, 8, True)), values()
    quantizer = LearnedQuantizer(encoding, role=Role.WEIGHT)
    quantizer(torch.from_numpy(x)).backward(torch.from_numpy(values(seed=1)))
    torch.optim.SGD(quantizer.parameters(), lr=1e-3).step()
    scale = float(encoding.scale)
    _, for_ratio, _ = by_formula(x, values(seed=1), encoding, Role.WEIGHT)
    lsq = scale - 1e-3 * scale * float(for_ratio)  # for_ratio is (g / s) dL/ds
    assert float(quantizer.encoding().scale) == pytest.approx(lsq, rel=1e-6)
    assert float(quantizer.encoding().scale) != scale


@pytest.mark.parametrize("grid", [(DType.UINT8, 8, False), (DType.UINT16, 16, False)], ids=str)
def test_infinite_values_have_no_gradient_and_spoil_none(grid):
    x, given = values(), values(seed=1)
    x[0, 0, 0, 0], x[1, 1, 1, 1] = np.inf, -np.inf
    encoding = encoding_of(grid)
    quantizer = LearnedQuantizer(encoding)
    leaf = torch.from_numpy(x).requires_grad_()
    quantizer(leaf).backward(torch.from_numpy(given))
    with np.errstate(invalid="ignore"):
        for_x, for_ratio, _ = by_formula(x, given, encoding, Role.ACTIVATION)
    np.testing.assert_array_equal(leaf.grad.numpy(), for_x.astype(np.float32))
    assert float(quantizer.ratio.grad) == pytest.approx(float(for_ratio), rel=1e-2)


@pytest.mark.parametrize("view", ["expanded", "sliced", "transposed"])
def test_gradients_do_not_depend_on_the_order_of_memory(view):
    base = torch.from_numpy(values(shape=(6, 8)))
    x = {"expanded": base[:1].expand(6, 8), "sliced": base[:, ::2], "transposed": base.T}[view]
    given = torch.from_numpy(values(seed=2, shape=(8, 8)))[: x.shape[0], : x.shape[1]]
    found = []
    for one in (x, x.contiguous()):
        quantizer = LearnedQuantizer(encoding_of((DType.UINT8, 8, False)))
        leaf = one.detach().requires_grad_()
        (quantizer(leaf) * given).sum().backward()
        found.append((leaf.grad, float(quantizer.ratio.grad), float(quantizer.zero_share.grad)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-4)


@pytest.mark.parametrize("ends", [(0.0, 2.0), (-2.0, 0.0)])
def test_a_range_that_ends_at_zero_goes_on_doing_so(ends):
    quantizer = LearnedQuantizer(encoding_from_range(*ends, QuantSpec(DType.UINT8, 8, is_symmetric=False)))
    assert [name for name, _ in quantizer.named_parameters()] == ["ratio"]


@pytest.mark.parametrize("rate", [1e3, -1e3, 1e30, -1e30])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_no_learning_rate_makes_a_scale_that_is_none(granularity, rate):
    encoding = encoding_of((DType.UINT8, 8, False), granularity)
    quantizer = LearnedQuantizer(encoding, SHAPE)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=abs(rate))
    x = torch.from_numpy(values())
    for _ in range(3):
        optimizer.zero_grad()
        (quantizer(x).sum() * (1 if rate > 0 else -1)).backward()
        optimizer.step()
        now = quantizer.encoding()  # refuses what is no scale or no code
        assert ((now.zero_point >= 0) & (now.zero_point <= 255)).all()
        np.testing.assert_array_equal(quantizer(x).detach().numpy(), fake_quantize(x.numpy(), now))
    assert (now.scale >= encoding.scale / (FARTHEST * 1.001)).all()
    assert (now.scale <= encoding.scale * FARTHEST * 1.001).all()


def test_a_scale_comes_back_from_where_it_cannot_go():
    quantizer = LearnedQuantizer(encoding_of((DType.INT8, 8, True)))
    with torch.no_grad():
        quantizer.ratio.fill_(-0.5)
    x = torch.full((4, 3), 1.0)
    (quantizer(x) - 1).square().sum().backward()
    assert float(quantizer.ratio.grad) < 0  # a larger scale is better


def test_a_grid_that_does_not_learn_has_no_parameters_and_passes_gradients():
    encoding, x = encoding_of((DType.UINT8, 8, False)), values()
    quantizer = LearnedQuantizer(encoding, learns=False)
    leaf = torch.from_numpy(x).requires_grad_()
    quantizer(leaf).backward(torch.ones_like(leaf))
    assert not list(quantizer.parameters())
    np.testing.assert_array_equal(leaf.grad.numpy(), by_formula(x, np.ones_like(x), encoding, Role.WEIGHT)[0])


def test_a_grid_that_is_off_gives_back_the_tensor():
    quantizer = LearnedQuantizer(encoding_of((DType.INT8, 8, True)))
    x = torch.from_numpy(values())
    assert not torch.equal(quantizer(x), x)
    quantizer.is_on = False
    assert quantizer(x) is x


def test_what_autocast_hands_over_keeps_its_type_and_gets_a_fine_gradient():
    encoding = encoding_of((DType.UINT8, 8, False))
    x, given = torch.from_numpy(values()).bfloat16(), torch.from_numpy(values(seed=1)).bfloat16()
    quantizer = LearnedQuantizer(encoding)
    leaf = x.clone().requires_grad_()
    found = quantizer(leaf)
    found.backward(given)
    wanted = torch.from_numpy(fake_quantize(x.float().numpy(), encoding)).bfloat16()
    assert found.dtype == leaf.grad.dtype == torch.bfloat16
    assert torch.equal(found, wanted)
    _, for_ratio, _ = by_formula(x.float().numpy(), given.float().numpy(), encoding, Role.ACTIVATION)
    assert float(quantizer.ratio.grad) == pytest.approx(float(for_ratio), rel=1e-3)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("grid", [g for g in GRIDS if g[2]], ids=str)
def test_a_relu_taken_along_has_the_bits_and_gradients_of_both_in_turn(grid, granularity, order):
    assert_rectified(encoding_of(grid, granularity), order)


@pytest.mark.parametrize("high", [0.7, 2.0])
def test_a_relu_taken_along_on_a_grid_from_zero(high):
    assert_rectified(encoding_from_range(0.0, high, QuantSpec(DType.UINT8, 8, is_symmetric=False)))


def assert_rectified(encoding: Encoding, order: torch.memory_format = torch.contiguous_format) -> None:
    x, given = values(), torch.from_numpy(values(seed=1))
    x[0, 0, 0, :3], x[1, 1, 1, :2], x[2, 2, 2, :2] = [0.0, -0.0, -1e-45], [np.inf, -np.inf], [1e-45, -1e-3]
    found = []
    for is_one in (True, False):
        quantizer = LearnedQuantizer(encoding, SHAPE)
        leaf = torch.from_numpy(x).contiguous(memory_format=order).requires_grad_()
        y = quantizer.rectified(leaf) if is_one else quantizer(torch.relu(leaf))
        y.backward(given)
        found.append((y.detach().numpy(), leaf.grad.numpy(), quantizer.ratio.grad.numpy()))
    (one, one_x, one_ratio), (two, two_x, two_ratio) = found
    np.testing.assert_array_equal(one.view(np.int32), two.view(np.int32))
    np.testing.assert_array_equal(one_x, two_x)
    assert 0 < np.count_nonzero(one_x) < x.size / 2 + 30
    np.testing.assert_allclose(one_ratio, two_ratio, rtol=1e-4, atol=1e-5 * np.abs(two_ratio).max())


def test_a_relu_is_not_taken_along_where_the_zero_point_moves_or_the_grid_is_off():
    x = torch.from_numpy(values())
    moving = LearnedQuantizer(encoding_of((DType.UINT8, 8, False)))
    assert moving.rectified(x) is None
    fixed = LearnedQuantizer(encoding_of((DType.INT8, 8, True)))
    assert fixed.rectified(x) is not None
    fixed.is_on = False
    assert fixed.rectified(x) is None


TWO_LAYERS = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 6, 6] x) => (float[n, 4, 6, 6] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, first)
    b = Relu (a)
    c = Conv (b, second)
    y = Relu (c)
}"""


class Apart:
    """A hook that does at the edges what a network does, and leaves every node to the graph."""

    def __init__(self, net):
        self.read, self.wrote = net.read, net.wrote


def test_a_network_that_takes_relus_along_learns_what_it_learns_without(monkeypatch):
    rng = np.random.default_rng(3)
    weights = {"first": rng.standard_normal((12, 3, 3, 3)), "second": rng.standard_normal((4, 12, 1, 1))}
    model = onnx.parser.parse_model(TWO_LAYERS)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    images = rng.standard_normal((16, 3, 6, 6)).astype(np.float32)
    net = qat.trainable(model, data=[{"x": images}], precision="w4a8").train()
    feeds = {"x": torch.from_numpy(images)}
    calls, rectified = [], LearnedQuantizer.rectified
    monkeypatch.setattr(LearnedQuantizer, "rectified", lambda *given: calls.append(1) or rectified(*given))
    found = []
    for run in (net, lambda given: net.graph(given, Apart(net))):
        net.zero_grad()
        outputs = run(feeds)
        sum(value.square().mean() for value in outputs.values()).backward()
        gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        found.append((outputs, gradients, len(calls)))
    (one, one_gradients, count), (two, two_gradients, count_after) = found
    assert count == count_after == sum(step.call.op == "Relu" for step in net.graph.steps) == 2
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert one_gradients.keys() == two_gradients.keys()
    for name, wanted in two_gradients.items():
        room = 1e-4 * float(wanted.abs().max()) + 1e-8
        torch.testing.assert_close(one_gradients[name], wanted, rtol=1e-4, atol=room)


def test_state_and_copies_keep_every_bit():
    quantizer = LearnedQuantizer(encoding_of((DType.UINT8, 8, False), PerChannel(1)), SHAPE)
    with torch.no_grad():
        quantizer.ratio.mul_(1.2345678)
        quantizer.zero_share.mul_(0.8765)
    other = LearnedQuantizer(encoding_from_range(-np.ones(5), np.ones(5), quantizer.spec), SHAPE)
    other.load_state_dict(quantizer.state_dict())
    for one in (other, copy.deepcopy(quantizer)):
        assert one.encoding().scale.tobytes() == quantizer.encoding().scale.tobytes()
        assert one.encoding().zero_point.tolist() == quantizer.encoding().zero_point.tolist()


def test_what_cannot_be_learned_is_refused():
    blocks = encoding_from_range(-np.ones((4, 2)), np.ones((4, 2)), QuantSpec(DType.INT4, 4, True, PerBlock(1, 4)))
    with pytest.raises(SpecError, match="per-block scales cannot be learned"):
        LearnedQuantizer(blocks, (4, 8))
    with pytest.raises(SpecError, match="int32 codes cannot be learned"):
        LearnedQuantizer(bias_encoding(0.1, 0.2))


def test_a_nan_is_not_exported():
    quantizer = LearnedQuantizer(encoding_of((DType.INT8, 8, True)))
    with torch.no_grad():
        quantizer.ratio.fill_(float("nan"))
    with pytest.raises(SpecError, match="became NaN: train with a lower learning rate"):
        quantizer.encoding()

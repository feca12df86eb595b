"""Each estimator by its promise, measured on the data themselves rather than on the histogram it was derived from."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.errors import DataError, SpecError
from fewbits.numerics.affine import encoding_from_range, fake_quantize
from fewbits.numerics.histogram import Histogram
from fewbits.numerics.ranges import ESTIMATORS, Entropy, Estimator, MinMax, Mse, Percentile, parse_estimator
from fewbits.numerics.squared_error import SquaredError
from fewbits.spec.dtypes import DType, QuantSpec

SPECS = {
    "u4": QuantSpec(DType.UINT4, 4, is_symmetric=False),
    "u8": QuantSpec(DType.UINT8, 8, is_symmetric=False),
    "u16": QuantSpec(DType.UINT16, 16, is_symmetric=False),
    "s4": QuantSpec(DType.INT4, 4, is_symmetric=True),
    "s8": QuantSpec(DType.INT8, 8, is_symmetric=True),
    "s16": QuantSpec(DType.INT16, 16, is_symmetric=True),
    "u8 symmetric": QuantSpec(DType.UINT8, 8, is_symmetric=True),
}


def data(name: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    normal = rng.standard_normal(50_000)
    samples = {
        "normal": normal,
        "heavy": rng.standard_t(3, 50_000),
        "heavy relu": np.maximum(rng.standard_t(3, 50_000), 0.0),
        "negative": -np.abs(rng.standard_t(3, 50_000)),
        "uniform": rng.uniform(-1, 3, 50_000),
        "relu6": np.clip(normal * 4, 0, 6),
        "silu": normal * 2 / (1 + np.exp(-2 * normal)),
    }
    return samples[name].astype(np.float32)


NAMES = ("normal", "heavy", "heavy relu", "negative", "uniform", "relu6", "silu")


def observed(x: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(x)
    return histogram


def real_mse(x: np.ndarray, ends: tuple[float, float], spec: QuantSpec) -> float:
    return float(np.mean((fake_quantize(x, encoding_from_range(*ends, spec)).astype(np.float64) - x) ** 2))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("name", NAMES)
def test_squared_error_predicts_the_real_error(name: str, spec: QuantSpec) -> None:
    x = data(name)
    histogram = observed(x)
    for share in (1.0, 0.5, 0.1):
        low, high = min(histogram.low, 0.0) * share, max(histogram.high, 0.0) * share
        predicted = SquaredError(histogram, spec)(np.array([low]), np.array([high]))[0]
        # Mass on one point (relu6) is spread over a bin: 1/16 of an 8-bit step; the rest is sampling noise.
        assert predicted == pytest.approx(real_mse(x, (low, high), spec), rel=0.03)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("name", NAMES)
def test_mse_is_no_worse_than_minmax_on_the_data(name: str, spec: QuantSpec) -> None:
    x = data(name)
    histogram = observed(x)
    found, full = (real_mse(x, e(histogram, spec), spec) for e in (Mse(), MinMax()))
    assert found <= full * 1.01  # the prediction's own tolerance where both ranges are nearly the same


@pytest.mark.parametrize("name", ["heavy", "heavy relu", "negative"])
def test_mse_beats_minmax_clearly_at_four_bits_on_heavy_tails(name: str) -> None:
    x, spec = data(name), SPECS["u4"]
    assert real_mse(x, Mse()(observed(x), spec), spec) < 0.5 * real_mse(x, MinMax()(observed(x), spec), spec)


def test_mse_finds_the_optimum_of_an_exhaustive_search() -> None:
    x = data("heavy")[:5000]
    for spec in (SPECS["u4"], SPECS["s4"], SPECS["s8"]):
        low, high = float(x.min()), float(x.max())
        shares = np.geomspace(1, 1 / 64, 60)
        if spec.is_symmetric:
            tried = [real_mse(x, (max(-low, high) * -s, max(-low, high) * s), spec) for s in shares]
        else:
            tried = [real_mse(x, (low * s, high * t), spec) for s in shares for t in shares]
        assert real_mse(x, Mse()(observed(x), spec), spec) <= min(tried) * 1.03


@pytest.mark.parametrize("bits", [8, 16])
def test_mse_keeps_uniform_data_whole(bits: int) -> None:
    x, spec = data("uniform"), SPECS[f"u{bits}"]
    assert Mse()(observed(x), spec) == pytest.approx(MinMax()(observed(x), spec), rel=0.05)


@pytest.mark.parametrize("p", [99.99, 99.9, 99.0, 90.0])
@pytest.mark.parametrize("name", ["normal", "heavy", "uniform", "silu"])
def test_percentile_cuts_the_stated_mass_in_halves(name: str, p: float) -> None:
    x = data(name)
    histogram = observed(x)
    low, high = Percentile(p)(histogram, SPECS["u8"])
    share = (1 - p / 100) / 2
    bin_mass = histogram.counts.max() / histogram.count
    assert float((x < low).mean()) == pytest.approx(share, abs=bin_mass)
    assert float((x > high).mean()) == pytest.approx(share, abs=bin_mass)


def test_percentile_cuts_one_sided_tensors_at_their_one_end() -> None:
    x = data("heavy relu")
    low, high = Percentile(99.0)(observed(x), SPECS["u8"])
    assert low == 0.0
    assert float((x > high).mean()) == pytest.approx(0.01, abs=2e-4)
    low, high = Percentile(99.0)(observed(-x), SPECS["u8"])
    assert high == 0.0
    assert float((-x < low).mean()) == pytest.approx(0.01, abs=2e-4)


def test_percentile_cuts_magnitudes_for_symmetric_grids() -> None:
    x = data("uniform")
    low, high = Percentile(90.0)(observed(x), SPECS["s8"])
    assert low == -high
    assert float((np.abs(x) > high).mean()) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(("p", "bound"), [(99.0, 0.99), (55.0, 0.55), (10.0, 0.1)])
def test_percentile_interpolates_inside_wide_bins(p: float, bound: float) -> None:
    x = np.random.default_rng(4).uniform(-1, 1, 200_000).astype(np.float32)
    histogram = Histogram()
    histogram.update_range(-500.0, 500.0)  # bins of 0.25
    histogram.update_counts(x)
    assert Percentile(p)(histogram, SPECS["u8"]) == pytest.approx((-bound, bound), abs=0.005)
    assert Percentile(p)(histogram, SPECS["s8"]) == pytest.approx((-bound, bound), abs=0.005)


def test_percentile_of_everything_is_minmax() -> None:
    histogram = observed(data("normal"))
    assert Percentile(100.0)(histogram, SPECS["u8"]) == MinMax()(histogram, SPECS["u8"])


def test_percentile_finds_the_one_outlier() -> None:
    x = np.append(data("uniform"), np.float32(1000.0))
    low, high = Percentile(99.99)(observed(x), SPECS["u8"])
    assert high < 3.5
    assert low == pytest.approx(-1.0, abs=0.25)  # one bin of 1000 / 4096


def test_entropy_cuts_far_outliers_and_keeps_uniform_data() -> None:
    outlier = np.append(data("normal"), np.float32(50.0))
    low, high = Entropy()(observed(outlier), SPECS["u8"])
    assert high < 25
    assert low <= 0
    uniform = data("uniform")
    assert Entropy()(observed(uniform), SPECS["u8"]) == pytest.approx(MinMax()(observed(uniform), SPECS["u8"]), rel=0.1)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(ESTIMATORS)),
    st.sampled_from(sorted(SPECS)),
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=30),
)
def test_every_estimator_stays_inside_the_observed_range_around_zero(name: str, spec: str, x: list[float]) -> None:
    histogram = observed(np.array(x, dtype=np.float32))
    low, high = ESTIMATORS[name]()(histogram, SPECS[spec])
    floor, ceiling = min(*x, 0.0), max(*x, 0.0)
    if SPECS[spec].is_symmetric:
        ceiling = max(-floor, ceiling)
        floor = -ceiling
    assert floor <= low <= 0.0 <= high <= ceiling
    encoding_from_range(low, high, SPECS[spec])


@pytest.mark.parametrize("estimator", [MinMax(), Mse(), Percentile(), Entropy()], ids=str)
def test_every_estimator_takes_zeros_and_refuses_nothing_observed(estimator: Estimator) -> None:
    assert estimator(observed(np.zeros(5, dtype=np.float32)), SPECS["u8"]) == (0.0, 0.0)
    with pytest.raises(DataError, match="nothing was observed"):
        estimator(Histogram(), SPECS["u8"])
    only_range = Histogram()
    only_range.update_range(-1.0, 2.0)
    assert estimator(only_range, SPECS["u8"]) == (-1.0, 2.0)


def test_parse_estimator_reads_what_str_writes() -> None:
    for text in ("minmax", "mse", "entropy", "percentile:99.99", "percentile:99.9999"):
        assert str(parse_estimator(text)) == text
    assert parse_estimator(" Percentile ") == Percentile(99.99)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("median", "Unknown range estimator 'median': write minmax, mse, percentile, entropy"),
        ("mse:3", "Unknown range estimator 'mse:3'"),
        ("percentile:many", "not a number"),
        ("percentile:101", "not 101"),
        ("percentile:nan", "not nan"),
    ],
)
def test_parse_estimator_refuses_what_it_does_not_know(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_estimator(text)


def test_mse_takes_milliseconds() -> None:
    histogram = observed(data("heavy"))
    took = []
    for _ in range(5):
        start = time.perf_counter()
        Mse()(histogram, SPECS["u8"])
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05  # 3 ms on the machine it was written on

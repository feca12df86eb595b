import numpy as np
import pytest

from fewbits.errors import SpecError
from fewbits.spec.dtypes import DType, Granularity, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding
from fewbits.spec.plan import Grid, Plan, Role
from fewbits.spec.precision import ACTIVATION_BITS, FP16, FP32, WEIGHT_BITS, Precision

ONE_SCALE = PerTensor()


@pytest.mark.parametrize("weight", WEIGHT_BITS)
@pytest.mark.parametrize("activation", ACTIVATION_BITS)
def test_every_width_parses_and_prints(weight, activation):
    text = f"w{weight}a{activation}"
    assert Precision.parse(text.upper() + " ") == Precision(weight, activation)
    assert str(Precision.parse(text)) == text
    assert not Precision.parse(text).is_float


def test_floats_parse():
    assert Precision.parse("fp16") == FP16
    assert Precision.parse(" FP32") == FP32
    assert (str(FP16), str(FP32), FP16.is_float) == ("fp16", "fp32", True)


def test_blocks_of_weights_parse_and_print():
    assert Precision.parse("W4A16G32") == Precision(4, 16, block_size=32)
    assert str(Precision.parse("w8a8g128")) == "w8a8g128"
    with pytest.raises(SpecError, match=r"blocks of weights \(g32\) are for up to 8 bits; write w16a16"):
        Precision.parse("w16a16g32")


@pytest.mark.parametrize(
    "text", ["w4a8g", "w4a8g0", "w4g32", "w9a8", "w8a3", "w16a32", "int8", "w8", "a8", "fp8", "", "w8a8x", "w 8a8"]
)
def test_other_names_are_refused(text):
    with pytest.raises(SpecError, match=r"Unknown precision .*write w8a8"):
        Precision.parse(text)


@pytest.mark.parametrize(("bits", "width"), [(2, 4), (4, 4), (5, 8), (8, 8), (9, 16), (32, 32)])
def test_container_is_the_narrowest_type_that_holds_the_bits(bits, width):
    assert DType.container(bits, signed=True) is DType(f"int{width}")
    with pytest.raises(SpecError, match="No integer type holds 33 bits"):
        DType.container(33, signed=True)


@pytest.mark.parametrize("dtype", DType)
def test_types_know_width_sign_and_numpy(dtype):
    assert dtype.is_signed == (not dtype.value.startswith("u"))
    assert f"int{dtype.bits}" in dtype.value
    assert dtype.numpy.name == dtype.value


@pytest.mark.parametrize(
    ("dtype", "bits", "symmetric", "ends"),
    [
        (DType.INT8, 8, True, (-127, 127)),
        (DType.INT8, 6, True, (-31, 31)),
        (DType.INT8, 8, False, (-128, 127)),
        (DType.INT4, 4, True, (-7, 7)),
        (DType.UINT8, 8, False, (0, 255)),
        (DType.UINT8, 4, False, (0, 15)),
        (DType.UINT16, 16, True, (0, 65535)),
        (DType.INT32, 32, True, (-(2**31) + 1, 2**31 - 1)),
    ],
)
def test_codes_in_use(dtype, bits, symmetric, ends):
    spec = QuantSpec(dtype, bits, symmetric)
    assert (spec.qmin, spec.qmax) == ends


def test_widths_outside_of_the_container_are_refused():
    for bits in (1, 9):
        with pytest.raises(SpecError, match=f"A grid in int8 has 2 to 8 bits, not {bits}"):
            QuantSpec(DType.INT8, bits, is_symmetric=True)
    with pytest.raises(SpecError, match="at least one element, not 0"):
        PerBlock(0, 0)


def encoding(scale, zero_point, granularity: Granularity = ONE_SCALE) -> Encoding:
    return Encoding(QuantSpec(DType.UINT8, 8, is_symmetric=False, granularity=granularity), scale, np.int64(zero_point))


def test_encoding_knows_its_range():
    low, high = encoding(np.array(0.5, np.float32), np.array(10)).range
    assert (low, high) == (-5.0, 122.5)


@pytest.mark.parametrize(
    ("scale", "zero_point", "match"),
    [
        (np.array(0.5), np.array(0), "needs a float32 scale"),
        (np.array([0.5], np.float32), np.array(0), "of the same shape"),
        (np.array([0.5], np.float32), np.array([0]), "has one scale"),
        (np.array(0, np.float32), np.array(0), "positive finite"),
        (np.array(np.inf, np.float32), np.array(0), "positive finite"),
        (np.array(np.nan, np.float32), np.array(0), "positive finite"),
    ],
)
def test_encodings_that_make_no_sense_are_refused(scale, zero_point, match):
    with pytest.raises(SpecError, match=match):
        encoding(scale, zero_point)


def test_per_channel_encoding_has_a_scale_per_channel():
    assert encoding(np.ones(3, np.float32), np.zeros(3), PerChannel(0)).range[1].shape == (3,)


def test_plan_follows_shared_grids_to_their_source():
    spec = QuantSpec(DType.UINT8, 8, is_symmetric=False)
    grids = {"a": Grid("a", spec, Role.ACTIVATION), "b": Grid("b", spec, Role.ACTIVATION, shares="a")}
    grids["c"] = Grid("c", spec, Role.ACTIVATION, shares="b")
    assert Plan("t", {}, grids, {}, {}, {}).source("c") == "a"


@pytest.mark.parametrize(
    ("dtype", "zero"), [(DType.UINT8, 256), (DType.UINT8, -1), (DType.INT4, 8), (DType.INT8, -129)]
)
def test_zero_points_lie_in_their_type(dtype, zero):
    with pytest.raises(SpecError, match=f"A zero point of {dtype.value} lies in"):
        Encoding(QuantSpec(dtype, dtype.bits, is_symmetric=False), np.array(1, np.float32), np.array(zero, np.int64))

"""quantize and dequantize give ONNX Runtime's own bits (optimizations off, opset 21)."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from fewbits.numerics.affine import broadcast_grid, dequantize, fake_quantize, quantize
from fewbits.spec.dtypes import DType, PerBlock, PerChannel, PerTensor, QuantSpec
from fewbits.spec.encodings import Encoding

DTYPES = (DType.INT4, DType.UINT4, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16)
GRANULARITIES = (PerTensor(), PerChannel(1), PerChannel(-1), PerBlock(1, 2))
SHAPE = (64, 6, 10)


def run_ort(x: np.ndarray, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Return ONNX Runtime's codes (as int32) and dequantized values."""
    element = getattr(TensorProto, encoding.spec.dtype.name)
    granularity = encoding.spec.granularity
    attributes = {} if isinstance(granularity, PerTensor) else {"axis": granularity.axis}
    if isinstance(granularity, PerBlock):
        attributes["block_size"] = granularity.size
    scale = numpy_helper.from_array(encoding.scale, "s")
    zero_point = helper.make_tensor("z", element, encoding.zero_point.shape, encoding.zero_point.ravel().tolist())
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        helper.make_node("Cast", ["q"], ["codes"], to=TensorProto.INT32),
    ]
    outputs = [helper.make_tensor_value_info(n, t, x.shape) for n, t in (("codes", 6), ("y", 1))]
    graph = helper.make_graph(
        nodes, "qdq", [helper.make_tensor_value_info("x", 1, x.shape)], outputs, [scale, zero_point]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    codes, y = session.run(None, {"x": x})
    return codes, y


def encoding_of(dtype: DType, granularity: PerTensor | PerChannel | PerBlock, rng: np.random.Generator) -> Encoding:
    spec = QuantSpec(dtype, dtype.bits, is_symmetric=False, granularity=granularity)
    shape: tuple[int, ...] = ()
    if isinstance(granularity, PerChannel):
        shape = (SHAPE[granularity.axis],)
    elif isinstance(granularity, PerBlock):
        shape = (SHAPE[0], SHAPE[1] // granularity.size, SHAPE[2])
    scale = np.asarray(rng.uniform(0.01, 0.1, shape), dtype=np.float32)
    return Encoding(spec, scale, np.asarray(rng.integers(spec.qmin, spec.qmax + 1, shape), dtype=np.int64))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.value)
def test_quantize_has_the_bits_of_onnx_runtime(dtype: DType, granularity: PerTensor | PerChannel | PerBlock) -> None:
    rng = np.random.default_rng(7)
    encoding = encoding_of(dtype, granularity, rng)
    # Codes and a bit beyond, on ties and a float32 step beside them.
    halves = rng.integers(-(2 ** (dtype.bits + 1)), 2 ** (dtype.bits + 1), SHAPE).astype(np.float32) / 2
    x = halves * broadcast_grid(SHAPE, encoding)[0]
    x = np.nextafter(x, x + rng.integers(-1, 2, SHAPE).astype(np.float32))
    x[0] = rng.normal(0, 1e4, SHAPE[1:])
    codes, y = run_ort(x, encoding)
    np.testing.assert_array_equal(quantize(x, encoding).astype(np.int32), codes)
    np.testing.assert_array_equal(dequantize(quantize(x, encoding), encoding), y)
    np.testing.assert_array_equal(fake_quantize(x, encoding), y)


@pytest.mark.parametrize("dtype", [DType.INT4, DType.INT8, DType.INT16], ids=lambda d: d.value)
def test_quantize_symmetric_is_onnx_runtime_clipped_to_the_codes_in_use(dtype: DType) -> None:
    rng = np.random.default_rng(8)
    spec = QuantSpec(dtype, dtype.bits, is_symmetric=True)
    encoding = Encoding(spec, np.asarray(0.037, dtype=np.float32), np.asarray(0))
    x = (rng.uniform(-1.2, 1.2, SHAPE) * 2.0 ** (dtype.bits - 1) * 0.037).astype(np.float32)
    codes, _ = run_ort(x, encoding)
    assert codes.min() == spec.qmin - 1, "the test reaches the code that symmetric grids leave unused"
    np.testing.assert_array_equal(quantize(x, encoding).astype(np.int32), np.clip(codes, spec.qmin, spec.qmax))

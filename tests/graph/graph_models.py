"""Small models as ONNX text, and how two models are compared."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper, parser

from fewbits.graph.load import load_model
from fewbits.graph.passes.base import PassResult
from fewbits.graph.save import to_bytes
from fewbits.graph.shapes import infer_shapes

# A fold rounds each weight once (2^-24) and reorders sums of at most ~100 terms: 1e-5 of the largest output is generous
# for that, and far below what a wrong channel or axis causes.
RTOL = 1e-5


def proto(text: str, *, opset: int = 21, domains: str = "", **constants: np.ndarray) -> onnx.ModelProto:
    """Parse the text of a graph; the named inputs become initializers with these values."""
    imports = f'"": {opset}' + (f", {domains}" if domains else "")
    result = parser.parse_model(f"<ir_version: {10 if opset >= 21 else 8}, opset_import: [{imports}]> {text}")
    for name, array in constants.items():
        value = next(info for info in result.graph.input if info.name == name)
        result.graph.input.remove(value)
        result.graph.initializer.append(numpy_helper.from_array(array, name))
    return result


def graph(text: str, *, opset: int = 21, domains: str = "", **constants: np.ndarray) -> ir.Model:
    """Return the loaded graph of `proto`."""
    return load_model(proto(text, opset=opset, domains=domains, **constants))


def session(data: bytes) -> ort.InferenceSession:
    """Load a model as the runtime does; raises if it does not run."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model: ir.Model | onnx.ModelProto | bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs by name."""
    data = model if isinstance(model, bytes) else to_bytes(model) if isinstance(model, ir.Model) else None
    loaded = session(data if data is not None else model.SerializeToString())
    names = [output.name for output in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, dict(feeds)), strict=True))


def assert_same(before, after, feeds: Mapping[str, np.ndarray]) -> None:
    """Check that two models give the same outputs under the same names."""
    old, new = run(before, feeds), run(after, feeds)
    assert old.keys() == new.keys()
    for name, expected in old.items():
        assert new[name].shape == expected.shape
        assert new[name].dtype == expected.dtype
        np.testing.assert_allclose(new[name], expected, rtol=0, atol=RTOL * max(float(np.abs(expected).max()), 1e-6))


def ops(model: ir.Model) -> list[str]:
    """Return the operators in order."""
    return [node.op_type for node in model.graph]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bn_parameters(channels: int, seed: int = 7) -> dict[str, np.ndarray]:
    """Return gamma `g`, beta `b`, mean `m`, variance `v` of a BatchNormalization, far from the identity."""
    rng = np.random.default_rng(seed)
    values = {"g": rng.uniform(-2, 2, channels), "b": rng.normal(size=channels), "m": rng.normal(size=channels)}
    values["v"] = rng.uniform(0.1, 3, channels)
    return {name: value.astype(np.float32) for name, value in values.items()}


def applied(run_pass, model: ir.Model, feeds) -> tuple[ir.Model, PassResult]:
    """Run a pass on a copy; check that outputs stay, and that a second run finds nothing."""
    infer_shapes(model)
    after = load_model(model)
    result = run_pass(after)
    assert_same(model, after, feeds)
    infer_shapes(after)
    assert run_pass(after).changed == ()
    return after, result


def reasons(result: PassResult) -> str:
    return "; ".join(map(str, result.declined))

"""Small networks with one planted fault each, and their healthy twins; and how they are analyzed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser

from fewbits.analysis.diagnose import Finding, diagnose
from fewbits.analysis.sensitivity import PARTS, Figure, Sensitivity
from fewbits.analysis.tensors import TensorFacts
from fewbits.quantization.groups import find_groups
from fewbits.runtime.session import RunOptions
from fewbits.workflow.brute_force import brute_force
from fewbits.workflow.calibrate import Calibration, calibrate
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.tensor_facts import tensor_facts

N = 16


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def proto(text: str, **arrays: np.ndarray) -> onnx.ModelProto:
    """Parse a graph; nodes are named by their first output, `arrays` become initializers."""
    result = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    for node in result.graph.node:
        node.name = next(name for name in node.output if name)
    for output in result.graph.output:
        if not output.type.tensor_type.shape.dim:  # "float y" reads as a scalar; what is meant is "see for yourself"
            output.type.tensor_type.ClearField("shape")
    for name, array in arrays.items():
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return result


def observed(model: onnx.ModelProto, data: Mapping[str, np.ndarray], **options) -> Calibration:
    return calibrate(model, data=dict(data), simplify=False, run_options=RunOptions(threads=1), **options)


@dataclass(frozen=True)
class Analysis:
    """One network in one precision, with everything that a diagnosis rests on."""

    calibration: Calibration
    made: Quantized
    facts: TensorFacts
    sensitivity: Sensitivity
    precision: str

    def findings(self, **changes) -> tuple[Finding, ...]:
        return diagnose(
            self.calibration.model.graph, self.made.plan, self.made.encoded, self.facts,
            changes.pop("sensitivity", self.sensitivity), self.sensitivity.groups, precision=self.precision, **changes,
        )  # fmt: skip

    def finding(self, cause: str) -> Finding:
        return next(f for f in self.findings() if f.cause == cause)

    @property
    def causes(self) -> set[str]:
        return {finding.cause for finding in self.findings()}


def analysis(
    model: onnx.ModelProto, data: Mapping[str, np.ndarray], precision="w8a8", *, wider=("w8a16", "fp16"),
    ranges="minmax", samples=64, **options,
) -> Analysis:  # fmt: skip
    """Analyze by brute force in `precision` and in wider ones."""
    calibration = observed(model, data, **options)
    others = [quantize_calibrated(calibration, p, ranges=ranges) for p in wider if p != precision]
    made = quantize_calibrated(calibration, precision, ranges=ranges)
    sensitivity = brute_force(calibration, [made, *others], parts=PARTS, samples=samples)
    return Analysis(calibration, made, tensor_facts(calibration, made, samples=samples), sensitivity, precision)


def made_up(calibration: Calibration, errors: Mapping[str, tuple[float, ...]], precision="w8a8") -> Sensitivity:
    """Return a sensitivity of given errors: group -> (all, weights, activations) or (all,); zero for other groups."""
    groups = find_groups(calibration.model.graph, calibration.target)
    figures = {(g.name, precision, "all"): Figure(0.0) for g in groups}
    for name, given in errors.items():
        figures |= {(name, precision, part): Figure(e) for part, e in zip(PARTS, given, strict=False)}
    return Sensitivity("made-up", groups, (precision,), 1, 0, ("y",), figures)


IMAGES = {"x": normal(N, 3, 8, 8, seed=11)}
CONVS = """g (float[N, 3, 8, 8] x) => (float y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (a)
    c = Conv <pads = [1,1,1,1]> (r, w2, b2) s = Relu (c)
    p = GlobalAveragePool (s) f = Flatten (p) y = Gemm <transB = 1> (f, w3, b3) }"""


def conv_weights() -> dict[str, np.ndarray]:
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (4, 8)}
    weights = {name: normal(*shape, seed=i, scale=0.3) for i, (name, shape) in enumerate(shapes.items())}
    return weights | {"b1": normal(8, seed=5) / 10, "b2": normal(8, seed=6) / 10, "b3": normal(4, seed=7) / 10}


def convs(channel: int = 3, factor: float = 1.0) -> onnx.ModelProto:
    """Three layers; channel `channel` of the first one is scaled, and scaled back by the weights of the second."""
    arrays = conv_weights()
    for name in ("w1", "b1"):
        arrays[name][channel] *= factor
    arrays["w2"][:, channel] /= factor
    return proto(CONVS, **arrays)


VECTORS = {"x": normal(N, 16, seed=12)}


def gemms(channel: int = 5, factor: float = 1.0) -> onnx.ModelProto:
    """Two layers; output `channel` of the first one is scaled, and scaled back by the second."""
    w1, w2 = normal(16, 16, seed=1), normal(16, 4, seed=2)
    w1[:, channel] *= factor
    w2[channel] /= factor
    text = "g (float[N, 16] x) => (float y) { h = Gemm (x, w1, b1) r = Relu (h) y = Gemm (r, w2) }"
    return proto(text, w1=w1, b1=np.zeros(16, np.float32), w2=w2)


MANY = {"x": normal(400, 16, seed=15)}


def with_tail() -> dict[str, np.ndarray]:
    """Many vectors; two elements of them, in two samples and channels, are very large."""
    x = MANY["x"].copy()
    x[3, 2] = x[29, 9] = 60
    return {"x": x}


TOKENS = {"x": normal(N, 6, 8, seed=13), "keep": np.tile(np.arange(6) < 4, (N, 1, 1))}


def attention(mask: float) -> onnx.ModelProto:
    """Scores are masked, and scaled afterwards: the masked tensor is not what the Softmax reads."""
    text = """g (float[N, 6, 8] x, bool[N, 1, 6] keep) => (float y) {
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv) t = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, t) m = Where (keep, s, low) h = Mul (m, scale) p = Softmax (h) o = MatMul (p, v)
        y = Add (o, x) }"""
    weights = {name: normal(8, 8, seed=i, scale=0.35) for i, name in enumerate(("wq", "wk", "wv"))}
    return proto(text, low=np.float32(mask), scale=np.float32(0.5), **weights)


LAYER_NORM = "n = LayerNormalization <axis = -1, epsilon = 0.00001> (h, gamma, beta)"
LAYER_NORM_PIECES = """mu = ReduceMean <keepdims = 1> (h, last) d = Sub (h, mu) sq = Pow (d, two)
    var = ReduceMean <keepdims = 1> (sq, last) e = Add (var, eps) sd = Sqrt (e) z = Div (d, sd)
    zg = Mul (z, gamma) n = Add (zg, beta)"""
RMS_NORM_PIECES = """sq = Mul (h, h) var = ReduceMean <keepdims = 1> (sq, last) e = Add (var, eps) sd = Sqrt (e)
    inv = Reciprocal (sd) z = Mul (h, inv) n = Mul (z, gamma)"""


def normalized(norm: str) -> onnx.ModelProto:
    """A normalization between two layers."""
    text = f"g (float[N, 6, 8] x) => (float y) {{ h = MatMul (x, w1) {norm} y = MatMul (n, w2) }}"
    arrays = {
        "last": np.int64([-1]), "two": np.float32(2), "eps": np.float32(1e-5), "gamma": 1 + normal(8, seed=3) / 10,
        "beta": normal(8, seed=4) / 10,
    }  # fmt: skip
    used = {name: array for name, array in arrays.items() if f"{name})" in norm or f"{name}," in norm}
    return proto(text, w1=normal(8, 8, seed=1), w2=normal(8, 8, seed=2), **used)


SEQUENCES = {"x": normal(N, 6, 8, seed=14) * np.geomspace(0.02, 3, N * 6).reshape(N, 6, 1).astype(np.float32)}


def branches(factor: float) -> onnx.ModelProto:
    """Two branches of one input are added; the second one is `factor` times as large."""
    text = """g (float[N, 3, 8, 8] x) => (float y) {
        a = Conv (x, w1) b = Conv (x, w2) s = Add (a, b) p = Conv (s, w3) y = Relu (p) }"""
    w1, w2 = normal(8, 3, 1, 1, seed=1), normal(8, 3, 1, 1, seed=2) * factor
    return proto(text, w1=w1, w2=w2.astype(np.float32), w3=normal(4, 8, 1, 1, seed=3))


def detector(box_scale: float, operator: str = "Concat <axis = 1>") -> onnx.ModelProto:
    """Boxes and scores side by side."""
    text = f"""g (float[N, 3, 8, 8] x) => (float y) {{
        h = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu (h)
        box = Conv (r, w2) c = Conv (r, w3) score = Sigmoid (c) j = {operator} (box, score)
        y = Reshape (j, shape) }}"""
    arrays = {k: v for k, v in conv_weights().items() if k in ("w1", "b1")}
    boxes = normal(4, 8, 1, 1, seed=8, scale=0.2 * box_scale)
    scores = normal(3, 8, 1, 1, seed=9, scale=0.5)
    return proto(text, w2=boxes, w3=scores, shape=np.int64([0, 7, -1]), **arrays)

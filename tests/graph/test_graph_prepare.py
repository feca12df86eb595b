import os
from pathlib import Path

import numpy as np
import pytest
from graph_models import assert_same, bn_parameters, graph, normal, ops, run, session

from fewbits.errors import ModelError
from fewbits.graph.load import load_model
from fewbits.graph.prepare import PASSES, prepare

ASSETS = Path(os.environ.get("FEWBITS_ASSETS", Path(__file__).parents[2].parent / "shared" / "assets"))

TEXT = """g (float[n,3,8,8] x, float[4,3,3,3] w, float[4,1,3,3] d, float[4] g, float[4] b, float[4] m, float[4] v,
           float[4,5] k, float[5] c) => (float[n,5] y) {
    a = Conv <pads=[1,1,1,1]> (x, w) [bn1] p = BatchNormalization (a, g, b, m, v) i = Identity(p) r = Relu(i)
    [bn2] q = BatchNormalization (r, g, b, m, v) e = Conv <group=4, pads=[1,1,1,1]> (q, d) s = Add(e, q)
    one = Constant <value_floats=[1.0]> () t = Mul(s, one) h = GlobalAveragePool(t) f = Flatten(h) z = MatMul(f, k)
    y = Add(z, c) unused = Neg(f) }"""


def model(opset: int = 13):
    arrays = {"w": normal(4, 3, 3, 3), "d": normal(4, 1, 3, 3), "k": normal(4, 5), "c": normal(5, seed=3)}
    return graph(TEXT, opset=opset, **arrays, **bn_parameters(4))


FEEDS = {"x": normal(2, 3, 8, 8, seed=5)}


@pytest.mark.parametrize("simplify", [True, False])
def test_prepare_keeps_outputs(simplify):
    before = model()
    prepared = prepare(before, simplify=simplify, check=session)
    assert prepared.is_changed
    assert_same(before, prepared.model, FEEDS)
    assert prepared.model.opset_imports[""] == 21
    assert not {"BatchNormalization", "Identity", "Constant", "Neg", "MatMul"} & set(ops(prepared.model))


def test_prepare_leaves_its_argument():
    before = model()
    data = ops(before), before.opset_imports[""], sorted(before.graph.initializers)
    prepare(before)
    assert (ops(before), before.opset_imports[""], sorted(before.graph.initializers)) == data


@pytest.mark.parametrize("simplify", [True, False])
def test_prepare_twice_changes_nothing(simplify):
    once = prepare(model(), simplify=simplify)
    twice = prepare(once.model, simplify=simplify)
    assert not twice.is_changed, [(report.name, report.changed) for report in twice.changes]
    assert ops(twice.model) == ops(once.model)


def test_prepare_reports_by_pass():
    reports = {report.name: report for report in prepare(model()).changes}
    assert set(reports) <= {"types", "opset", *(row.name for row in PASSES)}
    assert "BatchNormalization 'bn1' folded into Conv" in reports["fold-batchnorm"].changed[0]
    assert reports["lower-batchnorm"].changed == ("BatchNormalization 'bn2' became Mul and Add",)
    assert reports["opset"].changed == ("ai.onnx opset 13 -> 21 (onnx's converter)",)
    assert reports["fold-batchnorm"].declined == ()  # bn2 found no home, and was lowered: nothing is left to say


def test_prepare_infers_shapes():
    for node in prepare(model()).model.graph:
        assert node.name
        for value in node.outputs:
            assert value.name
            assert value.shape is not None
            assert value.dtype is not None


def test_prepare_refuses_nan():
    weight = normal(4, 3, 3, 3)
    weight[0, 0, 0, 0] = np.nan
    broken = graph("g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }", w=weight)
    with pytest.raises(ModelError, match=r"'w' .* holds NaN"):
        prepare(broken)


def test_prepare_takes_other_types_in_as_float32():
    text = "g (float16[1,3,8,8] x, float16[4,3,3,3] w) => (float16[1,4,6,6] y) { y = Conv(x, w) }"
    prepared = prepare(graph(text, w=normal(4, 3, 3, 3).astype(np.float16)))
    assert prepared.changes[0].name == "to-float32"
    assert "float16: 2 tensors (1 constants) are float32 now, the same numbers" in prepared.changes[0].changed
    assert prepared.model.graph.initializers["w"].const_value.dtype.name == "FLOAT"


def test_prepare_says_that_other_types_stay():
    text = "g (float16[2] x, float16[2] w) => (float16[2] y) { a = vendor.Magic(x) y = Add(a, w) }"
    prepared = prepare(graph(text, domains='"vendor": 1', w=normal(2).astype(np.float16)))
    assert "float16: 1 constants have this type, which is left as it is" in map(str, prepared.declined)
    assert "vendor::Magic computes are not known, so that the model keeps its own types" in str(prepared.declined[0])
    assert prepared.model.graph.initializers["w"].const_value.dtype.name == "FLOAT16"


def test_prepare_keeps_custom_operators():
    text = "g (float[2] x) => (float[2] y) { a = vendor.Magic(x) b = Identity(a) y = Neg(b) }"
    prepared = prepare(graph(text, opset=13, domains='"vendor": 1'))
    assert ops(prepared.model) == ["Magic", "Neg"]


SHAPES = {
    "cifar10_resnet20": (2, 3, 32, 32),
    "cifar10_resnet56": (2, 3, 32, 32),
    "fastestdet_coco": (1, 3, 352, 352),
    "imdn_rtc_x2": (1, 3, 40, 56),
    "kwt1_speechcommands": (2, 98, 40),
    "mobilenetv1_0.75_imagenet": (1, 3, 224, 224),
    "mobilenetv2_1.0_imagenet": (1, 3, 224, 224),
    "stories260k": (2, 17),
}


def plausible(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if name == "stories260k":
        return rng.integers(1, 500, SHAPES[name])
    low = 0 if name in ("fastestdet_coco", "imdn_rtc_x2") else -1
    return rng.uniform(low, 1, SHAPES[name]).astype(np.float32)


@pytest.mark.assets
@pytest.mark.parametrize("name", SHAPES)
def test_prepare_real_networks(name):
    path = ASSETS / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing: set FEWBITS_ASSETS to the folder of development networks")
    before = load_model(path)
    prepared = prepare(before, check=session)
    feeds = {before.graph.inputs[0].name: plausible(name)}
    expected, got = run(path.read_bytes(), feeds), run(prepared.model, feeds)
    for output, reference in expected.items():
        signal = np.square(reference.astype(np.float64)).sum()
        noise = np.square(reference.astype(np.float64) - got[output]).sum()
        # folding rounds each weight once (2^-24, -144 dB), amplified a little by depth: 90 dB leaves room for that only
        assert noise <= signal * 10 ** (-90 / 10)
    assert "BatchNormalization" not in ops(prepared.model)
    assert prepared.model.opset_imports[""] == 21
    assert not prepare(prepared.model).is_changed


@pytest.mark.assets
@pytest.mark.parametrize("batch", [1, 3])
def test_prepare_fuses_a_transformer(batch):
    path = ASSETS / "models" / "kwt1_speechcommands.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing: set FEWBITS_ASSETS to the folder of development networks")
    prepared = prepare(load_model(path), check=session)
    assert {op: ops(prepared.model).count(op) for op in ("Gelu", "Tanh", "Gemm", "MatMul")} == {
        "Gelu": 12,  # one in each block
        "Tanh": 0,
        "Gemm": 38,  # 3 in each block, the projection before them, the head behind them
        "MatMul": 60,  # 5 in each block: q, k and v have no bias, two multiply activations
    }
    feeds = {"mfcc": np.random.default_rng(0).uniform(-1, 1, (batch, 98, 40)).astype(np.float32)}
    expected, got = (run(data, feeds)["logits"].astype(np.float64) for data in (path.read_bytes(), prepared.model))
    # sums in another order, and Tanh of another kernel: 24 bits, amplified by depth
    assert np.square(expected - got).sum() <= np.square(expected).sum() * 10 ** (-90 / 10)

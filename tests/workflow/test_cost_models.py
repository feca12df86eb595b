"""Cost models on the small network of the other tests; Qualcomm's compiler is stood in for."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from fewbits.analysis.cost import cost_of
from fewbits.analysis.costs import Costs
from fewbits.errors import MissingExtraError, ModelError, SpecError
from fewbits.graph.save import save_model
from fewbits.runtime.profile_session import NodeTime, time_session
from fewbits.runtime.session import RunOptions
from fewbits.runtime.store import Store
from fewbits.workflow import cost_conversions, cost_ort, cost_profiles, cost_qnn
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.cost_context import CostContext
from fewbits.workflow.cost_models import COST_MODELS, parse_cost
from fewbits.workflow.cost_ort import groups_of, ort_latency_costs

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
PRECISIONS = ("w8a8", "w8a16", "fp16")
GROUPS = {"conv1", "conv2", "add", "mul", "pool", "head"}


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib, run_options=RunOptions(threads=1))


@pytest.fixture
def context(calibration):
    return CostContext(calibration)


def mixed(context, seed):
    rng = np.random.default_rng(seed)
    return {group.name: str(rng.choice(PRECISIONS)) for group in context.groups}


def uniform(context, precision):
    return {group.name: precision for group in context.groups}


@pytest.mark.parametrize("name", ["bitops", "bytes"])
def test_counts_know_every_group_in_every_precision(context, name):
    costs = COST_MODELS[name](context, PRECISIONS)
    assert set(costs.groups) == GROUPS
    assert all(set(known) == set(PRECISIONS) for known in costs.groups.values())
    assert (costs.name, costs.is_estimate) == (name, False)


def test_bit_operations_are_those_that_candidates_are_compared_by(context):
    costs = parse_cost("bitops")(context, PRECISIONS)
    for seed in range(5):
        made = context.make(mixed(context, seed))
        expected = cost_of(context.calibration.model, made.model, made.plan, context.sizes).bit_operations
        profile = mixed(context, seed)
        assert costs.total(profile) - costs.converting(profile) == expected


@pytest.fixture(scope="module")
def measured(calibration, tmp_path_factory):
    """Costs, measured once, and the store that holds them."""
    path = tmp_path_factory.mktemp("costs") / "store.sqlite"
    with Store(path) as store:
        return ort_latency_costs(CostContext(calibration, store), PRECISIONS), path


def test_measured_times_of_groups_add_up_to_a_run(calibration, measured, tmp_path):
    costs, path = measured
    with Store(path) as store:
        context = CostContext(calibration, store)
        for precision in PRECISIONS:
            file = tmp_path / precision / "model.onnx"
            save_model(context.make(uniform(context, precision)).model, file)
            run = time_session(file, context.feeds, options=RunOptions(threads=1))
            # the same statistic of two sets of runs, minutes apart on a machine that may be busy
            assert run / 5 < costs.total(uniform(context, precision)) < 5 * run


def test_what_was_measured_is_not_measured_again(calibration, measured, monkeypatch):
    costs, path = measured
    for name in ("profile_session", "time_session"):
        monkeypatch.setattr(cost_profiles, name, lambda *_, **__: pytest.fail("it ran again"))
    with Store(path) as store:
        again = ort_latency_costs(CostContext(calibration, store), PRECISIONS)
    assert (again.groups, again.conversions, again.fixed) == (costs.groups, costs.conversions, costs.fixed)
    assert again.typed == costs.typed


def test_measured_costs_are_amounts_of_every_group_and_conversion(measured):
    costs, _ = measured
    assert set(costs.groups) == GROUPS
    amounts = [costs.fixed, *(cost for known in costs.groups.values() for cost in known.values())]
    amounts += [cost for pairs in costs.typed.values() for cost in pairs.values()]
    assert all(math.isfinite(cost) and cost >= 0 for cost in amounts)
    assert min(costs.groups["conv1"].values()) > 0
    assert set(costs.conversions) == {("conv1", "conv2"), ("conv1", "add"), ("conv2", "add"), ("mul", "pool"),
                                      ("pool", "head"), ("add", "mul")}  # fmt: skip
    assert len(costs.typed) == 6
    assert costs.is_estimate


def test_one_precision_needs_no_conversions(context, monkeypatch):
    monkeypatch.setattr(cost_ort, "remembered_time", lambda *_: pytest.fail("nothing is mixed"))
    monkeypatch.setattr(cost_conversions, "remembered_profile", lambda *_: pytest.fail("nothing is mixed"))
    costs = ort_latency_costs(context, ["w8a8"])
    assert (costs.conversions, costs.typed) == ({}, {})


def test_nodes_that_onnxruntime_made_up_find_their_groups(context):
    quantized = context.make(uniform(context, "fp16")).model.graph

    def node(op, name, reads, writes):
        return NodeTime(name, op, tuple(reads), tuple(writes), 1.0)

    nodes = [
        node("Cast", "InsertedPrecisionFreeCast_w1_fp16", ["w1_fp16"], ["w1_cast"]),  # a weight: its reader's
        node("ReorderInput", "ReorderInput", ["image"], ["reorder_token_1"]),
        node("Conv", "InsertedPrecisionFreeCast_r_fp16_nchwc", ["reorder_token_1", "w1_cast"], ["reorder_token_2"]),
        node("ReorderOutput", "ReorderOutput_token_3", ["reorder_token_2"], ["InsertedPrecisionFreeCast_r_fp16"]),
        node("Conv", "conv2_token_7", ["InsertedPrecisionFreeCast_r_fp16"], ["conv2"]),
        node("Pow", "", ["conv2"], ["_inlfunc_1"]),  # the body of a function ends in what it stands for
        node("Sum", "", ["_inlfunc_1"], ["InsertedPrecisionFreeCast_s_fp16"]),
        node("Erf", "erf", ["InsertedPrecisionFreeCast_s_fp16"], ["e"]),
        node("Gemm", "head", ["e"], ["logits"]),
        node("Unknown", "", ["logits"], ["far"]),  # nothing reads it: what is before it
        node("Unknown", "", [], ["lost"]),
    ]
    found = groups_of(quantized, context.layout(["fp16"]), nodes)
    assert found == ["conv1", "conv1", "conv1", "conv1", "conv2", "add", "add", "", "head", "head", ""]


class Compiler:
    """Stands in for the compiler: 100 us, 10 per quantizer that is not 8 bits wide, 1 per other quantizer."""

    def __init__(self, refused=()):
        self.models, self.refused = [], refused

    def __call__(self, path, *, soc, dims):
        proto = onnx.load(path)
        kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
        steps = [kinds[n.input[2]] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
        halves = sum(n.op_type == "Cast" for n in proto.graph.node)
        self.models.append((soc, dict(dims)))
        if "fp16" in self.refused and halves and not steps:
            raise ModelError("The compiler has no cost for 1 operators of this model.")
        wide = sum(kind != onnx.TensorProto.UINT8 for kind in steps)
        latency = 100 + 10 * wide + (len(steps) - wide) + 3 * halves
        return SimpleNamespace(estimate=SimpleNamespace(latency_us=latency))


@pytest.fixture
def compiler(monkeypatch):
    stand_in = Compiler()
    monkeypatch.setattr(cost_qnn, "estimate", stand_in)
    monkeypatch.setattr(cost_qnn, "need_qnn", lambda: None)
    return stand_in


def test_estimates_of_whole_models_are_spread_over_groups(context, compiler):
    costs = parse_cost("qnn-estimate:soc77")(context, PRECISIONS)
    for precision in PRECISIONS:
        made = context.make(uniform(context, precision))
        steps = sum(node.op_type == "QuantizeLinear" for node in made.model.graph)
        halves = sum(node.op_type == "Cast" for node in made.model.graph)
        expected = 100 + steps * {"w8a8": 1, "w8a16": 10, "fp16": 0}[precision] + 3 * halves
        assert costs.total(uniform(context, precision)) == pytest.approx(expected)
    assert len(compiler.models) == 3 + 3 * cost_qnn.PROBES
    assert set(map(str, compiler.models)) == {"('soc77', {'N': 1})"}
    assert costs.groups["conv2"]["w8a8"] > costs.groups["conv1"]["w8a8"] > costs.groups["pool"]["w8a8"] > 0
    assert sum(costs.typed["uint8", "uint16"].values()) > 0  # each needs a quantizer more
    assert (costs.name, costs.unit, costs.is_estimate) == ("qnn-estimate:soc77", "us", True)


def test_estimates_are_asked_for_once(calibration, compiler, tmp_path):
    found = []
    for _ in range(2):
        with Store(tmp_path / "store.sqlite") as store:
            found.append(parse_cost("qnn-estimate:77")(CostContext(calibration, store), ["w8a8", "w8a16"]))
    assert len(compiler.models) == 2 + cost_qnn.PROBES
    assert found[0].groups == found[1].groups
    assert found[0].typed == found[1].typed


def test_a_precision_without_an_estimate_is_named(context, compiler):
    compiler.refused = ("fp16",)
    with pytest.raises(
        ModelError, match=r"no estimate of the network in fp16: The compiler has no cost .*\. Leave it out"
    ):
        parse_cost("qnn-estimate:soc77")(context, PRECISIONS)


@pytest.mark.parametrize("refused", [2, 100])
def test_mixed_profiles_without_an_estimate_are_passed_over(refused, context, compiler, monkeypatch, caplog):
    def picky(path, *, soc, dims):
        found = compiler(path, soc=soc, dims=dims)
        if 2 < len(compiler.models) <= 2 + refused:  # the first two are uniform
            raise ModelError("No cost.")
        return found

    monkeypatch.setattr(cost_qnn, "estimate", picky)
    costs = parse_cost("qnn-estimate:soc77")(context, ["w8a8", "w8a16"])
    is_warned = "no estimate of any profile that mixes uint16 and uint8: changes between them are" in caplog.text
    assert any(costs.conversions.values()) is not is_warned
    assert is_warned is (refused == 100)


def test_a_group_that_overflows_has_no_float16_cost_and_the_others_share_the_rest(tiny, compiler):
    proto = onnx.load(tiny.model)
    for node in proto.graph.node:
        if node.name == "add":
            node.input[1] = "huge"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 8, 1, 1), 4e4, np.float32), "huge"))
    context = CostContext(calibrate(proto, data=tiny.calib, run_options=RunOptions(threads=1)))
    costs = parse_cost("qnn-estimate:soc77")(context, ["fp16", "w8a8"])
    lacking = {name for name, known in costs.groups.items() if "fp16" not in known}
    assert lacking == {"conv2", "mul", "pool", "head"}  # the constant was folded into conv2
    profile = {name: "w8a8" if name in lacking else "fp16" for name in costs.groups}
    without = Costs("", "", costs.groups, {}, 0.0, True)
    made = context.make(profile).model
    assert without.total(profile) == pytest.approx(
        100
        + 3 * sum(node.op_type == "Cast" for node in made.graph)
        + sum(node.op_type == "QuantizeLinear" for node in made.graph)
    )
    with pytest.raises(SpecError, match=r"Group '\w+' can run in none of fp16 \(fp16 overflows.*\): add a precision"):
        context.layout(["fp16"])


def test_the_extra_is_asked_for(context, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install 'fewbits"):
        parse_cost("qnn-estimate:soc77")(context, PRECISIONS)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_qnn") is None, reason="needs pip install '.[qnn]'")
def test_the_compiler_itself_is_asked(monkeypatch):
    monkeypatch.setattr(cost_qnn, "PROBES", 2)
    samples = calibrate(DIGITS / "digits.onnx", data=DIGITS / "calib.npz", samples=8, run_options=RunOptions(threads=1))
    context = CostContext(samples)
    costs = parse_cost("qnn-estimate:soc77")(context, ["w8a8", "w8a16"])
    totals = {precision: costs.total(uniform(context, precision)) for precision in ("w8a8", "w8a16")}
    assert totals["w8a8"] > 0
    assert all(total == pytest.approx(round(total)) for total in totals.values())  # the compiler's own, in whole us
    assert len(costs.groups) > 4


def test_a_table_belongs_to_its_network(context, tmp_path):
    path = tmp_path / "Costs.CSV"
    path.write_text("group,precision,cost\n" + "".join(f"{name},w8a8,2\n" for name in GROUPS))
    assert parse_cost(str(path))(context, ["w8a8"]).total(uniform(context, "w8a8")) == 2 * len(GROUPS)
    with pytest.raises(SpecError, match="has no cost of group 'conv1' in fp16"):
        parse_cost(str(path))(context, ["w8a8", "fp16"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "bitop",
            r"Unknown cost 'bitop': write bitops, bytes, ort-latency, qnn-estimate:CHIP or FILE.csv. Did you mean",
        ),
        ("bitops:1", "Unknown cost 'bitops:1'"),
        ("", "Unknown cost ''"),
        ("qnn-estimate", "needs a chip: write qnn-estimate:CHIP with one of soc52, soc77"),
        ("qnn-estimate:sm8650", "no latency estimates for sm8650: it has them for soc52"),
        ("qnn-estimate:x", "Unknown chip 'x'"),
    ],
)
def test_costs_of_other_names_are_refused(text, words):
    with pytest.raises(SpecError, match=words):
        parse_cost(text)


def test_precisions_are_checked(context):
    with pytest.raises(SpecError, match="No precision was named"):
        parse_cost("bitops")(context, [])
    with pytest.raises(SpecError, match="Unknown precision 'w9a8'"):
        parse_cost("bitops")(context, ["w9a8"])

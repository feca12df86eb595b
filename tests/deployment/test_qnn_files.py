"""What is read and said of Qualcomm's compiler, without it: graphs, profiles, refusals."""

import json

import numpy as np
import onnx
import pytest

from fewbits.deployment import qnn
from fewbits.deployment.place_certificate import compare_outputs
from fewbits.deployment.qdq_view import QdqView
from fewbits.deployment.qnn_graph import compiled_types, planned_types
from fewbits.deployment.qnn_profile import read_estimate
from fewbits.deployment.qnn_worker import GRAPHS, PROFILE
from fewbits.errors import MissingExtraError, ModelError
from fewbits.spec.soc import find_soc

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1, 4] x) => (float[1, 4] y)
<float s = {0.5}, uint8 z8 = {128}, uint16 z16 = {32768}>
{
  xq = QuantizeLinear (x, s, z8)  xd = DequantizeLinear (xq, s, z8)
  a = Neg (xd)  r = Relu (a)
  rq = QuantizeLinear (r, s, z8)  rd = DequantizeLinear (rq, s, z8)
  wq = QuantizeLinear (rd, s, z16)  wd = DequantizeLinear (wq, s, z16)
  b = Abs (wd)
  yq = QuantizeLinear (b, s, z16)  y = DequantizeLinear (yq, s, z16)
}"""


@pytest.fixture
def model(tmp_path):
    made = onnx.parser.parse_model(TEXT)
    for node in made.graph.node:
        node.name = node.output[0]
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def dump(folder, **kinds):
    """Write a compiled graph: node -> (operator, type of its output)."""
    (folder / GRAPHS).mkdir()
    nodes = {name: {"type": op, "output_names": [f"{name}_out"]} for name, (op, _) in kinds.items()}
    tensors = {f"{name}_out": {"data_type": kind} for name, (_, kind) in kinds.items()}
    (folder / GRAPHS / "g.json").write_text(json.dumps({"graph": {"nodes": nodes, "tensors": tensors}}))
    (folder / GRAPHS / "g_tensor_log.json").write_text("{}")


def test_planned_types_come_from_the_grid_behind_a_node_and_its_activation(model):
    assert planned_types(model) == {"a": ("Neg", "uint8"), "r": ("Relu", "uint8"), "b": ("Abs", "uint16")}


def test_types_that_agree_are_counted(model, tmp_path):
    dump(tmp_path, a_token_7=("ElementWiseNeg", 1032), b=("ElementWiseAbs", 1046), wq=("Convert", 1046))
    found = compiled_types(model, tmp_path)
    assert (found.wrong, found.checked, found.folded) == ((), 2, ("r",))
    assert found.counts == {"uint8": 1, "uint16": 1}


@pytest.mark.parametrize(("kind", "name"), [(562, "float32"), (534, "float16"), (1032, "uint8"), (9, "type 9")])
def test_an_operator_that_runs_in_another_type_is_caught(model, tmp_path, kind, name):
    dump(tmp_path, a=("ElementWiseNeg", 1032), b=("ElementWiseAbs", kind))
    assert compiled_types(model, tmp_path).wrong == (("b", "Abs", "uint16", name),)


def test_no_graph_is_no_proof(model, tmp_path):
    with pytest.raises(ModelError, match="wrote no description of its graph"):
        compiled_types(model, tmp_path)


def test_an_estimate_is_read_from_the_profile(tmp_path):
    head = "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier\n"
    rows = {
        "Simulated (Accelerator exec cycles)": 417135,
        "Simulated (Accelerator exec time us)": 278,
        "Simulated (Accelerator exec time us (lower estimate))": 247,
        "Simulated (Accelerator exec time us (upper estimate))": 316,
        "Input Fill": 4499456,
        "Output Spill": 4096,
        "Intermediate Spill": 5,
        "Intermediate Fill": 6,
        "Missing Ops (Number of Ops with no Costs associated)": 2,
    }
    lines = [f"0,BACKEND,{value},US,BACKEND,SUB-EVENT,{name}" for name, value in rows.items()]
    (tmp_path / PROFILE).write_text(head + "\n".join(lines) + "\n")
    found = read_estimate(tmp_path)
    assert (found.latency_us, found.low_us, found.high_us, found.missing_ops) == (278, 247, 316, 2)
    assert (found.read_bytes, found.written_bytes, found.spilled_bytes) == (4499456, 4096, 11)
    (tmp_path / PROFILE).write_text(head + "0,BACKEND,0,US,BACKEND,ROOT,Performance Estimates unsupported\n")
    assert read_estimate(tmp_path) is None


REFUSED = (
    "\x1b[1;31m2026 [E:onnxruntime:, x.cc:1] Unsupported nodes in QNN EP: { name: w_dq, type: DequantizeLinear }"
    "{ name: /head/Conv, type: Conv }\x1b[m\nThis session contains graph nodes that are assigned to the default CPU EP"
)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (REFUSED, "for sm8550 .HTP v73. does not take Conv '/head/Conv': quantize with --target qnn-htp-v73"),
        ("Node '/c_token_4' OpType:Conv with domain:x was inserted, but was not selected by y", "take Conv '/c':"),
        ("nodes that are assigned to the default CPU EP", "fix every open dimension with --dim"),
        ("QNN SetupBackend failed No profile!\n", "could not be set up: No profile!"),
        ("LIBNATIVE: x\nsome other end.\n", "for sm8550 failed: some other end."),
        ("", "the process ended with -9"),
    ],
)
def test_refusals_are_one_sentence(model, said, message):
    error = qnn._failed(qnn.QnnJob(model, find_soc("sm8550"), {}), -9, qnn._COLOURS.sub("", said))
    with pytest.raises(ModelError, match=message):
        raise error


def test_without_the_extra_it_says_which(model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewbits\[qnn\]'"):
        qnn.run_qnn(qnn.QnnJob(model, find_soc(43), {}), "compile", tmp_path)


def test_outputs_are_judged_by_what_quantization_costs_anyway(model):
    assert QdqView(onnx.load(model)).output_scales == {"y": 0.5}
    rng = np.random.default_rng(0)
    true = rng.standard_normal(4000) * 100
    exact = true + rng.standard_normal(4000)
    near, far = exact + rng.standard_normal(4000), exact + 3 * rng.standard_normal(4000)
    for placed, passed in ((exact, True), (near, True), (far, False)):
        (found,) = compare_outputs(model, [{"y": placed}], [{"y": exact}], [{"y": true}]).values()
        assert found.passed is passed
        assert sum(found.steps.values()) == 4000
    assert compare_outputs(model, [{"y": exact}], [{"y": exact}], [{"y": true}])["y"].steps == {"0": 4000}

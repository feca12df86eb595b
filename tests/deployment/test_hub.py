"""The adapter to Qualcomm AI Hub's client, and what is made of its answers; the client is a stand-in."""

import importlib.util
import inspect
import sys

import numpy as np
import pytest

from fewbits.deployment import hub as hub_module
from fewbits.deployment.hub import HubDevice, QaiHub, need_hub
from fewbits.deployment.hub_results import match_outputs, profile_figures
from fewbits.errors import HubError, MissingExtraError
from recorded_hub import ANSWERS, InternalError, Transport, UserError

S24 = HubDevice("Samsung Galaxy S24")
METHODS = {
    "Client": (
        "__init__", "get_devices", "get_job", "get_model", "set_verbose", "submit_compile_job", "submit_inference_job",
        "upload_model",
    ),
    "CompileJob": ("get_status", "get_target_model"),
    "InferenceJob": ("download_output_data", "download_profile", "get_status"),
}  # fmt: skip
PROPERTIES = {
    "Job": ("url",), "JobStatus": ("code", "finished", "success"), "Model": ("metadata",),
}  # fmt: skip


@pytest.fixture
def transport(monkeypatch):
    made = Transport()
    monkeypatch.setitem(sys.modules, "qai_hub", made.package())
    return made


def signature(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.skipif(importlib.util.find_spec("qai_hub") is None, reason="needs the client: pip install '.[hub]'")
def test_the_stand_in_has_the_signatures_of_the_client():
    import qai_hub

    fake = Transport().package()
    for owner, names in METHODS.items():
        for name in names:
            real, ours = getattr(getattr(qai_hub, owner), name), getattr(getattr(fake, owner), name)
            assert signature(ours) == signature(real), f"{owner}.{name}"
    for owner, names in PROPERTIES.items():
        for name in names:
            assert hasattr(getattr(qai_hub, owner), name), f"{owner}.{name}"
    assert list(signature(qai_hub.Device))[:2] == list(signature(fake.Device))[:2]
    assert issubclass(qai_hub.UserError, qai_hub.Error)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(hub_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewbits\[hub\]'"):
        need_hub()
    with pytest.raises(MissingExtraError, match="not installed"):
        QaiHub()


def test_a_package_that_cannot_be_imported_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    monkeypatch.setattr(hub_module, "need_hub", lambda: None)
    with pytest.raises(MissingExtraError, match=r"cannot be imported \(.*qai_hub.*\): pip install -U"):
        QaiHub()


def test_without_a_token_the_way_to_one_is_said_in_one_line(transport):
    transport.has_token = False
    with pytest.raises(HubError) as caught:
        QaiHub()
    assert str(caught.value).startswith("Qualcomm AI Hub needs your token (No configuration): ")
    assert "qai-hub configure --api_token TOKEN" in str(caught.value)


def test_a_token_that_the_service_does_not_take_is_said_so(transport):
    transport.broken["get_devices"] = UserError("Failed to authenticate.\n┌──┐\n| It may be old. Please look. |\n└──┘")
    with pytest.raises(HubError, match=r"needs your token \(Failed to authenticate\. It may be old\): sign up"):
        QaiHub().devices()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            InternalError("Internal.\n┌──┐\n| Could not connect. Please visit x. |"),
            r"could not .*: Internal\. Could not",
        ),
        (
            UserError("Model input cannot be compiled."),
            r"refused to compile the model: Model input cannot be compiled\.",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), r"could not compile the model: .*reset by peer\. Call"),
        (KeyError(), r"could not compile the model: KeyError\. Call again to go on; submitted jobs are kept\."),
    ],
)
def test_every_failure_is_one_sentence(transport, error, message):
    transport.broken["submit_compile_job"] = error
    client = QaiHub()
    with pytest.raises(HubError, match=message) as caught:
        client.compile("m1", S24, name="n", inputs={}, options="")
    assert "\n" not in str(caught.value)
    assert not set(str(caught.value)) & set("┌─└|")


def test_jobs_of_earlier_processes_are_found_by_their_ids(transport, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    first = QaiHub()
    model_id = first.upload(tmp_path / "m.onnx", name="n")
    compiled = first.compile(model_id, S24, name="n", inputs={"x": ((1, 2), "float32")}, options="--o")
    assert "get_model" not in transport.calls()
    later = QaiHub()
    profiled = later.profile(compiled.id, S24, name="n")
    assert transport.calls("get_job") == [compiled.id]
    assert transport.calls("submit_profile_job")[0][0] == compiled.id
    assert profiled.device == HubDevice("Samsung Galaxy S24", "14", tuple(ANSWERS["devices"][1]["attributes"]))
    assert later.target_versions(compiled.id) == ANSWERS["metadata"]
    later.compile(model_id, S24, name="n", inputs={}, options="")
    assert transport.calls("get_model") == [model_id]


def test_a_job_that_the_service_does_not_know_names_the_way_out(transport):
    with pytest.raises(HubError, match=r"refused to find job jx: ID 'jx' could not be found\. Move hub\.json away"):
        QaiHub().status("jx")


def test_what_the_client_prints_stays_off_stdout(transport, capsys):
    client = QaiHub()
    assert transport.calls("set_verbose") == [False]
    client.profile(client.compile("m1", S24, name="n", inputs={}, options="").id, S24, name="n")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "a client that talks\n")


def test_versions_that_cannot_be_read_cost_nothing(transport):
    assert QaiHub().target_versions("unknown") == {}


def test_profile_figures_are_counted_from_runs_and_layers():
    found = profile_figures(ANSWERS["profile"])
    assert (found.latency_us, found.min_us, found.median_us, found.runs) == (412, 412, 424, 4)
    assert found.peak_memory_bytes == 45678592
    assert found.units == {"NPU": 3, "CPU": 1}
    assert found.elsewhere == (("erf", "Erf", "CPU"),)


def test_a_profile_without_figures_has_none():
    for document in ({}, {"execution_summary": {"estimated_inference_time": None}, "execution_detail": []}):
        found = profile_figures(document)
        assert (found.latency_us, found.min_us, found.median_us, found.runs) == (None, None, None, 0)
        assert (found.units, found.elsewhere) == ({}, ())


X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
STORED = [{"a": X, "b": X[:, :8]}, {"a": 2 * X, "b": X[:, :8]}]


def test_outputs_that_are_one_percent_off_have_40_db():
    found = match_outputs(STORED, {"a": [1.01 * X, 2.02 * X], "b": [X[:, :8], X[:, :8]]})
    assert found["a"].sqnr_db == pytest.approx(40, abs=0.01)  # 0.01 in float32 is 1e-5 off
    assert (found["a"].values, found["a"].is_equal, found["a"].device_name) == (128, False, "a")
    assert (found["b"].sqnr_db, found["b"].is_equal, found["b"].problem) == (None, True, "")


def test_outputs_of_other_names_are_paired_by_order():
    found = match_outputs(STORED, {"output_0": [1.01 * X, 2.02 * X], "output_1": [X[:, :8], X[:, :8]]})
    assert (found["a"].device_name, found["b"].device_name) == ("output_0", "output_1")
    assert found["b"].is_equal
    assert found["a"].sqnr_db == pytest.approx(40, abs=0.01)


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        ({"output_0": [X, X]}, "the device gave 1 outputs, the sim 2"),
        ({"a": [X], "b": [X, X]}, "the device gave 1 runs, the sim 2"),
        ({"a": [X.T, X.T], "b": [X, X]}, "the device gave the shape [64, 1], the sim [1, 64]"),
        ({"a": [X * np.nan, X], "b": [X, X]}, "they hold NaN or infinities"),
        ({"a": [X.astype(str), X], "b": [X, X]}, "they are no numbers"),
    ],
)
def test_outputs_that_cannot_be_compared_are_never_called_equal(answered, problem):
    found = match_outputs(STORED, answered)["a"]
    assert (found.problem, found.is_equal, found.sqnr_db) == (problem, False, None)


def test_noise_on_a_silent_output_is_no_figure():
    found = match_outputs([{"a": 0 * X}], {"a": [X]})["a"]
    assert (found.problem, found.sqnr_db) == ("the sim's values are all zero", None)

"""Submit a quantized network to a stand-in for Qualcomm AI Hub's client: nothing here reaches the service."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.artifact.samples import Samples, read_samples, write_samples
from fewbits.cli.app import app
from fewbits.errors import HubError, MissingExtraError, OutputError, RefusedError, SpecError
from fewbits.workflow import hub_jobs
from fewbits.workflow.hub_upload import device_feeds, fixed_inputs, plan_upload
from fewbits.workflow.submit import submit
from recorded_hub import ANSWERS, InternalError, Transport

S24 = "Samsung Galaxy S24"
DIMS = {"N": 1}


@pytest.fixture
def out(quantized_folder, tmp_path):
    return shutil.copytree(quantized_folder, tmp_path / "net")


@pytest.fixture
def transport(out, monkeypatch):
    """A service whose device is one percent off the sim, under names of its own."""
    made = Transport()
    made.outputs = {"output_0": [one["logits"] * np.float32(1.01) for one in read_samples(out / names.SAMPLES).outputs]}
    monkeypatch.setitem(sys.modules, "qai_hub", made.package())
    monkeypatch.setattr(hub_jobs, "POLL_S", 0.0)
    return made


def book(folder):
    return json.loads((folder / names.HUB).read_text())["runs"]


def command(folder, *more):
    return CliRunner().invoke(app, ["submit", str(folder), "--device", S24, "--dim", "N=1", *more])


def refused(*words):
    result = CliRunner().invoke(app, ["submit", *map(str, words)])
    assert result.exit_code == 2, result.output or repr(result.exception)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def rewritten(folder, *changed):
    """Let the record vouch for files that a test has changed."""
    record = json.loads((folder / names.RECORD).read_text())
    for name in changed:
        record["files"][name] = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    (folder / names.RECORD).write_text(json.dumps(record))


def test_qdq_is_the_artifact_itself_with_fixed_shapes(out, transport):
    submit(out, device=S24, dims=DIMS)
    ((file, name, files),) = transport.calls("upload_model")
    assert (file, name) == (names.ARTIFACT, "net")
    assert files == {names.ARTIFACT: (out / names.ARTIFACT).read_bytes()}
    ((model_id, device, _, specs, options),) = transport.calls("submit_compile_job")
    assert (model_id, device.name, device.os) == ("m1", S24, "")
    assert specs == {"image": ((1, 3, 8, 8), "float32")}
    assert options == "--target_runtime qnn_dlc"


def test_aimet_is_a_folder_of_float_model_and_encodings(out, transport):
    result = submit(out, device=S24, dims=DIMS, upload="aimet", runtime="qnn_context_binary")
    ((folder, _, files),) = transport.calls("upload_model")
    assert folder == "net.aimet"
    assert files == {
        "model.onnx": (out / names.FLOAT).read_bytes(), "model.encodings": (out / names.ENCODINGS).read_bytes()
    }  # fmt: skip
    assert result.options == "--target_runtime qnn_context_binary"
    assert any("biases are not corrected" in sentence for sentence in result.not_shown)


@pytest.mark.parametrize(
    ("upload", "model", "folder"), [("qdq", names.ARTIFACT, "net.onnx"), ("aimet", names.FLOAT, "net.aimet")]
)
def test_weights_beside_the_model_become_model_data(out, transport, upload, model, folder):
    whole = onnx.load(out / model)
    before = {one.name: onnx.numpy_helper.to_array(one) for one in whole.graph.initializer}
    beside = model + names.DATA_SUFFIX
    onnx.save(whole, out / model, save_as_external_data=True, location=beside, size_threshold=0)
    rewritten(out, model, beside)
    submit(out, device=S24, dims=DIMS, upload=upload)
    ((sent, _, files),) = transport.calls("upload_model")
    assert sent == folder
    assert set(files) - {"model.encodings"} == {"model.onnx", "model.data"}
    for name, data in files.items():
        (out / name).write_bytes(data)
    again = onnx.load(out / "model.onnx")
    after = {one.name: onnx.numpy_helper.to_array(one) for one in again.graph.initializer}
    assert list(after) == list(before)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_the_figures_are_those_of_the_device(out, transport):
    result = submit(out, device=S24, dims=DIMS)
    match = result.outputs["logits"]
    assert match.sqnr_db == pytest.approx(40, abs=0.01)  # one percent; 0.01 in float32 is 1e-5 off
    assert (match.device_name, match.is_equal) == ("output_0", False)
    assert (result.profile.latency_us, result.profile.median_us, result.profile.units["CPU"]) == (412, 424, 1)
    assert (result.device.os, result.samples) == ("14", 4)
    assert result.versions["qai-hub"] == "0.56.0"
    assert result.versions["QAIRT_SDK_VERSION"] == ANSWERS["metadata"]["QAIRT_SDK_VERSION"]
    ((_, _, feeds),) = transport.calls("submit_inference_job")
    for fed, stored in zip(feeds["image"], read_samples(out / names.SAMPLES).feeds, strict=True):
        np.testing.assert_array_equal(fed, stored["image"])
    (run,) = book(out)
    assert run["profile"] == ANSWERS["profile"]
    assert run["outputs"]["logits"]["sqnr_db"] == match.sqnr_db
    assert {kind: job["status"] for kind, job in run["jobs"].items()} == dict.fromkeys(result.jobs, "SUCCESS")
    assert run["not_shown"] == list(result.not_shown)
    assert "never run against the service" in result.not_shown[0]


def test_every_state_of_a_job_is_a_stage(out, transport):
    seconds = submit(out, device=S24, dims=DIMS).seconds
    assert [name for name in seconds if name.startswith("profile job")] == [
        "profile job: created", "profile job: provisioning device", "profile job: measuring performance",
    ]  # fmt: skip


def test_without_inference_no_sample_leaves_the_machine(out, transport):
    result = submit(out, device=S24, dims=DIMS, inference=False)
    assert (result.outputs, result.samples, set(result.jobs)) == ({}, 0, {"compile", "profile"})
    assert "submit_inference_job" not in transport.calls()
    assert any("no inference job" in sentence for sentence in result.not_shown)
    later = submit(out, device=S24, dims=DIMS)
    assert later.resumed == ("compile", "profile")
    assert len(transport.calls("submit_inference_job")) == 1


def test_a_repeated_call_asks_for_nothing_again(out, transport):
    first = submit(out, device=S24, dims=DIMS)
    asked = len(transport.requests)
    again = submit(out, device=S24, dims=DIMS)
    assert [call for call, _ in transport.requests[asked:]] == ["set_verbose"]
    assert again.resumed == ("compile", "profile", "inference")
    assert (again.profile, again.outputs, again.jobs) == (first.profile, first.outputs, first.jobs)


@pytest.mark.parametrize("kind", ["compile", "profile", "inference"])
def test_a_call_that_waited_too_long_is_gone_on_with(out, transport, kind):
    transport.stuck.add(kind)
    with pytest.raises(
        HubError, match=rf"The {kind} job j{kind}\d on .* is still at 'created' after 0\.05 s: call again"
    ):
        submit(out, device=S24, dims=DIMS, time_limit_s=0.05)
    (run,) = book(out)
    job_id = run["jobs"][kind]["id"]
    transport.stuck.clear()
    result = submit(out, device=S24, dims=DIMS)
    assert result.jobs[kind].id == job_id
    assert kind in result.resumed
    assert job_id in transport.calls("get_job")
    for one in ("upload_model", "submit_compile_job", "submit_profile_job", "submit_inference_job"):
        assert len(transport.calls(one)) == 1, one


def test_the_id_is_on_disk_before_anything_else_is_asked(out, transport):
    transport.broken["get_status"] = InternalError("Could not connect to the service.")
    with pytest.raises(HubError, match=r"could not say how far job jcompile0 is: Could not connect .* Call again"):
        submit(out, device=S24, dims=DIMS)
    (run,) = book(out)
    assert run["jobs"]["compile"]["id"] == "jcompile0"
    assert (run["model_id"], run["jobs"]["compile"]["device"]["os"]) == ("m1", "14")


def test_other_devices_and_files_are_runs_of_their_own(out, transport):
    submit(out, device=S24, dims=DIMS, inference=False)
    submit(out, device="Samsung Galaxy S23", dims=DIMS, inference=False)
    submit(out, device=S24, dims=DIMS, inference=False, upload="aimet")
    assert len(transport.calls("submit_compile_job")) == 3
    assert [run["asked"]["device"] for run in book(out)] == [S24, "Samsung Galaxy S23", S24]
    submit(out, device=S24, dims=DIMS, inference=False)
    assert len(transport.calls("submit_compile_job")) == 3
    stored = read_samples(out / names.SAMPLES)
    write_samples(out / names.SAMPLES, Samples(stored.feeds[:1], stored.outputs[:1]))
    rewritten(out, names.SAMPLES)
    submit(out, device=S24, dims=DIMS, inference=False)
    assert len(transport.calls("submit_compile_job")) == 4


@pytest.mark.parametrize(("kind", "error"), [("compile", RefusedError), ("profile", HubError), ("inference", HubError)])
def test_a_failed_job_is_one_sentence_and_submitted_anew(out, transport, kind, error):
    transport.failures[kind] = "Failed to validate op\n 'erf'."
    with pytest.raises(
        error, match=rf"The {kind} job j{kind}\d on .* failed: Failed to validate op 'erf'\. See https://"
    ):
        submit(out, device=S24, dims=DIMS)
    (run,) = book(out)
    assert run["jobs"][kind]["status"] == "FAILED"
    transport.failures.clear()
    result = submit(out, device=S24, dims=DIMS)
    assert kind not in result.resumed
    assert len(transport.calls(f"submit_{kind}_job")) == 2
    assert len(transport.calls("upload_model")) == (2 if kind == "compile" else 1)  # a broken upload must not stay


def test_a_device_that_is_not_there_is_refused_before_the_upload(out, transport):
    with pytest.raises(HubError, match=r"no device 'Samsung Galaxy S42' .*: did you mean .*'Samsung Galaxy S24'"):
        submit(out, device="Samsung Galaxy S42", dims=DIMS)
    with pytest.raises(HubError, match="has 'Samsung Galaxy S24' with OS 14, not '99': mend --device-os"):
        submit(out, device=S24, device_os="99", dims=DIMS)
    with pytest.raises(HubError, match="it has 3 others"):
        submit(out, device="toaster", dims=DIMS)
    assert set(transport.calls()) == {"set_verbose", "get_devices"}
    assert not (out / names.HUB).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": None}, r"needs the size of every dimension: add, with your sizes, --dim N=1\."),
        ({"dims": {"N": 1, "h": 2}}, "no open dimension 'h': it has N"),
        ({"dims": {"N": 0}}, "--dim N=0 is no size"),
        ({"dims": {"N": 2}}, r"shape \[1, 3, 8, 8\] at input 'image', and --dim makes it \[2, 3, 8, 8\]: give --dim"),
        ({"upload": "dlc"}, "Cannot upload 'dlc': choose one of qdq, aimet"),
        ({"runtime": "snpe"}, "Unknown runtime 'snpe': choose one of qnn_dlc, "),
        ({"device": " "}, "No device is named"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_asked(out, transport, options, message):
    with pytest.raises(SpecError, match=message):
        submit(out, **{"device": S24, "dims": DIMS, **options})
    assert transport.requests == []


def test_a_file_that_was_not_scored_is_not_sent(out, transport):
    (out / names.ENCODINGS).write_text("{}")
    with pytest.raises(OutputError, match=r"model\.encodings\.json' is missing or is not the file that was scored"):
        submit(out, device=S24, dims=DIMS, upload="aimet")
    submit(out, device=S24, dims=DIMS, inference=False)  # which does not read that file
    (out / names.SAMPLES).unlink()
    with pytest.raises(OutputError, match=r"samples\.npz' is missing"):
        submit(out, device=S24, dims=DIMS)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"schema": 1}', '{"schema": 1, "runs": [{"key": "a"}]}',
        '{"schema": 1, "runs": [{"key": "a", "jobs": {"compile": {"id": "j1"}}}]}',
        '{"schema": 1, "runs": [{"key": "a", "jobs": {}, "profile": []}, 3]}',
        '{"schema": 1, "runs": [{"key": "a", "jobs": {}, "outputs": {"y": {"odd": 1}}}]}',
    ],
)  # fmt: skip
def test_a_damaged_book_is_left_alone(out, transport, text):
    (out / names.HUB).write_text(text)
    with pytest.raises(SpecError, match=r"hub\.json' cannot be read .* holds the ids of submitted jobs: mend it, or"):
        submit(out, device=S24, dims=DIMS)
    assert (out / names.HUB).read_text() == text
    assert transport.requests == []


def test_a_book_of_a_newer_fewbits_is_refused(out, transport):
    (out / names.HUB).write_text('{"schema": 99, "runs": []}')
    with pytest.raises(SpecError, match="written by a newer fewbits"):
        submit(out, device=S24, dims=DIMS)


def test_wide_integers_are_narrowed_where_the_runtime_lacks_them(tmp_path):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (int64[B, 2] ids) => (int64[B, 2] y) { y = Neg (ids) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / names.ARTIFACT)
    record = type("Record", (), {"files": {names.ARTIFACT: {"sha256": sha256(tmp_path / names.ARTIFACT)}}})
    feeds = [{"ids": np.array([[3, np.iinfo(np.int64).max]])}]
    plan = plan_upload(tmp_path, record, kind="qdq", runtime="qnn_dlc", dims={"B": 1})
    assert plan.inputs == {"ids": ((1, 2), "int64")}
    assert plan.options == "--target_runtime qnn_dlc --truncate_64bit_io"
    (fed,) = device_feeds(feeds, plan)["ids"]
    assert (fed.dtype, fed.tolist()) == (np.int32, [[3, 2**31 - 1]])
    plan = plan_upload(tmp_path, record, kind="qdq", runtime="onnx", dims={"B": 1})
    assert plan.options == "--target_runtime onnx"
    assert device_feeds(feeds, plan)["ids"][0].dtype == np.int64


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("double[2] x", r"Input 'x' is double, and Qualcomm AI Hub takes float32, "),
        ("float[?] x", "without a name and"),
    ],
)
def test_inputs_that_the_service_cannot_have_are_refused(tmp_path, inputs, message):
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => (float[2] y) {{ y = Identity (x) }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / names.ARTIFACT)
    with pytest.raises(SpecError, match=message):
        fixed_inputs(tmp_path / names.ARTIFACT, {})


def test_the_command_prints_figures_and_limits(out, transport, tmp_path):
    result = command(out, "-o", str(tmp_path / "elsewhere"))
    assert result.exit_code == 0, result.output
    assert not (out / names.HUB).exists()
    text = result.stdout
    assert f"qdq on {S24}, OS 14 (--target_runtime qnn_dlc)" in text
    assert "latency: 412 us (fastest 412, median 424 of 4 runs); peak memory: 45.7 MB" in text
    for words in ("logits", "output_0", "40.0 dB", "NPU", "Erf", "https://hub.example/jobs/jcompile0/"):
        assert words in text
    assert text.count("not shown: ") == 4
    assert "never run against the service" in text
    assert f"report: {tmp_path / 'elsewhere' / names.HUB}" in text
    assert "submitted by an earlier call" not in text
    assert "submitted by an earlier call" in command(out, "-o", str(tmp_path / "elsewhere")).stdout


def test_json_is_one_object_and_quiet_is_quiet(out, transport):
    document = json.loads(command(out, "--json").stdout)
    assert document["outputs"]["logits"]["sqnr_db"] == pytest.approx(40, abs=0.01)
    assert document["profile"]["elsewhere"] == [["erf", "Erf", "CPU"]]
    assert command(out, "--quiet").stdout == ""


def test_an_output_that_cannot_be_compared_is_printed_as_that(out, transport):
    transport.outputs = {"output_0": [one.T for one in transport.outputs["output_0"]]}
    assert "logits was not compared: the device gave the shape [4, 1], the sim [1, 4]" in command(out).stdout
    transport.outputs = {"output_0": [one["logits"] for one in read_samples(out / names.SAMPLES).outputs]}
    assert " equal" in command(out, "--upload", "aimet").stdout


def test_the_command_refuses_in_one_line(out, transport, monkeypatch):
    words = [out, "--device", S24, "--dim", "N=1"]
    assert "--dim N=1." in refused(*words[:3])
    transport.has_token = False
    assert "qai-hub configure --api_token TOKEN" in refused(*words)
    transport.has_token = True
    transport.failures["compile"] = "no"
    assert "job jcompile0 on Qualcomm AI Hub failed: no. See https://hub.example/jobs/jcompile0/" in refused(*words)
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    monkeypatch.delitem(sys.modules, "qai_hub")
    monkeypatch.setattr("fewbits.deployment.hub.importlib.util.find_spec", lambda name: None)
    assert "pip install 'fewbits[hub]'" in refused(*words[:3])  # said before anything else that is wrong


def test_a_client_can_be_handed_in(out, transport, monkeypatch):
    from fewbits.deployment.hub import QaiHub

    client = QaiHub()
    monkeypatch.setattr("fewbits.deployment.hub.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError):
        submit(out, device=S24, dims=DIMS)
    assert submit(out, device=S24, dims=DIMS, client=client).samples == 4


def test_samples_of_several_sizes_are_refused(out, transport):
    stored = read_samples(out / names.SAMPLES)
    wide = {"image": np.repeat(stored.feeds[0]["image"], 2, axis=0)}
    write_samples(out / names.SAMPLES, Samples((*stored.feeds, wide), (*stored.outputs, stored.outputs[0])))
    rewritten(out, names.SAMPLES)
    with pytest.raises(SpecError, match=r"the shape \[2, 3, 8, 8\] at input 'image'"):
        submit(out, device=S24, dims=DIMS)

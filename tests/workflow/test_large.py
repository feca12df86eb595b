"""Models above 2 GB: what memory holds of them, and that nothing is lost on the way. Small ones stand for them here."""

import gc
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import large_models
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fewbits.deployment import fresh, worker
from fewbits.graph.load import load_model
from fewbits.graph.mapped import MappedTensor
from fewbits.graph.save import save_model
from fewbits.runtime.session import LargeSession, RunOptions
from fewbits.workflow import sessions
from fewbits.workflow.baseline import baseline
from fewbits.workflow.prepare import prepare
from fewbits.workflow.quantize import quantize
from fewbits.workflow.verify import verify

LIMIT = 2_000_000
HELD = ("graph.save", "graph.opset", "graph.passes.simplify", "runtime.session", "workflow.sessions")
ONE = RunOptions(threads=1)


@pytest.fixture
def low_limit(monkeypatch):
    """Everything above 2 MB is large."""
    for name in HELD:
        monkeypatch.setattr(importlib.import_module(f"fewbits.{name}"), "EXTERNAL_BYTES", LIMIT)
    monkeypatch.setattr(fresh, "_run_worker", worker.run_jobs)  # a process of its own would have the usual limit


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return written(tmp_path_factory.mktemp("mlp"), lambda at: large_models.write_mlp(at, 12_000_000, width=768))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    make = lambda at: large_models.write_transformer(at, 7_000_000, width=256, words=2000)  # noqa: E731
    return written(tmp_path_factory.mktemp("transformer"), make)


def written(folder, make):
    np.savez(folder / "calib.npz", **make(folder / "m.onnx"))
    return folder / "m.onnx"


def quantized(path, precision, output, **options):
    return quantize(
        path, data=path.parent / "calib.npz", precision=precision, output=output, run_options=ONE,
        weight_ranges="absmax", metric="sqnr", **options,
    )  # fmt: skip


def tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    found = [value.const_value for value in model.graph.initializers.values()]
    return [tensor for tensor in found if tensor is not None and tensor.nbytes > 100_000]


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w16a16", "fp16"])
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_a_large_model_is_quantized_and_verified_without_being_held(kind, precision, request, low_limit, tmp_path):
    path, out = request.getfixturevalue(kind), tmp_path / "out"
    result = quantized(path, precision, out, ranges="auto" if kind == "transformer" else "minmax")
    assert isinstance(result.calibration.subject.runner.session, LargeSession)
    assert tensors(result.calibration.model)
    assert all(isinstance(tensor, MappedTensor) for tensor in tensors(result.calibration.model))
    assert all(isinstance(t, MappedTensor | ir.LazyTensor) for t in tensors(result.quantized.model))
    assert {name.name for name in out.glob("*.data")} == {"model.float.onnx.data", "model.qdq.onnx.data"}
    onnx.checker.check_model(out / "model.qdq.onnx")
    assert verify(out).certificate.passed
    assert result.score.value > 15


def test_large_and_usual_ways_give_the_same_artifact(transformer, tmp_path, monkeypatch):
    usual = quantized(transformer, "w8a8", tmp_path / "usual", ranges="minmax")
    for name in HELD:
        monkeypatch.setattr(importlib.import_module(f"fewbits.{name}"), "EXTERNAL_BYTES", LIMIT)
    large = quantized(transformer, "w8a8", tmp_path / "large", ranges="minmax")
    codes = [load_model(tmp_path / name / "model.qdq.onnx").graph.initializers for name in ("usual", "large")]
    assert codes[0].keys() == codes[1].keys()
    for name, value in codes[0].items():
        left, right = value.const_value.numpy(), codes[1][name].const_value.numpy()
        if left.dtype.kind == "f" or left.dtype == np.int32:  # of activations: unpacked kernels add in another order
            np.testing.assert_allclose(left, right, rtol=1e-3)
        elif left.size > 1:
            np.testing.assert_array_equal(left, right)
    assert large.score.value == pytest.approx(usual.score.value, abs=0.5)


def test_a_large_baseline_scores_all_precisions_with_one_session_awake(mlp, low_limit, tmp_path):
    result = baseline(
        mlp, data=mlp.parent / "calib.npz", output=tmp_path / "out", precisions=["w8a8", "fp16"], ranges="minmax",
        weight_ranges="absmax", metric="sqnr", run_options=ONE,
    )  # fmt: skip
    assert [candidate.precision for candidate in result.candidates] == ["w8a8", "fp16"]
    assert result.candidates[1].score.value > result.candidates[0].score.value > 15
    assert (tmp_path / "out" / "fp16" / "model.qdq.onnx.data").is_file()


def test_a_large_model_is_prepared_and_compared(transformer, low_limit, tmp_path):
    result = prepare(transformer, output=tmp_path / "p.onnx", run_options=ONE)
    assert result.parity.samples > 0
    assert min(result.parity.sqnr_db.values()) > 100
    assert (tmp_path / "p.onnx.data").stat().st_size >= transformer.with_name("m.onnx.data").stat().st_size * 0.95


def test_open_graph_leaves_weights_in_the_file_of_the_model(mlp, low_limit, monkeypatch):
    monkeypatch.setattr(sessions, "save_model", None)
    monkeypatch.setattr(sessions, "to_bytes", None)
    graph, feeds = load_model(mlp), {"image": np.load(mlp.parent / "calib.npz")["image"]}
    name = str(graph.graph.outputs[0].name)
    before = mapped_bytes(mlp.with_name("m.onnx.data"))
    large = sessions.open_graph(graph, ONE)
    given = large(feeds)[name]
    assert mapped_bytes(mlp.with_name("m.onnx.data")) > before
    monkeypatch.undo()
    np.testing.assert_allclose(given, sessions.open_graph(graph, ONE)(feeds)[name], atol=1e-4)


def test_open_graph_copies_weights_whose_file_was_replaced(mlp, low_limit, tmp_path):
    for suffix in ("", ".data"):
        shutil.copy(f"{mlp}{suffix}", tmp_path)
    graph, feeds = load_model(tmp_path / "m.onnx"), {"image": np.load(mlp.parent / "calib.npz")["image"]}
    wanted = sessions.open_graph(graph, ONE)(feeds)
    data = tmp_path / "m.onnx.data"
    other = tmp_path / "other"
    other.write_bytes(bytes(data.stat().st_size))
    other.replace(data)
    for name, array in sessions.open_graph(graph, ONE)(feeds).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_one_large_session_is_awake_and_the_others_wake_again(mlp, low_limit):
    graph, feeds = load_model(mlp), {"image": np.load(mlp.parent / "calib.npz")["image"]}
    first, second = sessions.open_graph(graph, ONE), sessions.open_graph(graph, ONE)
    before = first(feeds)
    assert second.session._session is None
    after = second(feeds)
    assert first.session._session is None
    for name, array in first(feeds).items():
        np.testing.assert_array_equal(array, before[name])
        np.testing.assert_array_equal(array, after[name])


def test_scratch_files_of_a_large_session_go_with_it(mlp, low_limit, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions.tempfile, "tempdir", str(tmp_path))
    graph = load_model(mlp)
    for value in graph.graph.initializers.values():
        value.const_value = ir.Tensor(np.array(value.const_value.numpy()), name=value.name)
    runner = sessions.open_graph(graph, ONE)
    assert list(tmp_path.iterdir())
    del runner
    assert not list(tmp_path.iterdir())


def test_a_mapped_tensor_lets_go_of_its_pages_and_handles(mlp):
    graph, data = load_model(mlp), mlp.with_name("m.onnx.data")
    LargeSession.rest()
    gc.collect()
    handles = len(list(Path("/proc/self/fd").iterdir()))
    before = mapped_bytes(data)
    for tensor in tensors(graph):
        assert np.isfinite(tensor.numpy()).all()
    assert mapped_bytes(data) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == handles


def test_a_mapped_tensor_reads_what_lay_there_at_first(mlp, tmp_path):
    for suffix in ("", ".data"):
        shutil.copy(f"{mlp}{suffix}", tmp_path)
    graph = load_model(tmp_path / "m.onnx")
    tensor = tensors(graph)[-1]
    wanted = np.array(tensor.numpy())
    save_model(load_model(tmp_path / "m.onnx"), tmp_path / "m.onnx", external_bytes=0)
    (tmp_path / "m.onnx.data").write_bytes(b"")
    np.testing.assert_array_equal(tensor.numpy(), wanted)
    np.testing.assert_array_equal(np.asarray(tensor), wanted)
    assert tensor.tobytes() == wanted.tobytes()
    save_model(graph, tmp_path / "again.onnx", external_bytes=0)
    again = load_model(tmp_path / "again.onnx").graph.initializers[str(tensor.name)].const_value
    np.testing.assert_array_equal(again.numpy(), wanted)


def mapped_bytes(path: Path) -> int:
    found = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if path.name in line
    ]
    return sum(int(end, 16) - int(begin, 16) for begin, end in found)


GB = 10**9
LARGE = 3 * GB
PEAK = 1.5


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("kind", list(large_models.KINDS))
def test_three_gigabytes_take_at_most_one_and_a_half_times_that(kind, tmp_path):
    need_room(tmp_path)
    path = written(tmp_path, lambda at: large_models.KINDS[kind](at, LARGE))
    weights = path.with_name("m.onnx.data").stat().st_size
    out = tmp_path / "out"
    for precision in ("w8a8", "w8a16", "fp16"):
        options = ["--data", str(path.parent / "calib.npz"), "--ranges", "minmax", "--weight-ranges", "absmax"]
        run("quantize", str(path), *options, "--precision", precision, "-o", str(out), "--threads", "1", of=weights)
        run("verify", str(out), of=weights)
        assert json.loads((out / "certificate.json").read_text())["passed"]
    run("prepare", str(path), "-o", str(tmp_path / "p.onnx"), "--threads", "1", of=weights)


def need_room(folder: Path) -> None:
    free, memory = shutil.disk_usage(folder).free, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < 15 * GB or memory < 8 * GB:
        pytest.skip(f"needs 15 GB of disk and 8 GB of memory; there are {free / GB:.0f} and {memory / GB:.0f} GB")


def run(*arguments: str, of: int) -> None:
    """Run a command in a process of its own, and hold its memory to the size of the weights."""
    done = large_models.watched([sys.executable, "-c", "from fewbits.cli import main; main()", *arguments])
    assert done.exit_code == 0, done.output
    assert done.resident_bytes < PEAK * of, f"{arguments[0]}: {done.resident_bytes / of:.2f} times the weights"

import errno

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_models import graph, normal, run

from fewbits.errors import ModelError, OutputError
from fewbits.graph import save
from fewbits.graph.load import load_model
from fewbits.graph.save import save_model, to_bytes

TEXT = "g (float[1,3] x, float[3,5] w) => (float[1,5] y) { y = MatMul(x, w) }"


def model(seed: int = 0) -> ir.Model:
    return graph(TEXT, w=normal(3, 5, seed=seed))


def test_save_model_round_trip(tmp_path):
    save_model(model(), tmp_path / "new" / "m.onnx")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.onnx"]
    feeds = {"x": normal(1, 3, seed=1)}
    np.testing.assert_array_equal(run(load_model(tmp_path / "new" / "m.onnx"), feeds)["y"], run(model(), feeds)["y"])


def test_save_model_puts_large_weights_beside(tmp_path):
    path = tmp_path / "m.onnx"
    original = model_large()
    save_model(original, path, external_bytes=100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    onnx.checker.check_model(path)
    loaded = load_model(path)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert not isinstance(original.graph.initializers["w"].const_value, ir.ExternalTensor)
    feeds = {"x": normal(1, 64, seed=1)}
    np.testing.assert_array_equal(run(loaded, feeds)["y"], run(original, feeds)["y"])


def test_save_model_can_replace_the_file_it_reads(tmp_path):
    path = tmp_path / "m.onnx"
    save_model(model_large(), path, external_bytes=100)
    loaded = load_model(path)
    loaded.graph.initializers["late"] = ir.Value(name="late", const_value=ir.tensor(normal(8), name="late"))
    save_model(loaded, path, external_bytes=100)
    np.testing.assert_array_equal(load_model(path).graph.initializers["w"].const_value.numpy(), normal(64, 5))
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), normal(64, 5))


def test_to_bytes_takes_external_data_in(tmp_path):
    path = tmp_path / "m.onnx"
    save_model(model_large(), path, external_bytes=100)
    feeds = {"x": normal(1, 64, seed=1)}
    np.testing.assert_array_equal(run(to_bytes(load_model(path)), feeds)["y"], run(model_large(), feeds)["y"])


def test_to_bytes_refuses_two_gigabytes(monkeypatch):
    monkeypatch.setattr(save, "PROTOBUF_LIMIT_BYTES", 50)
    with pytest.raises(ModelError, match=r"takes 0\.00 GB, and one ONNX message holds at most .* save_model"):
        to_bytes(model())


def test_save_model_disk_full_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    save_model(model(), path)
    before = path.read_bytes()

    def full(_self, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match=r"m\.onnx': the disk is full"):
        save_model(model(seed=1), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_save_model_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot write the model to .*: (Not a directory|File exists)"):
        save_model(model(), tmp_path / "file" / "m.onnx")


def test_save_model_to_a_folder(tmp_path):
    with pytest.raises(OutputError, match="it is a folder; name a file"):
        save_model(model(), tmp_path)


def model_large() -> ir.Model:
    return graph(TEXT.replace("3", "64"), w=normal(64, 5))

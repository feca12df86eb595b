import numpy as np
import pytest

from fewbits.deployment.certificate import certify, count_differing, sqnr
from fewbits.deployment.fresh import Job, run_fresh
from fewbits.errors import ModelError
from fewbits.runtime.session import RunOptions, SessionPolicy, open_session


def certificate_of(stored, fresh, **kw):
    return certify(stored, fresh, exact=stored, plain=fresh, floats=stored, conditions={}, **kw)


def test_count_differing_counts_bits_not_values():
    zero = np.array([0.0, 1.0], np.float32)
    assert count_differing(zero, np.array([-0.0, 1.0], np.float32)) == 1
    nan = np.array([np.nan], np.float32)
    assert count_differing(nan, nan.copy()) == 0
    assert count_differing(zero, zero.astype(np.float64)) == 2


def test_certify_passes_only_without_a_differing_byte():
    left = [{"y": np.array([1.0, 2.0], np.float32)}]
    right = [{"y": np.array([1.0, np.nextafter(np.float32(2), np.float32(3))], np.float32)}]
    assert certificate_of(left, left).passed
    failed = certificate_of(left, right)
    assert not failed.passed
    assert failed.differing == 1
    assert failed.outputs["y"].exact_db == pytest.approx(
        10 * np.log10(5 / 2.0**-44), abs=0.01
    )  # one LSB of float32 at 2


def test_certify_does_not_pass_where_files_were_changed():
    left = [{"y": np.zeros(2, np.float32)}]
    assert not certificate_of(left, left, is_whole=False).passed


def test_sqnr_is_none_for_equal_outputs():
    assert sqnr([np.ones(3)], [np.ones(3)]) is None
    assert sqnr([np.ones(3)], [np.ones(3) * 1.1]) == pytest.approx(20.0)


def test_run_fresh_gives_the_bytes_of_this_process(tiny):
    feeds = [{"image": np.load(tiny.calib)["image"][i : i + 1]} for i in range(2)]
    here = open_session(tiny.model)
    (there,) = run_fresh([Job(tiny.model, SessionPolicy.DEFAULT)], feeds, options=RunOptions())
    for one, outputs in zip(feeds, there, strict=True):
        assert count_differing(here(one)["logits"], outputs["logits"]) == 0


def test_run_fresh_says_why_it_failed(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(ModelError, match="in a fresh process: onnxruntime cannot load"):
        run_fresh([Job(tmp_path / "bad.onnx", SessionPolicy.DEFAULT)], [{"x": np.zeros(1)}], options=RunOptions())

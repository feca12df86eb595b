import numpy as np
import pytest

from fewbits.artifact.samples import collect_samples, read_samples, write_samples
from fewbits.errors import OutputError


def feeds(count):
    return [{"x/0": np.full((1, 4), i, np.float32), "y": np.array([i], np.int64)} for i in range(count)]


def double(one):
    return {"out": one["x/0"] * 2}


def test_samples_come_back_as_they_were(tmp_path):
    samples = collect_samples(double, feeds(3))
    write_samples(tmp_path / "s.npz", samples)
    back = read_samples(tmp_path / "s.npz")
    for left, right in zip((*samples.feeds, *samples.outputs), (*back.feeds, *back.outputs), strict=True):
        assert list(left) == list(right)
        for name in left:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name], right[name])


def test_text_feeds_come_back_as_text(tmp_path):
    samples = collect_samples(lambda _: {"n": np.zeros(1)}, [{"t": np.array(["ab", "c"], dtype=object)}])
    write_samples(tmp_path / "s.npz", samples)
    assert read_samples(tmp_path / "s.npz").feeds[0]["t"].tolist() == ["ab", "c"]


def test_collect_samples_stops_at_four_and_at_the_ceiling():
    assert len(collect_samples(double, feeds(9)).feeds) == 4
    assert len(collect_samples(double, feeds(9), most_bytes=90).feeds) == 2  # 40 bytes each
    assert len(collect_samples(double, feeds(9), most_bytes=1).feeds) == 1


def test_read_samples_names_a_damaged_file(tmp_path):
    (tmp_path / "s.npz").write_bytes(b"no")
    with pytest.raises(OutputError, match=r"s\.npz"):
        read_samples(tmp_path / "s.npz")

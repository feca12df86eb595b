import numpy as np
import pytest
from data_sources import X4, info, read_all, read_labels, rows, sizes

from fewbits.errors import DataError
from fewbits.runtime.data import Preprocess, open_data
from fewbits.runtime.data.arrays import read_npz

TWO = (info("a"), info("b"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_names_are_inputs_and_labels(tmp_path, save):
    save(tmp_path / "d.npz", x=rows(5), labels=np.arange(5))
    data = open_data(tmp_path / "d.npz", inputs=X4)
    assert data.has_labels
    assert sizes(data, 2) == [2, 2, 1]
    np.testing.assert_array_equal(read_all(data), rows(5))
    assert read_labels(data) == list(range(5))


def test_npz_maps_large_arrays(tmp_path):
    large = np.asfortranarray(np.arange(1 << 19, dtype=np.float32).reshape(-1, 4))
    np.savez(tmp_path / "d.npz", x=large, small=rows(1))
    read = read_npz(tmp_path / "d.npz")
    assert isinstance(read["x"], np.memmap)
    assert not isinstance(read["small"], np.memmap)
    np.testing.assert_array_equal(read["x"], large)


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.asarray([1, "a"], object))
    with pytest.raises(DataError, match=r"d.npz' holds Python objects, which fewbits never unpickles"):
        list(open_data(tmp_path / "d.npz", inputs=X4).batches())


@pytest.mark.parametrize("name", ["d.npz", "d.npy"])
def test_a_broken_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not numpy")
    with pytest.raises(DataError, match=rf"{name}' cannot be read as a numpy file"):
        list(open_data(tmp_path / name, inputs=X4).batches())


def test_npy_with_objects_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.asarray([1, "a"], object))
    with pytest.raises(DataError, match=r"holds Python objects"):
        list(open_data(tmp_path / "d.npy", inputs=X4).batches())


def test_npy_that_is_an_npz_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=rows(1))
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    with pytest.raises(DataError, match=r"is no single array: name it .npz"):
        list(open_data(tmp_path / "d.npy", inputs=X4).batches())


def test_npy_feeds_the_one_input(tmp_path):
    np.save(tmp_path / "d.npy", rows(3))
    np.testing.assert_array_equal(read_all(open_data(str(tmp_path / "d.npy"), inputs=X4)), rows(3))


def test_npy_cannot_feed_two_inputs(tmp_path):
    np.save(tmp_path / "d.npy", rows(3))
    with pytest.raises(DataError, match=r"d.npy holds one array, the model has 2 inputs \(a, b\): use .npz"):
        list(open_data(tmp_path / "d.npy", inputs=TWO).batches())


def test_npz_folder_holds_one_batch_per_file_in_name_order(tmp_path):
    np.savez(tmp_path / "b.npz", x=rows(2, start=3), labels=[3, 4])
    np.savez(tmp_path / "a.npz", x=rows(3), labels=[0, 1, 2])
    (tmp_path / "._a.npz").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "c.npz").mkdir()
    data = open_data(tmp_path, inputs=X4)
    assert data.has_labels
    assert sizes(data) == [3, 2]
    assert read_labels(data) == [0, 1, 2, 3, 4]


def test_npy_folder_holds_samples_or_batches(tmp_path):
    np.save(tmp_path / "1.npy", rows(1)[0])
    np.save(tmp_path / "2.npy", rows(2, start=1))
    data = open_data(tmp_path, inputs=X4)
    assert not data.has_labels
    assert sizes(data) == [1, 2]
    np.testing.assert_array_equal(read_all(data), rows(3))


def test_npy_folder_with_files_named_as_inputs(tmp_path):
    for name, array in (("a", rows(3)), ("b", rows(3, start=3)), ("labels", np.arange(3))):
        np.save(tmp_path / f"{name}.npy", array)
    data = open_data(tmp_path, inputs=TWO)
    assert data.has_labels
    assert sizes(data, 2) == [2, 1]
    assert read_labels(data) == [0, 1, 2]
    assert data.fingerprint == open_data(tmp_path, inputs=TWO).fingerprint


def test_npy_folder_with_labels_but_other_names_is_refused(tmp_path):
    np.save(tmp_path / "1.npy", rows(1))
    np.save(tmp_path / "labels.npy", np.arange(1))
    with pytest.raises(DataError, match=r"holds labels.npy beside files that are not named as the inputs \(x\)"):
        open_data(tmp_path, inputs=X4)


def test_a_folder_of_both_kinds_is_refused(tmp_path):
    np.save(tmp_path / "1.npy", rows(1))
    np.savez(tmp_path / "2.npz", x=rows(1))
    with pytest.raises(DataError, match=r"holds both .npz and .npy files"):
        open_data(tmp_path, inputs=X4)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no images and no .npz or .npy files: give an image folder"):
        open_data(tmp_path, inputs=X4)


def test_a_value_in_a_file_is_named_with_its_row(tmp_path):
    bad = rows(2)
    bad[1, 0] = np.nan
    np.savez(tmp_path / "a.npz", x=rows(3))
    np.savez(tmp_path / "b.npz", x=bad)
    with pytest.raises(DataError, match=r"Input 'x' of sample 4 \(b.npz, row 1\) holds nan"):
        list(open_data(tmp_path, inputs=X4).batches(4))


def test_paths_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere' does not exist: give an image folder"):
        open_data(tmp_path / "nowhere", inputs=X4)


def test_files_of_unknown_kind_are_refused(tmp_path):
    (tmp_path / "d.parquet").touch()
    with pytest.raises(DataError, match=r"d.parquet' is of no known kind: give an image folder"):
        open_data(tmp_path / "d.parquet", inputs=X4)


def test_preprocessing_is_for_images(tmp_path):
    np.savez(tmp_path / "d.npz", x=rows(1))
    with pytest.raises(DataError, match=r"d.npz' is no image folder, so preprocessing cannot be applied"):
        open_data(tmp_path / "d.npz", inputs=X4, preprocess=Preprocess())


def test_fingerprint_follows_the_content(tmp_path):
    prints = set()
    for number, value in enumerate((0.0, 0.0, 1.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / "d.npy", np.full((2, 4), value, np.float32))
        prints.add(open_data(folder / "d.npy", inputs=X4).fingerprint)
    assert len(prints) == 2
    assert all(len(text) == 64 for text in prints)


def test_fingerprint_tells_labels_and_dtypes_apart():
    sources = [
        {"x": rows(2)},
        {"x": rows(2).astype(np.float64)},
        {"x": rows(2), "labels": np.asarray([0, 1])},
        {"x": rows(2), "labels": np.asarray([1, 0])},
    ]
    assert len({open_data(source, inputs=X4).fingerprint for source in sources}) == 4
    text = [{"x": np.asarray([word], object)} for word in ("a", "b")]
    words = (info(dtype=object, shape=("N",)),)
    assert len({open_data(source, inputs=words).fingerprint for source in text}) == 2


# Qualcomm's input list


def write_list(folder, text, **files):
    for name, array in files.items():
        array.tofile(folder / f"{name}.raw")
    (folder / "input_list.txt").write_text(text)
    return folder / "input_list.txt"


def test_input_list_reads_one_inference_per_line(tmp_path):
    path = write_list(tmp_path, "% outputs\n#more\na.raw\n\nb.raw\n", a=rows(1), b=rows(1, start=1))
    data = open_data(path, inputs=X4)
    assert sizes(data) == [1, 1]
    assert not data.has_labels
    np.testing.assert_array_equal(read_all(data, 2), rows(2))
    np.testing.assert_array_equal(read_all(open_data(tmp_path, inputs=X4), 2), rows(2))


@pytest.mark.parametrize("line", ["b:=two.raw a:=one.raw", "one.raw two.raw"])
def test_input_list_reads_several_inputs(tmp_path, line):
    path = write_list(tmp_path, line, one=rows(1), two=rows(2))
    (batch,) = open_data(path, inputs=(info("a"), info("b", shape=("N", 8)))).batches()
    np.testing.assert_array_equal(batch.feeds["a"], rows(1))
    np.testing.assert_array_equal(batch.feeds["b"], rows(1, 8))


def test_input_list_finds_files_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    path = write_list(tmp_path / "lists", "raw files/a.raw")
    (tmp_path / "raw files").mkdir()
    rows(1).tofile(tmp_path / "raw files" / "a.raw")
    monkeypatch.chdir(tmp_path)
    assert sizes(open_data(path, inputs=X4)) == [1]


def test_input_list_reads_the_models_dtype_and_float32(tmp_path):
    codes = np.asarray([1, 2, 3, 4])
    path = write_list(tmp_path, "a.raw\nb.raw", a=codes.astype(np.uint8), b=codes.astype(np.float32))
    batches = list(open_data(path, inputs=(info(dtype=np.uint8),)).batches())
    assert [batch.feeds["x"].tolist() for batch in batches] == [[[1, 2, 3, 4]]] * 2
    assert batches[1].feeds["x"].dtype == np.uint8


def test_input_list_infers_one_dynamic_dimension(tmp_path):
    path = write_list(tmp_path, "a.raw", a=rows(3))
    (batch,) = open_data(path, inputs=(info(shape=("N", "S", 4)),)).batches()
    assert batch.feeds["x"].shape == (1, 3, 4)


def test_input_list_takes_a_static_batch_as_one_inference(tmp_path):
    path = write_list(tmp_path, "a.raw", a=rows(2))
    (batch,) = open_data(path, inputs=(info(shape=(2, 4)),)).batches()
    assert batch.feeds["x"].shape == (2, 4)


@pytest.mark.parametrize(
    ("line", "inputs", "sentence"),
    [
        ("gone.raw", X4, r"line 1: the file 'gone.raw' does not exist"),
        ("a.raw", (info(shape=("N", 5)),), r"a.raw \(input_list.txt, line 1\) has 16 bytes, .* needs 20: check shape"),
        ("a.raw", (info(shape=("N", "S", 3)),), r"has 16 bytes, .* needs a multiple of 12"),
        ("a.raw", (info(shape=("N", "S", "T")),), r"several dynamic dimensions.*--dim"),
        ("a.raw", TWO, r"'a.raw' does not name one file for each of the inputs 'a', 'b'"),
        ("a:=a.raw b.raw", TWO, r"write name:=path for each"),
        ("y:=a.raw", X4, r"holds 'y', which the model does not take"),
        ("a:=a.raw", TWO, r"lacks 'b'"),
        ("a.raw", (info(dtype=np.uint8),), r"takes uint8, .* fractions"),
    ],
)
def test_input_list_refuses(tmp_path, line, inputs, sentence):
    path = write_list(tmp_path, line, a=rows(1) + np.float32(0.5))
    with pytest.raises(DataError, match=sentence):
        list(open_data(path, inputs=inputs).batches())


def test_input_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot be read as text"):
        list(open_data(tmp_path / "list.txt", inputs=X4).batches())


def test_input_list_fingerprint_follows_the_raw_files(tmp_path):
    path = write_list(tmp_path, "a.raw", a=rows(1))
    before = open_data(path, inputs=X4).fingerprint
    rows(1, start=1).tofile(tmp_path / "a.raw")
    assert open_data(path, inputs=X4).fingerprint != before

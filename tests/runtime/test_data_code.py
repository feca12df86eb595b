import sys

import numpy as np
import pytest
from data_sources import X4, FakeTensor, info, read_all, read_labels, rows, sizes

from fewbits.errors import DataError, FewbitsError, ModelError
from fewbits.runtime.data import open_data
from fewbits.runtime.data.userfile import definition_place, load_user_function, split_user_spec

TWO = (info("a"), info("b"))
LABELS = np.asarray([1, 2])


@pytest.mark.parametrize(
    ("item", "has_labels"),
    [
        ({"x": rows(2)}, False),
        ({"x": rows(2), "labels": LABELS}, True),
        (({"x": rows(2)}, LABELS), True),
        (({"x": rows(2)},), False),
        ([{"x": rows(2)}, None], False),
        (rows(2), False),
        ((rows(2),), False),
        ((rows(2), LABELS), True),
        ([rows(2), [1, 2]], True),
        ((rows(2), None), False),
        (FakeTensor(rows(2)), False),
        ([FakeTensor(rows(2)), FakeTensor(LABELS)], True),
        ({"x": FakeTensor(rows(2)), "label": FakeTensor(LABELS)}, True),
        ({"x": rows(2).tolist()}, False),
    ],
)
def test_items_for_one_input(item, has_labels):
    data = open_data([item], inputs=X4)
    assert data.has_labels == has_labels
    np.testing.assert_array_equal(read_all(data), rows(2))
    if has_labels:
        assert read_labels(data) == [1, 2]


@pytest.mark.parametrize(
    ("item", "has_labels"),
    [
        ((rows(2), rows(2)), False),
        ([rows(2), rows(2), LABELS], True),
        (({"a": rows(2), "b": rows(2)}, LABELS), True),
    ],
)
def test_items_for_two_inputs(item, has_labels):
    data = open_data([item], inputs=TWO)
    assert data.has_labels == has_labels
    assert set(next(data.batches()).feeds) == {"a", "b"}


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ((rows(2), LABELS, LABELS), r"item 0 has 3 arrays, the model has 1 inputs \(x\): give one array per input"),
        (object(), "a value of type object does not become an array"),
        (
            FakeTensor(rows(2), TypeError("Got unsupported ScalarType BFloat16")),
            "type FakeTensor .* BFloat16.*give",
        ),
        ({"x": [[1.0], [1.0, 2.0]]}, "a value of type list does not become an array"),
    ],
)
def test_items_of_other_forms_are_refused(item, sentence):
    with pytest.raises(DataError, match=sentence):
        list(open_data([item], inputs=X4).batches())


class Loader:
    """As a torch DataLoader: iterable again and again, no length needed."""

    def __iter__(self):
        yield FakeTensor(rows(2)), FakeTensor(LABELS)
        yield FakeTensor(rows(1, start=2)), FakeTensor(np.asarray([3]))


class MapStyle:
    """As a torch map-style dataset: an index and a length, no iteration, no IndexError."""

    def __len__(self):
        return 3

    def __getitem__(self, position):
        return rows(1, start=position)[0], position


def test_a_data_loader_is_read_again_and_again():
    data = open_data(Loader(), inputs=X4)
    assert (data.name, data.has_labels) == ("the given Loader", True)
    assert sizes(data) == sizes(data) == [2, 1]
    assert read_labels(data) == [1, 2, 3]


def test_a_map_style_dataset_is_read_by_index():
    data = open_data(MapStyle(), inputs=X4)
    assert sizes(data, 2) == [2, 1]
    np.testing.assert_array_equal(read_all(data), rows(3))


def test_an_array_or_tensor_feeds_the_one_input():
    for source in (rows(3), FakeTensor(rows(3))):
        np.testing.assert_array_equal(read_all(open_data(source, inputs=X4)), rows(3))
        with pytest.raises(DataError, match=r"One array cannot feed 2 inputs \(a, b\): give a dict"):
            open_data(FakeTensor(rows(3)), inputs=TWO)


def test_generators_are_refused():
    with pytest.raises(
        DataError, match=r"the given generator can be read only once, .* pass the function that makes it"
    ):
        open_data((rows(1) for _ in range(3)), inputs=X4)


def test_functions_are_called_for_each_pass():
    calls = []

    def make():
        calls.append(1)
        yield rows(2)

    data = open_data(make, inputs=X4)
    assert data.name.endswith("make")
    assert sizes(data) == sizes(data) == [2]
    assert len(calls) == 2


def test_functions_may_have_parameters_with_defaults():
    def make(split="val", *rest, **options):
        yield rows(len(split))

    assert sizes(open_data(make, inputs=X4)) == [3]


def test_functions_may_return_a_dict_to_cut_from():
    assert sizes(open_data(lambda: {"x": rows(3), "labels": np.arange(3)}, inputs=X4), 2) == [2, 1]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (lambda: None, "returned None: yield feeds, or return an iterable"),
        (lambda: "text", "returned 'text'"),
        (lambda: 5, "A value of type int cannot be iterated"),
        (lambda split: split, "must take no arguments, but it needs 'split': give them defaults"),
        (type("Endless", (), {"__getitem__": lambda self, _: rows(1)})(), "A value of type Endless cannot be iterated"),
        (5, "A value of type int is no data: give an image folder"),
    ],
)
def test_other_sources_are_refused(source, sentence):
    with pytest.raises(DataError, match=sentence):
        list(open_data(source, inputs=X4).batches())


# Functions named on the command line


def write(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return f"{folder / name}:make"


SIMPLE = """import numpy as np

def make():
    for number in range(3):
        yield np.full((2, 4), number, np.float32), [number, number]
"""


def test_split_user_spec_wants_a_python_file_and_a_name():
    assert [str(part) for part in split_user_spec("C:/a.py:make")] == ["C:/a.py", "make"]
    assert split_user_spec("a.npz") is split_user_spec("a.py") is split_user_spec("a.py:") is None


def test_file_function_yields_batches(tmp_path):
    spec = write(tmp_path, SIMPLE)
    data = open_data(spec, inputs=X4)
    assert (data.name, data.has_labels) == (spec, True)
    assert read_labels(data) == [0, 0, 1, 1, 2, 2]
    assert str(tmp_path) not in sys.path


def test_file_function_finds_its_neighbours_when_loaded_and_when_run(tmp_path):
    (tmp_path / "neighbour_a.py").write_text("WIDTH = 4")
    (tmp_path / "neighbour_b.py").write_text("import numpy as np\nROWS = np.zeros((2, 4), np.float32)")
    text = (
        "from neighbour_a import WIDTH\ndef make():\n    from neighbour_b import ROWS\n    yield ROWS\n"
        "    import neighbour_a\n    yield ROWS + neighbour_a.WIDTH\n"
    )
    assert sizes(open_data(write(tmp_path, text), inputs=X4)) == [2, 2]
    assert str(tmp_path) not in sys.path


def test_file_function_is_loaded_once_and_again_when_edited(tmp_path):
    spec = write(tmp_path, SIMPLE)
    first = load_user_function(spec, error=DataError).function
    assert load_user_function(spec, error=DataError).function is first
    write(tmp_path, SIMPLE.replace("range(3)", "range(4)"))
    assert load_user_function(spec, error=DataError).function is not first


def test_file_function_may_define_dataclasses(tmp_path):
    text = "from dataclasses import dataclass\n@dataclass\nclass A:\n    b: 'int' = 1\ndef make(): return [A()]\n"
    (made,) = load_user_function(write(tmp_path, text), error=DataError).function()
    assert made.b == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("raise KeyError('no key')", r"The file '.*mine.py' failed at .*mine.py:1: KeyError: 'no key'. Mend it"),
        ("x = 1\ndef make(:\n", r"failed at .*mine.py:2: SyntaxError"),
        ("def other(): ...\ndef _hidden(): ...", r"has no function 'make': it has other\."),
        ("make = 3", "has something that is no function under the name 'make': it has none"),
        (
            "def make():\n    raise ValueError('odd.')\n    yield",
            r"make failed at .*mine.py:2: ValueError: odd. M",
        ),
        (
            "def make():\n    yield [[1.0] * 4]\n    assert False",
            r"failed at .*mine.py:3: AssertionError. Mend",
        ),
        ("import json\ndef make():\n    yield json.loads('{')", r"failed at .*mine.py:3: JSONDecodeError"),
        ("def make(path): ...", "must take no arguments, but it needs 'path'"),
    ],
)
def test_file_function_refuses(tmp_path, text, sentence):
    with pytest.raises(DataError, match=sentence):
        list(open_data(write(tmp_path, text), inputs=X4).batches())


def test_errors_of_the_library_pass_the_users_code_unchanged(tmp_path):
    text = "from fewbits.errors import ModelError\ndef make():\n    raise ModelError('as it was')\n"
    with pytest.raises(ModelError, match=r"^as it was$"):
        list(open_data(write(tmp_path, text), inputs=X4).batches())


def test_file_function_of_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"names the file '.*gone.py', which does not exist"):
        open_data(f"{tmp_path}/gone.py:make", inputs=X4)
    with pytest.raises(FewbitsError, match=r"does not name a function: write file.py:function"):
        load_user_function("mine.py", error=FewbitsError)


def test_a_python_file_without_function_is_refused(tmp_path):
    write(tmp_path, SIMPLE)
    with pytest.raises(DataError, match=r"is a Python file: name the function in it .*mine.py:function"):
        open_data(tmp_path / "mine.py", inputs=X4)


def test_definition_place_names_file_and_line():
    assert definition_place(rows).startswith(rows.__code__.co_filename)
    assert definition_place(len) == repr(len)


def test_fingerprint_of_a_file_function_is_its_file_and_name(tmp_path):
    spec = write(tmp_path, SIMPLE + "\ndef other():\n    yield from make()\n")
    prints = {open_data(spec, inputs=X4).fingerprint, open_data(spec.replace(":make", ":other"), inputs=X4).fingerprint}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    prints.add(open_data(write(moved, (tmp_path / "mine.py").read_text(), "other.py"), inputs=X4).fingerprint)
    assert len(prints) == 2
    write(tmp_path, SIMPLE + "\n")
    assert open_data(spec, inputs=X4).fingerprint not in prints


def test_fingerprint_of_closures_and_lists_is_their_content():
    def maker(array):
        return lambda: iter([array])

    one, same, other = (open_data(maker(array), inputs=X4).fingerprint for array in (rows(1), rows(1), rows(1) + 1))
    assert one == same != other
    assert open_data([rows(1)], inputs=X4).fingerprint == one
    labelled = open_data([(rows(1), [1])], inputs=X4).fingerprint
    assert labelled != one

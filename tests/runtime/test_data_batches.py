import logging

import numpy as np
import pytest
from data_sources import F32, X4, info, read_all, read_labels, rows, sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.errors import DataError, SpecError
from fewbits.runtime.data import Batch, InputInfo, open_data


def test_batches_cut_arrays_to_the_batch_size_and_the_rest():
    data = open_data({"x": rows(10)}, inputs=X4)
    assert sizes(data, 4) == [4, 4, 2]
    np.testing.assert_array_equal(read_all(data, 4), rows(10))


def test_batches_without_a_size_are_single_samples_of_arrays():
    assert sizes(open_data({"x": rows(3)}, inputs=X4)) == [1, 1, 1]


def test_batches_without_a_size_are_the_sources_own():
    assert sizes(open_data([rows(3), rows(2)], inputs=X4)) == [3, 2]


def test_batches_join_small_items():
    data = open_data([rows(3), rows(2, start=3), rows(4, start=5)], inputs=X4)
    assert sizes(data, 4) == [4, 4, 1]
    np.testing.assert_array_equal(read_all(data, 4), rows(9))


def test_batches_limit_counts_samples_and_cuts_the_last_batch():
    data = open_data({"x": rows(10), "labels": np.arange(10)}, inputs=X4)
    batches = list(data.batches(4, 6))
    assert [batch.size for batch in batches] == [4, 2]
    assert [len(batch.labels) for batch in batches] == [4, 2]


def test_batches_limit_reads_no_item_beyond_it():
    seen = []

    def make():
        for number in range(5):
            seen.append(number)
            yield rows(2)

    assert sizes(open_data(make, inputs=X4), 2, 4) == [2, 2]
    assert seen == [0, 1]


def test_batches_can_be_read_twice():
    data = open_data({"x": rows(5)}, inputs=X4)
    assert sizes(data, 2) == sizes(data, 2) == [2, 2, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    st.integers(1, 9),
    st.none() | st.integers(1, 30),
)
def test_batches_keep_every_sample_in_order(lengths, batch_size, limit):
    total = sum(lengths)
    starts = np.cumsum([0, *lengths])
    items = [
        (rows(length, start=start), np.arange(start, start + length))
        for length, start in zip(lengths, starts, strict=False)
    ]
    batches = list(open_data(items, inputs=X4).batches(batch_size, limit))
    wanted = min(total, limit or total)
    np.testing.assert_array_equal(np.concatenate([b.feeds["x"] for b in batches]), rows(wanted))
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), np.arange(wanted))
    assert all(b.size == batch_size for b in batches[:-1])


@pytest.mark.parametrize(("static", "expected"), [(1, [1] * 5), (2, [2, 2])])
def test_batches_of_a_static_model_have_exactly_its_batch(static, expected, caplog):
    data = open_data({"x": rows(5)}, inputs=(info(shape=(static, 4)),))
    with caplog.at_level(logging.WARNING):
        assert sizes(data, 4) == expected
    assert ("last 1 of 5 samples fill no batch of 2" in caplog.text) == (static == 2)


def test_batches_of_a_static_model_round_the_limit_to_whole_batches(caplog):
    data = open_data({"x": rows(20)}, inputs=(info(shape=(8, 4)),))
    assert sizes(data, None, 10) == [8]
    assert sizes(data, None, 3) == [8]
    assert not caplog.text


def test_batches_refuse_fewer_samples_than_the_static_batch():
    data = open_data({"x": rows(5)}, inputs=(info(shape=(8, 4)),))
    with pytest.raises(DataError, match=r"has 5 samples, the model's static batch is 8.*--dim"):
        list(data.batches())


def test_batches_refuse_different_shapes_in_a_static_batch():
    data = open_data([rows(1, 4), rows(1, 5)], inputs=(info(shape=(2, "S")),))
    with pytest.raises(DataError, match=r"static batch is 2, and samples of different shapes"):
        list(data.batches())


def test_batches_never_join_different_shapes():
    items = [rows(1, 4), rows(1, 4), rows(1, 5), rows(1, 4)]
    assert sizes(open_data(items, inputs=(info(shape=("N", "S")),)), 8) == [2, 1, 1]


def test_batches_never_join_labels_of_different_shapes():
    items = [(rows(1), np.zeros((1, 2), int)), (rows(1), np.zeros((1, 3), int))]
    assert sizes(open_data(items, inputs=X4), 8) == [1, 1]


@pytest.mark.parametrize(("batch_size", "limit", "word"), [(0, None, "batch size of 0"), (None, -1, "limit of -1")])
def test_batches_refuse_sizes_below_one(batch_size, limit, word):
    with pytest.raises(SpecError, match=f"A {word} is impossible"):
        open_data({"x": rows(5)}, inputs=X4).batches(batch_size, limit)


def test_batches_refuse_a_source_without_samples():
    with pytest.raises(DataError, match=r"the given list' holds no samples"):
        list(open_data([], inputs=X4).batches())
    with pytest.raises(DataError, match=r"holds no samples"):
        list(open_data({"x": rows(0)}, inputs=X4).batches())


def test_batches_add_a_missing_batch_axis():
    batches = list(open_data([(rows(1)[0], 3), (rows(1)[0], 1)], inputs=X4).batches())
    assert [batch.feeds["x"].shape for batch in batches] == [(1, 4), (1, 4)]
    assert [batch.labels.tolist() for batch in batches] == [[3], [1]]


def test_batches_add_the_axis_to_a_label_map_too():
    (batch,) = open_data([(rows(1)[0], np.zeros((5, 6), int))], inputs=X4).batches()
    assert batch.labels.shape == (1, 5, 6)


def test_batches_of_a_model_without_batch_axis_take_one_row_each():
    inputs = (info(shape=(4,)),)
    (one,) = open_data({"x": rows(1)[0]}, inputs=inputs).batches()
    assert (one.feeds["x"].shape, one.size) == ((4,), 1)
    many = list(open_data({"x": rows(3), "labels": [5, 6, 7]}, inputs=inputs).batches(2, 2))
    assert [(batch.feeds["x"].shape, batch.size, batch.labels.tolist()) for batch in many] == [
        ((4,), 1, [5]),
        ((4,), 1, [6]),
    ]


def test_batches_take_one_row_each_when_static_samples_are_stacked():
    data = open_data({"x": np.zeros((5, 3, 2, 2)), "labels": np.arange(5)}, inputs=(info(shape=(3, 2, 2)),))
    assert [batch.feeds["x"].shape for batch in data.batches(limit=4)] == [(3, 2, 2)] * 4


def test_batches_take_a_static_sample_with_one_label_as_one():
    (batch,) = open_data([(np.zeros((3, 2, 2)), 4)], inputs=(info(shape=(3, 2, 2)),)).batches()
    assert (batch.size, batch.labels.tolist()) == (1, [4])


def test_batches_repeat_an_input_that_counts_no_samples():
    inputs = (info(), info("scale", shape=(2,)))
    batches = list(open_data({"x": rows(5), "scale": np.asarray([1.0, 2.0])}, inputs=inputs).batches(2))
    assert [batch.size for batch in batches] == [2, 2, 1]
    assert all(batch.feeds["scale"].tolist() == [1.0, 2.0] for batch in batches)


def test_batches_never_join_different_inputs_that_count_no_samples():
    inputs = (info(), info("scale", shape=(1,)))
    items = [(rows(1), np.asarray([value])) for value in (1.0, 1.0, 2.0)]
    assert sizes(open_data(items, inputs=inputs), 8) == [2, 1]


def test_batches_read_the_batch_off_the_dynamic_axis():
    inputs = (info("mask", shape=(1, 4)), info())
    (batch,) = open_data({"mask": rows(1), "x": rows(3)}, inputs=inputs).batches(8)
    assert batch.size == 3
    assert batch.feeds["mask"].shape == (1, 4)


@pytest.mark.parametrize(("batch", "other"), [(None, 3), ("N", 3), ("N", "layers")])
def test_batches_leave_inputs_with_another_axis_0_whole(batch, other):
    inputs = (info(shape=(batch, 4)), info("table", shape=(other, 4)))
    data = open_data({"x": rows(5), "table": rows(3)}, inputs=inputs)
    assert [(b.size, b.feeds["table"].shape) for b in data.batches(4)] == [(4, (3, 4)), (1, (3, 4))]


def test_batches_of_a_static_model_leave_inputs_with_another_length_whole():
    inputs = (info(shape=(1, 4)), info("table", shape=(3, 4)))
    data = open_data({"x": rows(2), "table": rows(3)}, inputs=inputs)
    assert [b.feeds["table"].shape for b in data.batches()] == [(3, 4), (3, 4)]
    stacked = open_data({"x": rows(2)[:, None], "table": rows(3)}, inputs=inputs)
    assert [(b.feeds["x"].shape, b.feeds["table"].shape) for b in stacked.batches()] == [((1, 4), (3, 4))] * 2


def test_batches_of_several_inputs_share_the_batch():
    inputs = (info("a", shape=(None, 4)), info("b", np.int64, ("batch", 2)))
    data = open_data({"a": rows(5), "b": np.ones((5, 2), np.int32)}, inputs=inputs)
    assert [(batch.feeds["a"].shape, batch.feeds["b"].dtype) for batch in data.batches(3)] == [
        ((3, 4), np.int64),
        ((2, 4), np.int64),
    ]


def test_batches_refuse_inputs_with_different_lengths():
    inputs = (info("a"), info("b"))
    with pytest.raises(DataError, match=r"disagree on the number of samples \('a' 5, 'b' 4\)"):
        list(open_data({"a": rows(5), "b": rows(4)}, inputs=inputs).batches())
    stacked = (info("a", shape=(1, 4)), info("b", shape=(1, 4)))
    with pytest.raises(DataError, match=r"'b' has 4 samples, 'a' has 5"):
        list(open_data({"a": rows(5)[:, None], "b": rows(4)[:, None]}, inputs=stacked).batches())


def test_batches_refuse_another_number_of_labels():
    static = (info(shape=(5, 4)),)
    with pytest.raises(DataError, match=r"has 4 labels for 5 samples"):
        list(open_data([(rows(5), np.arange(4))], inputs=static).batches())
    with pytest.raises(DataError, match=r"has 4 labels for 5 samples"):
        list(open_data({"x": rows(5), "labels": np.arange(4)}, inputs=X4).batches())


def test_batches_refuse_labels_that_stop_or_start():
    with pytest.raises(DataError, match=r"item 1 has no labels, those before it have some"):
        list(open_data([(rows(1), [1]), rows(1)], inputs=X4).batches())
    with pytest.raises(DataError, match=r"item 1 has labels, those before it have none"):
        list(open_data([rows(1), (rows(1), [1])], inputs=X4).batches())


def test_names_that_the_model_lacks_are_refused():
    with pytest.raises(DataError, match=r"holds 'y', which the model does not take. The model has the inputs 'x'"):
        list(open_data({"x": rows(1), "y": rows(1)}, inputs=X4).batches())


def test_missing_names_are_refused():
    inputs = (info("a"), info("b"))
    with pytest.raises(DataError, match=r"lacks 'b'. The model has the inputs 'a', 'b'"):
        list(open_data({"a": rows(1)}, inputs=inputs).batches())


def test_a_wrong_rank_is_refused():
    with pytest.raises(DataError, match=r"input 'x' has 2 dimensions \(x: float32 \[N, 4\]\), the array has 3"):
        list(open_data({"x": np.zeros((1, 1, 4))}, inputs=X4).batches())


def test_a_wrong_static_dimension_is_refused():
    with pytest.raises(DataError, match=r"input x: float32 \[N, 4\] cannot take an array of shape \[1, 5\]: reshape"):
        list(open_data({"x": rows(2, 5)}, inputs=X4).batches())


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [
        (np.float64, np.float32),
        (np.float32, np.float16),
        (np.int32, np.int64),
        (np.int64, np.int32),
        (np.int64, np.bool_),
        (np.uint8, np.float32),
        (np.int64, np.float32),
    ],
)
def test_casts_that_keep_the_values_are_done(given_dtype, wanted):
    array = np.asarray([[0, 1, 1, 0]], given_dtype)
    (batch,) = open_data({"x": array}, inputs=(info(dtype=wanted),)).batches()
    assert batch.feeds["x"].dtype == wanted
    np.testing.assert_array_equal(batch.feeds["x"], array)


@pytest.mark.parametrize(
    ("array", "wanted", "why"),
    [
        (np.asarray([[1.0, 2, 3, 4]]), np.int64, "fractions would be cut off"),
        (np.asarray([[1, 2, 3, 300]]), np.uint8, "some values would change"),
        (np.asarray([[1, 2, 3, 2**24 + 1]]), np.float32, "some values would change"),
        (np.asarray([[1.0, 2, 3, 1e6]]), np.float16, "some values would overflow"),
        (np.asarray([["a", "b", "c", "d"]]), np.float32, "text and numbers do not convert"),
    ],
)
def test_casts_that_lose_values_are_refused(array, wanted, why):
    with pytest.raises(DataError, match=rf"input 'x' takes {np.dtype(wanted)}, the array is .* {why}.*\.astype\("):
        list(open_data({"x": array}, inputs=(info(dtype=wanted),)).batches())


def test_text_inputs_take_text():
    (batch,) = open_data({"x": np.asarray(["a", "b"])}, inputs=(info(dtype=object, shape=("N",)),)).batches(2)
    assert batch.feeds["x"].dtype == object


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (np.inf, "inf")])
def test_values_that_are_not_finite_are_refused(value, text):
    items = [rows(2), rows(3)]
    items[1][2, 1] = value
    with pytest.raises(DataError, match=rf"Input 'x' of sample 4 \(the given list, item 1, row 2\) holds {text}: ev"):
        list(open_data(items, inputs=X4).batches(2))


def test_values_that_are_not_finite_are_found_inside_a_batch():
    items = [rows(2), rows(3)]
    items[1][1, 1] = np.nan
    with pytest.raises(DataError, match=r"sample 3 \(the given list, item 1, row 1\) holds nan"):
        list(open_data(items, inputs=X4).batches())


def test_a_model_without_inputs_is_refused():
    with pytest.raises(DataError, match=r"cannot feed the model: it has no inputs"):
        open_data({"x": rows(1)}, inputs=())


def test_batch_size_falls_back_to_axis_0():
    assert Batch({"x": rows(3)}).size == 3
    assert Batch({"x": np.asarray(1.0)}).size == 1
    assert Batch({"x": rows(3)}, count=1).size == 1


def test_input_info_reads_as_name_dtype_and_shape():
    assert str(InputInfo("x", F32, ("N", None, 4))) == "x: float32 [N, ?, 4]"


def test_has_labels_follows_the_source():
    assert open_data({"x": rows(1), "label": [1]}, inputs=X4).has_labels
    assert not open_data({"x": rows(1)}, inputs=X4).has_labels
    assert read_labels(open_data({"x": rows(2), "label": [1, 2]}, inputs=X4)) == [1, 2]


def test_labels_that_the_model_takes_are_an_input():
    data = open_data({"x": rows(2), "labels": np.zeros((2, 4))}, inputs=(info(), info("labels")))
    assert not data.has_labels
    assert set(next(data.batches()).feeds) == {"x", "labels"}


def test_both_label_names_at_once_are_refused():
    with pytest.raises(DataError, match=r"holds both 'labels' and 'label'"):
        open_data({"x": rows(2), "labels": [1, 2], "label": [1, 2]}, inputs=X4)

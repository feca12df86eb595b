"""Windows: cut where inputs agree, at places that are the same for all of them, and only where that is well defined."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from fewbits.errors import SpecError
from fewbits.training.schedule import LABELS
from fewbits.training.torch_samples import Samples
from fewbits.training.windows import Windows, choose_windows, most_positions, open_axes

AXES = {"x": (None, None, "h", "w")}


def image(h: int, w: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(h * w, dtype=np.float32).reshape(1, 1, h, w)}


def test_axes_are_read_off_the_model() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 3, h, ?] x, int64[N, s] ids) => (float[N, 3, h, ?] y) { y = Relu (x) }"""
    found = open_axes(ir.from_proto(onnx.parser.parse_model(text.replace("?", "w"))))
    assert found == {"x": (None, None, "h", "w"), "ids": (None, "s")}


def test_windows_have_one_size_and_come_from_everywhere() -> None:
    images = [image(100 + i, 130 - i) for i in range(5)]
    samples = Samples(images, 4, axes=AXES)
    assert samples.holds_out
    stream = samples.forever(0)
    batches = [next(stream)["x"] for _ in range(20)]
    assert {tuple(batch.shape) for batch in batches} == {(4, 1, 64, 64)}
    assert all(bool((batch[:, 0, 0, 1] - batch[:, 0, 0, 0] == 1).all()) for batch in batches)
    assert len({float(window[0, 0, 0]) for batch in batches for window in batch}) > 40
    assert "random windows of 64 x 64 (h, w), 4 in each step" in samples.notes[0]


def test_the_order_and_the_places_are_those_of_the_seed_and_can_be_skipped() -> None:
    samples = Samples([image(70 + i, 90) for i in range(5)], 4, axes=AXES)
    stream, later = samples.forever(3), samples.forever(3, skip=7)
    for _ in range(7):
        next(stream)
    assert all(bool((next(stream)["x"] == next(later)["x"]).all()) for _ in range(5))


def test_inputs_that_share_an_axis_are_cut_at_the_same_place() -> None:
    ids = [np.arange(n, dtype=np.int64)[None] for n in (40, 50, 60)]
    feeds = [{"ids": one, "mask": one[:, :, None] - one[:, None, :]} for one in ids]
    axes = {"ids": (None, "s"), "mask": (None, "s", "s")}
    batch = next(Samples(feeds, 2, axes=axes, window=8).forever(0))
    assert tuple(batch["mask"].shape) == (2, 8, 8)
    assert bool((batch["mask"] == batch["ids"][:, :, None] - batch["ids"][:, None, :]).all())


def test_large_windows_are_fewer_per_step() -> None:
    assert Windows(AXES, {"h": 64, "w": 64}).per_step(32) == 4
    assert Windows(AXES, {"h": 512, "w": 512}).per_step(32) == 1
    assert Windows({"x": (None, "s")}, {"s": 128}).per_step(32) == 32


@pytest.mark.parametrize("window", [None, 32, 64, 512])
def test_the_windows_of_a_step_have_no_more_positions_than_is_told(window: int | None) -> None:
    made = choose_windows([image(600, 800), image(800, 600)], AXES, window)
    assert isinstance(made, Windows)
    assert made.per_step(10**6) * made.positions <= most_positions(window, 2)


def test_held_out_windows_cover_their_sample() -> None:
    samples = Samples([image(64 + i, 64) for i in range(4)] + [image(150, 70)], 32, axes=AXES)
    firsts = {int(window[0, 0, 0]) for batch in samples.held_out for window in batch["x"]}
    assert firsts == {row * 70 + column for row in (0, 43, 86) for column in (0, 6)}


@pytest.mark.parametrize(
    ("feeds", "axes", "why"),
    [
        ([image(40, 40), image(50, 60)], {"x": (None, None, "s", "s")}, "axes of the same name have different sizes"),
        ([{**image(40, 40), "m": np.ones((1, 40))}, {**image(50, 50), "m": np.ones((1, 50))}],
         {"x": (None, None, "x[2]", "x[3]"), "m": (None, "m[1]")}, "which axes of its inputs belong together"),
        ([{**image(n, n), LABELS: np.ones((1, 2))} for n in (40, 50)], AXES, "labels would"),
    ],
)  # fmt: skip
def test_what_is_not_well_defined_is_not_cut(feeds: list, axes: dict, why: str) -> None:
    found = choose_windows(feeds, axes, None)
    assert isinstance(found, str)
    assert why in found
    samples = Samples(feeds, 8, axes=axes)
    assert [len(batch["x"]) for batch in samples.held_out] == [1, 1]
    assert why in samples.notes[0]


def test_whole_samples_where_they_are_asked_for_or_alike() -> None:
    assert choose_windows([image(40, 40), image(50, 60)], AXES, 0) == ""
    assert choose_windows([image(40, 40), image(40, 40)], AXES, None) == ""
    assert tuple(next(Samples([image(40, 40)] * 3, 2, axes=AXES, window=16).forever(0))["x"].shape) == (2, 1, 16, 16)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="No sample is as large as --window 99"):
        choose_windows([image(40, 40)], AXES, 99)
    with pytest.raises(SpecError, match="this model fixes them all"):
        choose_windows([image(40, 40)], {"x": (None,) * 4}, 16)


def test_small_samples_are_left_out_and_counted() -> None:
    samples = Samples([image(80, 80) for _ in range(5)] + [image(20, 80)], 4, axes=AXES)
    assert "1 smaller samples were left out" in samples.notes[0]

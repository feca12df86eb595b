import logging

import numpy as np
import pytest
from data_sources import RGB, info, open_images, read_labels, save_image, sizes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewbits.errors import DataError, SpecError
from fewbits.runtime.data import PRESETS, Preprocess, open_data, parse_preset

COLOUR = np.asarray([255, 0, 51])


def one(data):
    (batch,) = data.batches()
    return batch.feeds["image"]


def test_class_folders_are_labels_in_sorted_order(tmp_path, caplog):
    for name in ("dog/1.png", "cat/b.PNG", "cat/deep/a.jpg", "empty/readme.txt", ".hidden/x.png"):
        save_image(tmp_path / name) if not name.endswith("txt") else (tmp_path / "empty").mkdir()
    data = open_images(tmp_path)
    assert data.has_labels
    assert read_labels(data) == [0, 0, 1]
    assert not caplog.text


def test_class_folders_of_numbers_warn_about_their_order(tmp_path, caplog):
    for name in ("2/a.png", "10/a.png"):
        save_image(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        open_images(tmp_path)
    assert "numbered in the order of text" in caplog.text


def test_labels_csv_gives_order_and_labels(tmp_path):
    for name in ("a.png", "sub/b.png", "c.png"):
        save_image(tmp_path / name)
    (tmp_path / "labels.csv").write_text("file,label\nc.png,7\nsub/b.png, 2\n", encoding="utf-8-sig")
    assert read_labels(open_images(tmp_path)) == [7, 2]


def test_a_plain_folder_has_no_labels_and_name_order(tmp_path):
    save_image(tmp_path / "b.png", (0, 0, 0))
    save_image(tmp_path / "a.png", (255, 255, 255))
    data = open_images(tmp_path)
    assert not data.has_labels
    assert [batch.feeds["image"].max() for batch in data.batches()] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,label\na.png,1\n", r"has the columns 'name', 'label': it needs file,label"),
        ("", "has the columns none"),
        ("file,label\n", "lists no images"),
        ("file,label\nb.png,1\n", r"labels.csv, line 2: the file 'b.png' does not exist"),
        ("file,label\na.png,cat\n", r"line 2: the label 'cat' is no whole number: give the index of the class"),
        ("file,label\na.png\n", "the label None is no whole number"),
    ],
)
def test_labels_csv_refuses(tmp_path, text, sentence):
    save_image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        open_images(tmp_path)


def test_labels_csv_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"labels.csv' cannot be read"):
        open_images(tmp_path)


def test_images_beside_class_folders_are_refused(tmp_path):
    save_image(tmp_path / "a.png")
    save_image(tmp_path / "cat" / "b.png")
    with pytest.raises(DataError, match=r"holds images both in it and in its folders"):
        open_images(tmp_path)


def test_images_beside_arrays_are_refused(tmp_path):
    save_image(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"holds both images and numpy files"):
        open_images(tmp_path)


def test_unreadable_images_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"The image '.*broken.png' cannot be read .*: mend or remove it"):
        list(open_images(tmp_path).batches())


def test_images_with_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep.png' has mode I;16, more than 8 bits"):
        list(open_images(tmp_path, (info("image", shape=("N", 1, 4, 4)),)).batches())


def test_images_smaller_than_the_crop_are_refused(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"it is 4x6, smaller than the crop 5x5"):
        list(open_images(tmp_path, crop=5).batches())


def test_images_of_another_size_than_the_model_are_refused(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"'a.png' is 4x6 after preprocessing, .* wants 8x8: set resize = 8,8"):
        list(open_images(tmp_path, (info("image", shape=(1, 3, 8, 8)),)).batches())


@pytest.mark.parametrize(
    ("shape", "order", "expected_shape"),
    [
        (("N", 3, "H", "W"), [0, 1, 2], (1, 3, 4, 6)),
        (("N", "H", "W", 3), [0, 1, 2], (1, 4, 6, 3)),
        ((3, 4, 6), [0, 1, 2], (3, 4, 6)),
        (("N", None, None, None), [0, 1, 2], (1, 3, 4, 6)),
    ],
)
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_layout_and_channel_order(tmp_path, shape, order, expected_shape, channel_order):
    save_image(tmp_path / "a.png")
    image = one(open_images(tmp_path, (info("image", shape=shape),), channel_order=channel_order))
    assert image.shape == expected_shape
    assert image.dtype == np.float32
    channels = image.reshape(3, -1)[:, 0] if expected_shape[-1] != 3 else image.reshape(-1, 3)[0]
    order = order if channel_order == "rgb" else order[::-1]
    np.testing.assert_allclose(channels, (COLOUR / 255)[order], rtol=1e-6)  # one float32 rounding


def test_layout_can_be_forced(tmp_path):
    save_image(tmp_path / "a.png", size=(3, 4))
    inputs = (info("image", shape=("N", 3, "H", 3)),)
    with pytest.raises(DataError, match=r"is 4x3 after preprocessing, .* wants 3x3"):
        list(open_images(tmp_path, inputs, layout="nhwc").batches())
    assert one(open_images(tmp_path, inputs, layout="nchw")).shape == (1, 3, 4, 3)


def test_normalization_is_scale_then_mean_then_std(tmp_path):
    save_image(tmp_path / "a.png")
    image = one(open_images(tmp_path, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.1)))
    np.testing.assert_allclose(image[0, :, 0, 0], [1.0, -0.5, 2.0], rtol=1e-6)  # one float32 rounding


def test_grey_models_get_luminance(tmp_path):
    save_image(tmp_path / "a.png")
    image = one(open_images(tmp_path, (info("image", shape=("N", 1, 4, 6)),)))
    # ITU-R 601: 0.299 * 255 + 0.114 * 51 = 82.06, which pillow cuts to 82
    np.testing.assert_allclose(image, np.full((1, 1, 4, 6), 82 / 255), rtol=1e-6)


def test_integer_models_get_pixels(tmp_path):
    save_image(tmp_path / "a.png")
    inputs = (info("image", np.uint8, ("N", 3, "H", "W")),)
    for data in (open_images(tmp_path, inputs, scale=1.0), open_data(tmp_path, inputs=inputs)):
        assert one(data).dtype == np.uint8
        assert one(data)[0, :, 0, 0].tolist() == COLOUR.tolist()


def test_integer_models_refuse_normalization(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"takes integers, so pixels cannot be normalized .*: use the preset 'raw'"):
        open_images(tmp_path, (info("image", np.uint8, ("N", 3, "H", "W")),))


def test_palettes_with_transparency_are_read(tmp_path):
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 51])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    np.testing.assert_allclose(one(open_images(tmp_path))[0, :, 0, 0], COLOUR / 255, rtol=1e-6)


def gradient(folder, width, height):
    """Save an image whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    Image.fromarray(pixels).save(folder / "a.png")
    return pixels


def test_crop_of_the_whole_image_changes_nothing(tmp_path):
    pixels = gradient(tmp_path, 5, 3)
    np.testing.assert_array_equal(one(open_images(tmp_path, crop=(3, 5), scale=1.0))[0], pixels.transpose(2, 0, 1))


def test_crop_takes_the_centre(tmp_path):
    pixels = gradient(tmp_path, 10, 7)
    image = one(open_images(tmp_path, crop=(3, 4), scale=1.0))
    # torchvision: top = round((7 - 3) / 2), left = round((10 - 4) / 2)
    np.testing.assert_array_equal(image[0], pixels[2:5, 3:7].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [((10, 7), 14, (14, 20)), ((7, 10), 14, (20, 14)), ((9, 7), 3, (3, 3)), ((10, 7), (3, 5), (3, 5))],
)
def test_resize_keeps_the_aspect_of_one_length(tmp_path, size, resize, expected):
    gradient(tmp_path, *size)
    assert one(open_images(tmp_path, resize=resize)).shape[2:] == expected


def test_resize_nearest_repeats_pixels(tmp_path):
    pixels = gradient(tmp_path, 3, 2)
    image = one(open_images(tmp_path, resize=4, resample="nearest", scale=1.0))
    np.testing.assert_array_equal(image[0, 0], pixels[..., 0].repeat(2, 0).repeat(2, 1))


def test_images_without_preprocessing_fit_the_model_and_say_so(tmp_path, caplog):
    save_image(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        image = one(open_data(tmp_path, inputs=(info("image", shape=(1, 3, 8, 9)),)))
    assert image.shape == (1, 3, 8, 9)
    assert image.max() == 1.0
    assert "no preprocessing was named, so images are resized to 8x9 and pixels are 0..1" in caplog.text


def test_images_without_preprocessing_keep_their_size_where_the_model_leaves_one_open(tmp_path):
    save_image(tmp_path / "a.png")
    assert one(open_data(tmp_path, inputs=(info("image", shape=(1, 3, 4, "W")),))).shape == (1, 3, 4, 6)


def test_images_of_varying_size_come_one_by_one(tmp_path):
    save_image(tmp_path / "a.png", size=(6, 4))
    save_image(tmp_path / "b.png", size=(4, 6))
    save_image(tmp_path / "c.png", size=(6, 4))
    assert sizes(open_images(tmp_path), 8) == [1, 1, 1]
    assert sizes(open_images(tmp_path, resize=(4, 4)), 8) == [3]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ((info("a"), info("b")), r"feeds one input, the model has 2 \(a, b\): use .npz"),
        ((info("a"),), r"needs an input with 4 dimensions, the model has a: float32 \[N, 4\]"),
        ((info("a", shape=("N", 4, 8, 8)),), "has 4 channels as nchw; images have 1 or 3: set the layout"),
        ((info("a", np.int64, ("N", 3, 8, 8)),), "takes no images: they become floats or uint8"),
    ],
)
def test_models_that_take_no_images_are_refused(tmp_path, inputs, sentence):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=sentence):
        open_images(tmp_path, inputs)


def test_three_means_for_one_channel_are_refused(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"has one channel, mean and std have three values"):
        open_images(tmp_path, (info("image", shape=("N", 1, 4, 6)),), mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ({"resize": 0}, "resize = 0 is impossible"),
        ({"crop": (1, 2, 3)}, r"crop = \(1, 2, 3\) is impossible: give one length or height,width"),
        ({"mean": (0.1, 0.2)}, "mean = .* has 2 values: give one, or one per channel"),
        ({"scale": 0.0}, "std = .* and scale = 0.0 must be positive"),
        ({"std": (0.0,)}, "std = .* must be positive"),
        ({"mean": (123.7, 116.3, 103.5)}, r"lies above every pixel \(0..1 at scale 0.00392157\): .* set scale = 1"),
        ({"channel_order": "gbr"}, "channel_order = 'gbr' is unknown: choose one of 'rgb', 'bgr'"),
        ({"layout": "chw"}, "layout = 'chw' is unknown"),
        ({"resample": "cubic"}, "resample = 'cubic' is unknown"),
    ],
)
def test_preprocess_refuses(steps, sentence):
    with pytest.raises(SpecError, match=sentence):
        Preprocess(**steps)


def test_presets_are_what_their_names_say(tmp_path):
    save_image(tmp_path / "a.png", size=(300, 280))
    corner = {
        name: one(open_data(tmp_path, inputs=RGB, preprocess=preset))[0, :, 0, 0] for name, preset in PRESETS.items()
    }
    scaled = COLOUR / 255
    np.testing.assert_allclose(corner["imagenet"], (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rtol=1e-6)
    np.testing.assert_allclose(corner["imagenet-tf"], COLOUR / 127.5 - 1, rtol=1e-6)
    np.testing.assert_allclose(corner["unit"], scaled, rtol=1e-6)
    np.testing.assert_array_equal(corner["raw"], COLOUR)
    assert one(open_data(tmp_path, inputs=RGB, preprocess=PRESETS["imagenet"])).shape == (1, 3, 224, 224)


def test_parse_preset_suggests_the_closest():
    assert parse_preset("imagenet") is PRESETS["imagenet"]
    with pytest.raises(SpecError, match=r"'imagnet' \(did you mean 'imagenet'\?\): choose one of imagenet, "):
        parse_preset("imagnet")


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64))
def test_resize_makes_the_shorter_side_exact(width, height, short):
    from fewbits.runtime.data.preprocess import resize_and_crop

    image = resize_and_crop(Image.new("L", (width, height)), Preprocess(resize=short, resample="nearest"))
    assert min(image.size) == short
    assert (image.width <= image.height) == (width <= height) or image.width == image.height


def test_fingerprint_follows_pixels_labels_and_preprocessing(tmp_path):
    save_image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,1\n")
    prints = [open_images(tmp_path).fingerprint, open_images(tmp_path).fingerprint]
    assert prints[0] == prints[1]
    prints.append(open_images(tmp_path, resize=8).fingerprint)
    (tmp_path / "labels.csv").write_text("file,label\na.png,2\n")
    prints.append(open_images(tmp_path).fingerprint)
    save_image(tmp_path / "a.png", (0, 0, 0))
    prints.append(open_images(tmp_path).fingerprint)
    assert len(set(prints)) == 4

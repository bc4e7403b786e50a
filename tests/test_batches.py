from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sklearn.datasets import load_sample_images

from onnx_ghn.batches import Batches, Normalisation, make_batches, recorded_normalisation
from onnx_ghn.data import DataError, load_data
from onnx_ghn.errors import OptionError
from onnx_ghn.input_form import InputForm
from onnx_ghn.options import RunOptions
from onnx_ghn.resizing import Resize

FLOAT = np.dtype(np.float32)
NCHW = InputForm("x", FLOAT, (None, 3, None, None), "NCHW")


def images(count=10, rows=4, columns=6, channels=3):
    """Images that are their label's colour all over, hence can be told apart in any form."""
    y = np.arange(count) % 5
    x = np.broadcast_to((50 * y).astype(np.uint8)[:, None, None, None], (count, rows, columns, 1))
    return load_data([(np.repeat(x, channels, axis=3), y)])


def all_of(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    parts = list(batches.labelled())
    return (
        np.concatenate([feeds["x"][: len(labels)] for feeds, labels in parts]),
        np.concatenate([labels for _, labels in parts]),
    )


def test_every_example_once_in_seeded_order():
    batches = Batches(images(), NCHW, RunOptions(batch_size=4))
    assert [len(labels) for _, labels in batches.labelled()] == [4, 4, 2]
    x, y = all_of(batches)
    assert x.shape == (10, 3, 4, 6) and x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0, 0, 0], 50 * y / 255, atol=1e-6)
    assert sorted(y) == sorted(np.arange(10) % 5)
    np.testing.assert_array_equal(all_of(batches)[1], y)  # can be read again
    other = Batches(images(), NCHW, RunOptions(batch_size=4), seed=1)
    assert all_of(other)[1].tolist() != y.tolist()


def test_iterating_gives_what_is_fed():
    batches = Batches(images(), NCHW)
    for feeds, (expected, _) in zip(batches, batches.labelled(), strict=True):
        np.testing.assert_array_equal(feeds["x"], expected["x"])


def test_channels_last_bytes_and_half_precision():
    nhwc = InputForm("x", np.dtype(np.float16), (None, 4, 6, 3), "NHWC")
    x, y = all_of(Batches(images(), nhwc, RunOptions(mean=(0.5,), std=(0.25, 0.5, 1.0))))
    assert x.dtype == np.float16 and x.shape == (10, 4, 6, 3)
    for channel, std in enumerate((0.25, 0.5, 1.0)):
        np.testing.assert_allclose(x[:, 0, 0, channel], (50 * y / 255 - 0.5) / std, atol=2e-3)
    raw, y = all_of(Batches(images(), InputForm("x", np.dtype(np.uint8), (None, 4, 6, 3), "NHWC")))
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw[:, 3, 5, 2], 50 * y)


def test_a_fixed_batch_is_filled_up_and_the_labels_are_not():
    fixed = InputForm("x", FLOAT, (4, 3, 4, 6), "NCHW")
    batches = Batches(images(), fixed)
    assert [len(labels) for _, labels in batches.labelled()] == [4, 4, 2]
    assert all(len(feeds["x"]) == 4 for feeds in batches)
    assert len(next(iter(Batches(images(count=2), fixed)))["x"]) == 4
    with pytest.raises(OptionError, match="batches of 4, not 5"):
        Batches(images(), fixed, RunOptions(batch_size=5))


def test_images_are_resized_to_what_the_model_or_the_user_says():
    pytest.importorskip("PIL")
    declared = InputForm("x", FLOAT, (None, 3, 8, 2), "NCHW")
    x, y = all_of(Batches(images(), declared))
    assert x.shape == (10, 3, 8, 2)
    np.testing.assert_allclose(x[:, 1, 7, 1], 50 * y / 255, atol=1e-6)
    assert all_of(Batches(images(), NCHW, RunOptions(side=5)))[0].shape == (10, 3, 5, 5)
    with pytest.raises(OptionError, match="side 8, not 5"):
        Batches(images(), declared, RunOptions(side=5))
    half = InputForm("x", FLOAT, (None, 3, None, 5), "NCHW")
    assert all_of(Batches(images(), half))[0].shape == (10, 3, 5, 5)  # no more is known


@pytest.mark.parametrize("how", ["crop", "imagenet", "stretch"])
def test_a_folder_and_arrays_give_the_same_pixels(tmp_path, monkeypatch, how):
    pillow = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("ONNX_GHN_CACHE", str(tmp_path / "cache"))
    photos = [photo[:, ::-1] for photo in load_sample_images().images]  # 427 x 640
    for label, photo in enumerate(photos):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        pillow.fromarray(photo).save(tmp_path / "photos" / str(label) / "photo.png")
    model = ir.from_onnx_text(MODEL.replace("N,3,4,6", "N,3,40,30"))
    options = RunOptions(resize=how)
    arrays = [(np.stack(photos), np.arange(2))]
    x, y = all_of(make_batches(arrays, model, options))
    files = make_batches(tmp_path / "photos", model, options)
    np.testing.assert_array_equal(all_of(files)[0], x)
    expected = np.stack([Resize(40, 30, how).image(pillow.fromarray(p)) for p in photos])
    np.testing.assert_array_equal(x, (expected[y].astype(np.float32) / 255).transpose(0, 3, 1, 2))
    assert files.to_json()["resize"] == how


@pytest.mark.parametrize(("own", "wanted"), [(1, 3), (3, 1), (4, 3)])
def test_channels_are_converted(own, wanted):
    form = InputForm("x", FLOAT, (None, wanted, None, None), "NCHW")
    x, y = all_of(Batches(images(channels=own), form))
    assert x.shape[1] == wanted
    np.testing.assert_allclose(x[:, -1, 0, 0], 50 * y / 255, atol=0.6 / 255)


def test_limit_spreads_over_the_data():
    x = np.zeros((100, 4, 6, 3), np.uint8)
    examples = [(x, np.repeat(np.arange(10), 10))]  # sorted by class
    batches = make_batches(examples, ir.from_onnx_text(MODEL), RunOptions(limit=10))
    assert batches.examples == 10
    assert len(set(all_of(batches)[1].tolist())) >= 9


def test_float_data_is_used_as_it_is():
    x = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32)
    data = load_data([(x, np.arange(7))])
    form = InputForm("x", FLOAT, (None, 12))
    given, y = all_of(Batches(data, form))
    np.testing.assert_array_equal(given, x[y])
    with pytest.raises(OptionError, match="used as it is"):
        Batches(data, form, RunOptions(mean=(0.5,)))
    with pytest.raises(DataError, match=r"12 an example.*float32 of 13"):
        Batches(data, InputForm("x", FLOAT, (None, 13)))
    with pytest.raises(DataError, match="float32 of any x 4"):
        Batches(data, InputForm("x", FLOAT, (None, None, 4)))


def test_what_does_not_fit_is_explained():
    with pytest.raises(DataError, match=r"4 channels.*takes 1"):
        Batches(images(channels=4), InputForm("x", FLOAT, (None, 1, None, None), "NCHW"))
    with pytest.raises(DataError, match="2 axes"):
        Batches(images(), InputForm("x", FLOAT, (None, 72)))
    with pytest.raises(DataError, match="int64"):
        Batches(images(), InputForm("x", np.dtype(np.int64), (None, 3, None, None), "NCHW"))
    with pytest.raises(OptionError, match="each of 3 channels"):
        Batches(images(), NCHW, RunOptions(std=(1.0, 2.0)))
    with pytest.raises(OptionError, match="takes bytes"):
        bytes_ = InputForm("x", np.dtype(np.uint8), (None, 3, None, None), "NCHW")
        Batches(images(), bytes_, RunOptions(std=(1.0,)))
    with pytest.raises(OptionError, match="greater than 0"):
        RunOptions(std=(0.0,))


MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,4,6] x) => (y)
    { y = GlobalAveragePool(x) }"""


def test_the_model_remembers_its_normalisation():
    model = ir.from_onnx_text(MODEL)
    assert recorded_normalisation(model) is None
    archive = Normalisation((0.1,), (0.2,), "of the archive")
    source = [(images().x, images().y)]
    assert make_batches(source, model, normalisation=archive).normalisation is archive
    asked = RunOptions(mean=(0.25, 0.5, 0.75), std=(0.5,))
    make_batches(source, model, asked).record_normalisation(model)
    known = make_batches(source, model, normalisation=archive).normalisation
    assert (known.mean, known.std) == ((0.25, 0.5, 0.75), (0.5,))
    asked = make_batches(source, model, RunOptions(std=(2.0,))).normalisation
    assert (asked.mean, asked.std) == ((), (2.0,))
    Batches(images(), NCHW).record_normalisation(model)
    plain = make_batches(source, model, normalisation=archive).normalisation
    assert (plain.mean, plain.std) == ((), ())


def test_an_archive_for_colours_says_nothing_about_grey_images():
    archive = Normalisation((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    grey = InputForm("x", FLOAT, (None, 1, None, None), "NCHW")
    assert Batches(images(channels=1), grey, normalisation=archive).normalisation.mean == ()


def test_progress_and_description():
    seen = []
    options = RunOptions(batch_size=4, mean=(0.5,))
    batches = Batches(
        images(), NCHW, options, progress=lambda done, total: seen.append((done, total))
    )
    all_of(batches)
    assert seen == [(4, 10), (8, 10), (10, 10)]
    described = batches.to_json()
    assert described["shape"] == [3, 4, 6] and described["layout"] == "NCHW"
    assert described["mean"] == [0.5] and described["resize"] is None
    assert described["examples"] == 10 and described["classes"] == 5

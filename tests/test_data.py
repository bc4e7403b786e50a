import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import onnx_ghn.data
from onnx_ghn.data import DataError, load_data, normalised
from onnx_ghn.model_io.atomic import AtomicFile
from onnx_ghn.resizing import Resize

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNX_GHN_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for name, count in (("cat", 4), ("ant", 3)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            PIL.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_a_folder_gives_classes_in_the_order_of_their_names(folder):
    data = load_data(folder)
    assert data.classes == ("ant", "cat")
    assert data.y.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert data.x.shape == (7, 8, 8, 3) and data.x.dtype == np.uint8
    first = np.asarray(PIL.open(folder / "ant" / "0.png"))
    np.testing.assert_array_equal(data.x[0], first)


def test_images_are_decoded_once(folder, monkeypatch):
    load_data(folder)
    monkeypatch.setattr("onnx_ghn.data._image", None)  # would fail if it were called
    assert len(load_data(folder)) == 7


def test_only_the_images_within_the_limit_are_decoded(folder, monkeypatch):
    whole = load_data(folder)
    decoded, image = [], onnx_ghn.data._image
    monkeypatch.setattr(
        "onnx_ghn.data._image", lambda file, resize: decoded.append(file) or image(file, resize)
    )
    few = load_data(folder, limit=3)
    assert {file.name for file in decoded} == {"0.png", "3.png"} and len(few) == 3
    assert few.classes == whole.classes and few.y.tolist() == [0, 1, 1]
    limited = whole.limited(3)
    np.testing.assert_array_equal(few.x, limited.x)
    assert few.y.tolist() == limited.y.tolist()
    assert whole.limited(0) is whole and whole.limited(7) is whole


def test_the_cache_is_complete_when_its_name_appears(folder, monkeypatch):
    publish, sizes = AtomicFile.publish, []

    def watched(self, path, *, overwrite):
        publish(self, path, overwrite=overwrite)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(AtomicFile, "publish", watched)
    load_data(folder)
    (cache,) = (folder.parent / "cache").iterdir()
    assert sizes == [cache.stat().st_size]


def test_a_changed_image_is_decoded_again(folder):
    load_data(folder)
    white = np.full((8, 8, 3), 255, np.uint8)
    PIL.fromarray(white).save(folder / "ant" / "0.png")
    os.utime(folder / "ant" / "0.png", ns=(1, 1))
    np.testing.assert_array_equal(load_data(folder).x[0], white)


def test_images_are_resized_each_way_once(folder, monkeypatch):
    wide = np.zeros((5, 20, 3), np.uint8)
    wide[:, 10:] = 255
    PIL.fromarray(wide).save(folder / "ant" / "0.png")
    ways = [Resize(4, 6, how) for how in ("crop", "imagenet", "stretch")]
    found = [load_data(folder, resize=way) for way in ways]
    assert len({data.x.tobytes() for data in found}) == 3
    for way, data in zip(ways, found, strict=True):
        assert data.x.shape == (7, 4, 6, 3) and data.resize == way
        np.testing.assert_array_equal(data.x[0], way.image(PIL.fromarray(wide)))
    monkeypatch.setattr("onnx_ghn.data._image", None)  # would fail if it were called
    for way, data in zip(ways, found, strict=True):
        np.testing.assert_array_equal(load_data(folder, resize=way).x, data.x)


def test_images_of_several_sizes_need_a_side(folder):
    PIL.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folder / "cat" / "9.png")
    with pytest.raises(DataError, match=r"9\.png.*6 x 5.*side"):
        load_data(folder)
    assert not list((folder.parent / "cache").glob("*"))
    assert len(load_data(folder, resize=Resize(8, 8))) == 8


def test_a_broken_image_is_named(folder):
    file = folder / "cat" / "2.png"
    whole = file.read_bytes()
    bomb = io.BytesIO()
    PIL.new("1", (20_000, 20_000)).save(bomb, "png")
    for content in (b"no image", b"", whole[: len(whole) // 2], bomb.getvalue()):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"2\.png"):
            load_data(folder)


def test_of_several_threads_one_decodes(folder, monkeypatch):
    decoded = []
    image = onnx_ghn.data._image

    def slow(file, resize):
        time.sleep(0.01)
        decoded.append(file)
        return image(file, resize)

    monkeypatch.setattr("onnx_ghn.data._image", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(load_data, [folder] * 3))
    assert len(decoded) == 8  # the first one is looked at before
    assert all(np.array_equal(data.x, found[0].x) for data in found)


def test_an_empty_class_folder_is_named(folder):
    (folder / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog.*without images"):
        load_data(folder)


def test_a_folder_one_level_too_high_is_explained(folder):
    with pytest.raises(DataError, match=r"is the data in .*images"):
        load_data(folder.parent)


def test_npz_round_trip(tmp_path):
    x = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "data.npz", x=x, y=np.array([1, 0]))
    data = load_data(tmp_path / "data.npz")
    np.testing.assert_array_equal(data.x, x)
    assert data.classes == ("0", "1")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4, 4, 3), np.uint8)}, "'x' and 'y'"),
        ({"x": np.zeros((2, 3, 8, 8), np.uint8), "y": np.zeros(2, int)}, "H, W, C"),
        ({"x": np.zeros((2, 4, 4, 3), np.int32), "y": np.zeros(2, int)}, "int32"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.zeros(3, int)}, "2 examples and 3"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.array([0, -1])}, "negative"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.zeros(2)}, "integers"),
        ({"x": np.zeros((2, 0, 4, 3), np.uint8), "y": np.zeros(2, int)}, "holds nothing"),
        ({"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.array([0, 2**62])}, "class number"),
    ],
)
def test_a_malformed_npz_is_explained(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "data.npz")


def test_what_is_no_npz_is_explained(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"abc")
    np.save(tmp_path / "b.npy", np.zeros(3))
    for name in ("a.npz", "b.npy", "c.npz"):
        with pytest.raises(DataError, match=name):
            load_data(tmp_path / name)


def test_an_iterable_of_examples_or_batches():
    x = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    single = load_data((image, label) for label, image in enumerate(x))
    batches = load_data([(x[:4], np.arange(4)), (x[4:], np.arange(4, 6))])
    np.testing.assert_array_equal(single.x, x)
    np.testing.assert_array_equal(batches.x, x)
    assert batches.y.tolist() == single.y.tolist() == list(range(6))
    called = load_data(lambda: zip(x, range(6), strict=True))
    np.testing.assert_array_equal(called.x, x)
    with pytest.raises(DataError, match=r"path or an iterable, not .*int"):
        load_data(lambda: 3)
    with pytest.raises(DataError, match="empty"):
        load_data([])
    with pytest.raises(DataError, match="pair"):
        load_data([1, 2])


def test_split_holds_out_the_last_of_each_class(folder):
    rest, held = load_data(folder).split(0.25)
    assert rest.y.tolist() == [0, 0, 1, 1, 1]
    assert held.y.tolist() == [0, 1]
    np.testing.assert_array_equal(held.x[1], load_data(folder).x[6])


def test_normalisation_gives_mean_zero_and_deviation_one():
    x = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3), np.uint8)
    data = load_data([(x, np.zeros(50, int))])
    mean, std = data.statistics()
    y = normalised(x, mean, std)
    assert y.shape == (50, 3, 6, 6)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-3)


def test_batches_cover_everything_in_order():
    x = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    data = load_data([(x, np.arange(10))])
    batches = list(data.batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(10))
    np.testing.assert_array_equal(batches[1][0], normalised(x[4:8]))

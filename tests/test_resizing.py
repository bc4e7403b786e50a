"""Images of any size and aspect, to the size that a model takes."""

import numpy as np
import pytest

from onnx_ghn.resizing import Resize

pillow = pytest.importorskip("PIL.Image")

SIZES = [(640, 480), (480, 640), (224, 224), (100, 31), (31, 100), (500, 333), (17, 1000), (1, 1)]


def ramp(width, height):
    """An image whose red grows from left to right, and green from top to bottom."""
    columns = np.linspace(0, 255, width).round().astype(np.uint8)
    rows = np.linspace(0, 255, height).round().astype(np.uint8)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = columns, rows[:, None]
    return pillow.fromarray(image)


@pytest.mark.parametrize("how", ["crop", "imagenet", "stretch"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [(32, 32), (20, 50), (7, 3)])
def test_any_size_comes_to_the_wanted_one(how, size, wanted):
    resize = Resize(*wanted, how)
    image = ramp(*size)
    result = resize.image(image)
    assert result.size == (wanted[1], wanted[0])
    array = resize.arrays(np.asarray(image)[None])
    np.testing.assert_array_equal(array[0], np.asarray(result))
    grey = resize.arrays(np.asarray(image)[None, ..., :1])
    np.testing.assert_array_equal(grey[0, ..., 0], array[0, ..., 0])


@pytest.mark.parametrize(
    ("how", "left", "right"),
    [
        # 400 x 200 for 100 x 100: at 200 x 100, the middle half of the columns.
        ("crop", 64, 191),
        # At 228 x 114, the middle 100 of the columns.
        ("imagenet", 72, 183),
        ("stretch", 0, 255),
    ],
)
def test_what_is_seen_of_a_wide_image(how, left, right):
    wide, tall = ramp(400, 200), ramp(200, 400)
    seen = np.asarray(Resize(100, 100, how).image(wide), int)
    assert abs(seen[50, 0, 0] - left) <= 2 and abs(seen[50, 99, 0] - right) <= 2
    seen = np.asarray(Resize(100, 100, how).image(tall), int)
    assert abs(seen[0, 50, 1] - left) <= 2 and abs(seen[99, 50, 1] - right) <= 2


def test_images_of_the_size_stay_but_for_the_margin():
    image = ramp(32, 32)
    for how in ("crop", "stretch"):
        np.testing.assert_array_equal(Resize(32, 32, how).image(image), image)
    seen = np.asarray(Resize(32, 32, "imagenet").image(image), int)
    assert seen[16, 0, 0] > 10  # the border is cut away


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [224, 32])
def test_square_ones_are_those_of_torchvision(size, side):
    transforms = pytest.importorskip("torchvision.transforms")
    image = ramp(*size)
    noise = np.random.default_rng(0).integers(0, 256, np.asarray(image).shape, np.uint8)
    for given in (image, pillow.fromarray(noise)):
        for how, margin in (("crop", side), ("imagenet", round(side * 8 / 7))):
            theirs = transforms.Compose([transforms.Resize(margin), transforms.CenterCrop(side)])(
                given
            )
            np.testing.assert_array_equal(Resize(side, side, how).image(given), theirs)


@pytest.mark.parametrize("how", ["crop", "imagenet"])
def test_a_line_of_pixels_takes_no_memory(how, monkeypatch):
    """Scaled as a whole, it would have 2 gigapixels."""
    sizes, scale = [], pillow.Image.resize

    def watched(image, size, *others):
        sizes.append(size)
        return scale(image, size, *others)

    monkeypatch.setattr(pillow.Image, "resize", watched)
    line = ramp(100_000, 1)
    for image in (line, line.transpose(pillow.Transpose.ROTATE_90)):
        seen = np.asarray(Resize(224, 224, how).image(image), int)
        assert abs(seen[112, 112, 0] - 127) <= 2
    assert all(width * height < 100 * 224**2 for width, height in sizes)

import numpy as np
import pytest
import torch

from onnx_ghn.data import DataError, load_data
from onnx_ghn.train.images import Images

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)


@pytest.fixture
def images(pixels):
    return Images(load_data([(pixels, np.arange(20))]), MEAN, STD)


def test_a_batch_is_normalised(images, pixels):
    x, y = images.batch(3, 4, 16)
    expected = (pixels[3:7] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(x.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert y.tolist() == [3, 4, 5, 6]


def test_a_smaller_side_averages_pixels(images):
    x, _ = images.batch(0, 2, 16)
    small, _ = images.batch(0, 2, 8)
    torch.testing.assert_close(small, x.reshape(2, 3, 8, 2, 8, 2).mean((3, 5)))
    assert images.batch(0, 2, 12)[0].shape == (2, 3, 12, 12)


def test_a_random_batch_depends_on_the_generator_alone(images):
    draws = [images.random(torch.Generator().manual_seed(k), 8, 16) for k in (0, 0, 1)]
    torch.testing.assert_close(draws[0], draws[1])
    assert not torch.equal(draws[0][0], draws[2][0])


def test_crops_and_flips_keep_each_image_with_its_label(images):
    x, y = images.random(torch.Generator().manual_seed(0), 64, 16)
    plain, _ = images.batch(0, 20, 16)
    flipped = 0
    for image, label in zip(x, y, strict=True):
        core = image[:, 4:12, 4:12]
        shifted = []
        for mirror in (False, True):
            source = plain[label].flip(2) if mirror else plain[label]
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    window = source[:, 4 + dy : 12 + dy, 4 + dx : 12 + dx]
                    shifted.append((bool(torch.equal(window, core)), mirror))
        matches = [mirror for equal, mirror in shifted if equal]
        assert len(matches) == 1
        flipped += matches[0]
    assert 16 < flipped < 48


def test_only_square_uint8_images_can_be_trained_on():
    for x in (np.zeros((2, 8, 9, 3), np.uint8), np.zeros((2, 3, 8, 8), np.float32)):
        with pytest.raises(DataError, match="square uint8 RGB"):
            Images(load_data([(x, np.zeros(2, int))]), MEAN, STD)

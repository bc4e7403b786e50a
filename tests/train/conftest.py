import numpy as np
import pytest

from onnx_ghn.train.options import TrainOptions

CLASSES = 4


@pytest.fixture
def data(tmp_path):
    """Images whose class is their colour: a hypernetwork learns them in a few hundred steps."""
    rng = np.random.default_rng(0)
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])
    y = np.arange(400) % CLASSES
    noise = rng.normal(0, 40, (400, 16, 16, 3))
    x = np.clip(colours[y][:, None, None, :] + noise, 0, 255).astype(np.uint8)
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def options():
    return TrainOptions(
        space="narrow",
        batch=16,
        side=8,
        final_side=8,
        evaluate_seconds=1e9,
        evaluate_architectures=2,
        evaluate_examples=64,
    )

"""Logical to physical and back, for arrays and tensors alike."""

from __future__ import annotations

import numpy as np
import torch

from onnx_ghn.read.layout import Layout, Reshape, Transpose


def test_round_trip_on_numpy_and_torch():
    layout = Layout((Reshape((6, 4), (2, 3, 4)), Transpose((2, 0, 1)), Reshape((4, 2, 3), (8, 3))))
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    physical = layout.to_physical(array)
    assert physical.shape == (8, 3)
    np.testing.assert_array_equal(layout.to_logical(physical), array)
    tensor = layout.to_physical(torch.from_numpy(array))
    np.testing.assert_array_equal(tensor.numpy(), physical)
    np.testing.assert_array_equal(layout.to_logical(tensor).numpy(), array)

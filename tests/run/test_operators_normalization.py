"""Normalisation against ONNX Runtime, and what torch says of batch statistics."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from onnx_ghn.errors import UnsupportedOperatorError
from onnx_ghn.run.interpreter import Interpreter

BATCH_NORM = """
<ir_version: 8, opset_import: ["" : 15]>
norm (float[n, 3, h, w] x, float[3] scale, float[3] shift, float[3] mean, float[3] var)
    => (float[n, 3, h, w] y) {
  y = BatchNormalization <epsilon: float = 0.001> (x, scale, shift, mean, var)
}
"""


def positive(array):
    return np.abs(array) + 0.5


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
def test_batch_norm(check_operator, normal, opset, shape):
    inputs = [normal(*shape), normal(3), normal(3), normal(3), positive(normal(3))]
    check_operator("BatchNormalization", inputs, opset, epsilon=1e-3)


def test_batch_norm_of_each_position_is_refused(normal):
    model = ir.from_onnx_text(BATCH_NORM.replace(": 15", ": 7"))
    node = model.graph.node(0)
    node.attributes["spatial"] = ir.AttrInt64("spatial", 0)
    with pytest.raises(UnsupportedOperatorError, match="spatial=0"):
        Interpreter(model).compile()


def test_batch_statistics_are_recorded_as_torch_tracks_them(normal):
    x, scale, shift = (torch.from_numpy(a) for a in (normal(4, 3, 5, 6), normal(3), normal(3)))
    module = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=None)
    module.weight.data, module.bias.data = scale, shift
    expected = module(x)
    interpreter = Interpreter(ir.from_onnx_text(BATCH_NORM), record_statistics=True)
    feeds = {"x": x, "scale": scale, "shift": shift}
    feeds |= {"mean": torch.zeros(3), "var": torch.ones(3)}
    (y,) = interpreter(feeds)
    torch.testing.assert_close(y, expected)
    mean, variance = interpreter.statistics["mean", "var"]
    torch.testing.assert_close(mean, module.running_mean)
    torch.testing.assert_close(variance, module.running_var)


def test_training_mode_follows_the_file(normal):
    text = BATCH_NORM.replace("epsilon: float = 0.001", "training_mode: int = 1")
    text = text.replace("(float[n, 3, h, w] y)", "(float[n, 3, h, w] y, float[3] m, float[3] v)")
    text = text.replace("y = Batch", "y, m, v = Batch")
    x, mean, var = normal(4, 3, 5, 6), normal(3), positive(normal(3))
    feeds = {"x": x, "scale": normal(3), "shift": normal(3), "mean": mean, "var": var}
    got = Interpreter(ir.from_onnx_text(text))({k: torch.from_numpy(v) for k, v in feeds.items()})
    batch_mean, batch_var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    column = (1, 3, 1, 1)
    y = (x - batch_mean.reshape(column)) / np.sqrt(batch_var.reshape(column) + 1e-5)
    y = y * feeds["scale"].reshape(column) + feeds["shift"].reshape(column)
    np.testing.assert_allclose(got[0].numpy(), y, atol=1e-5)
    np.testing.assert_allclose(got[1].numpy(), 0.9 * mean + 0.1 * batch_mean, atol=1e-6)
    np.testing.assert_allclose(got[2].numpy(), 0.9 * var + 0.1 * batch_var, atol=1e-6)


@pytest.mark.parametrize("is_test", [0, 1])
def test_opset_6_normalises_the_batch_unless_told(normal, is_test):
    text = BATCH_NORM.replace(": 15", ": 6")
    text = text.replace("epsilon: float = 0.001", f"is_test: int = {is_test}")
    x, scale, shift = (torch.from_numpy(a) for a in (normal(4, 3, 5, 6), normal(3), normal(3)))
    mean, var = torch.from_numpy(normal(3)), torch.from_numpy(positive(normal(3)))
    feeds = {"x": x, "scale": scale, "shift": shift, "mean": mean, "var": var}
    (y,) = Interpreter(ir.from_onnx_text(text))(feeds)
    statistics = (mean, var) if is_test else (None, None)
    expected = torch.nn.functional.batch_norm(x, *statistics, scale, shift, not is_test)
    torch.testing.assert_close(y, expected)


def test_statistics_outputs_that_nothing_reads_need_no_statistics(normal):
    text = BATCH_NORM.replace("epsilon: float = 0.001", "training_mode: int = 1")
    text = text.replace("y = Batch", "y, m, v = Batch")
    x, scale, shift = (torch.from_numpy(a) for a in (normal(4, 3, 5, 6), normal(3), normal(3)))
    feeds = {"x": x, "scale": scale, "shift": shift}
    feeds |= {"mean": torch.full((3,), torch.nan), "var": torch.full((3,), torch.nan)}
    (y,) = Interpreter(ir.from_onnx_text(text))(feeds)
    expected = torch.nn.functional.batch_norm(x, None, None, scale, shift, training=True)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("opset", [7, 22])
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 4, 5)])
def test_instance_norm(check_operator, normal, opset, shape):
    inputs = [normal(*shape), normal(3), normal(3)]
    check_operator("InstanceNormalization", inputs, opset, epsilon=1e-3, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("shift", [False, True])
def test_layer_norm(check_operator, normal, axis, shift):
    shape = (2, 3, 4, 5)
    inputs = [normal(*shape), normal(*shape[axis:]), *([normal(*shape[axis:])] if shift else [])]
    check_operator("LayerNormalization", inputs, 17, axis=axis, epsilon=1e-3, atol=1e-5)
    check_operator("LayerNormalization", inputs, 17, axis=axis, outputs=3, atol=1e-5)


@pytest.mark.parametrize(("opset", "width"), [(18, 2), (21, 6)])
def test_group_norm(check_operator, normal, opset, width):
    inputs = [normal(2, 6, 4, 5), normal(width), normal(width)]
    check_operator("GroupNormalization", inputs, opset, num_groups=2, epsilon=1e-3, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_norm(check_operator, normal, axis):
    inputs = [normal(2, 3, 5), normal(*(2, 3, 5)[axis:])]
    check_operator("RMSNormalization", inputs, 23, axis=axis, epsilon=1e-3, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0])
def test_lp_norm(check_operator, normal, order, axis):
    check_operator("LpNormalization", [normal(3, 4)], 13, p=order, axis=axis)


@pytest.mark.parametrize("opset", [9, 13])
def test_mean_variance_norm(check_operator, normal, opset):
    check_operator("MeanVarianceNormalization", [normal(2, 3, 4, 5)], opset, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm(check_operator, normal, size):
    settings = {"size": size, "alpha": 0.3, "beta": 0.6, "bias": 1.5}
    check_operator("LRN", [normal(2, 7, 4, 3)], 13, **settings)

"""Activation functions and softmax."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_ghn.run.registry import Kernel, NodeView, direct, operator

direct("Relu", torch.relu)
direct("Sigmoid", torch.sigmoid)
direct("Tanh", torch.tanh)
direct("Softplus", torch.nn.functional.softplus)
direct("Softsign", functional.softsign)
direct("HardSwish", functional.hardswish, since=14)
direct("Mish", functional.mish, since=18)


@operator("LeakyRelu", since=1)
def _leaky_relu(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


@operator("PRelu", since=1)
def _prelu(node: NodeView) -> Kernel:
    def prelu(x: Tensor, slope: Tensor) -> Tensor:
        if slope.numel() == 1:
            return torch.prelu(x, slope.reshape(1))
        if node.version < 7 and slope.dim() == 1:  # one for each channel
            slope = slope.view(-1, *[1] * (x.dim() - 2))
        return torch.where(x < 0, slope * x, x)

    return prelu


@operator("ThresholdedRelu", since=10)
def _thresholded_relu(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 1.0)
    return lambda x: functional.threshold(x, alpha, 0.0)


@operator("Elu", since=1)
def _elu(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


@operator("Celu", since=12)
def _celu(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


@operator("Selu", since=1)
def _selu(node: NodeView) -> Kernel:
    older = node.version < 6  # the constants had fewer digits
    alpha = node.attributes.get_float("alpha", 1.6732 if older else 1.67326319217681884765625)
    gamma = node.attributes.get_float("gamma", 1.0507 if older else 1.05070102214813232421875)
    return lambda x: gamma * functional.elu(x, alpha)


@operator("HardSigmoid", since=1)
def _hard_sigmoid(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 0.2)
    beta = node.attributes.get_float("beta", 0.5)
    return lambda x: functional.hardtanh(alpha * x + beta, 0.0, 1.0)


@operator("Gelu", since=20)
def _gelu(node: NodeView) -> Kernel:
    approximate = node.attributes.get_string("approximate", "none")
    return partial(functional.gelu, approximate=approximate)


@operator("Swish", since=24)
def _swish(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha == 1.0:
        return functional.silu
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("Softmax", since=1)
def _softmax(node: NodeView) -> Kernel:
    return _along_rows(node, torch.softmax)


@operator("LogSoftmax", since=1)
def _log_softmax(node: NodeView) -> Kernel:
    return _along_rows(node, torch.log_softmax)


def _along_rows(node: NodeView, function: Kernel) -> Kernel:
    """Along one axis; before opset 13, over all axes from `axis` on."""
    if node.version >= 13:
        axis = node.attributes.get_int("axis", -1)
        return lambda x: function(x, axis)
    first = node.attributes.get_int("axis", 1)

    def flattened(x: Tensor) -> Tensor:
        if first in (-1, x.dim() - 1):
            return function(x, -1)
        return function(x.flatten(first), -1).view(x.shape)

    return flattened

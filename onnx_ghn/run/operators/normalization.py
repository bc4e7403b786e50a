"""Normalisation over the batch, the features, groups of channels and single instances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from onnx_ghn.run.registry import Kernel, NodeView, operator


def _is_training(node: NodeView) -> bool:
    """Whether the file asks for the statistics of the batch."""
    if node.version >= 14:
        return bool(node.attributes.get_int("training_mode", 0))
    if node.version < 7:
        return not node.attributes.get_int("is_test", 0)
    return node.output_count > 1  # from opset 7 to 13, by asking for the new statistics


def _unread_statistics(node: NodeView) -> Sequence[int]:
    if node.input_name(3) in node.options.tracked:
        return ()
    of_batch = node.options.batch_statistics or _is_training(node)
    return (3, 4) if of_batch and not _outputs_statistics(node) else ()


def _outputs_statistics(node: NodeView) -> bool:
    """Training exports declare these outputs, and hardly ever read them."""
    return any(node.wants(i) for i in range(1, node.output_count))


@operator("BatchNormalization", since=1, unused=_unread_statistics)
def _batch_norm(node: NodeView) -> Kernel:
    attributes = node.attributes
    epsilon = attributes.get_float("epsilon", 1e-5)
    if node.version < 9 and not attributes.get_int("spatial", 1):
        raise node.unsupported("spatial=0 (statistics of each position)")
    training = _is_training(node)
    if _outputs_statistics(node):
        if not training:
            raise node.unsupported("statistics as outputs without training_mode=1")
        return _training_batch_norm(epsilon, attributes.get_float("momentum", 0.9))
    kernel = _single_output(node, epsilon, training)
    return kernel if node.output_count == 1 else lambda *inputs: (kernel(*inputs),)


def _single_output(node: NodeView, epsilon: float, training: bool) -> Kernel:
    if node.input_name(3) in node.options.tracked:
        return _tracking_batch_norm(node, epsilon)
    if node.options.recorded is not None:
        return _recording_batch_norm(node, epsilon)
    of_batch = training or node.options.batch_statistics

    def of_the_batch(x: Tensor, scale: Tensor, shift: Tensor, *unused: Tensor) -> Tensor:
        return torch.batch_norm(x, scale, shift, None, None, True, 0.0, epsilon, True)

    def running(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return torch.batch_norm(x, scale, shift, mean, var, False, 0.0, epsilon, True)

    return of_the_batch if of_batch else running


def _tracking_batch_norm(node: NodeView, epsilon: float) -> Kernel:
    # Torch's momentum is the share of the new value, ONNX's that of the old one. Torch keeps the
    # unbiased variance, where ONNX's own training mode says the biased one.
    share = 1 - node.attributes.get_float("momentum", 0.9)

    def track(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return torch.batch_norm(x, scale, shift, mean, variance, True, share, epsilon, True)

    return track


def _recording_batch_norm(node: NodeView, epsilon: float) -> Kernel:
    recorded = node.options.recorded
    assert recorded is not None
    names = (node.input_name(3), node.input_name(4))

    def record(x: Tensor, scale: Tensor, shift: Tensor, *unused: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
        mean, variance = mean.detach(), variance.detach()
        # Momentum 1 makes torch store the statistics of this batch.
        y = torch.batch_norm(x, scale, shift, mean, variance, True, 1.0, epsilon, True)
        recorded[names] = (mean, variance)
        return y

    return record


def _training_batch_norm(epsilon: float, momentum: float) -> Kernel:
    """Gives the updated running statistics too, and (opset 9) the batch's mean and 1/deviation."""

    def train(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> object:
        y = torch.batch_norm(x, scale, shift, None, None, True, 0.0, epsilon, True)
        axes = [0, *range(2, x.dim())]
        variance, average = torch.var_mean(x, axes, correction=0)
        return (
            y,
            mean * momentum + average * (1 - momentum),
            var * momentum + variance * (1 - momentum),
            average,
            torch.rsqrt(variance + epsilon),
        )

    return train


@operator("InstanceNormalization", since=1)
def _instance_norm(node: NodeView) -> Kernel:
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return lambda x, scale, shift: torch.instance_norm(
        x, scale, shift, None, None, True, 0.0, epsilon, True
    )


@operator("LayerNormalization", since=17)
def _layer_norm(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", -1)
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def plain(x: Tensor, scale: Tensor | None, shift: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        if scale is None or (scale.shape == shape and (shift is None or shift.shape == shape)):
            return torch.layer_norm(x, shape, scale, shift, epsilon, False)
        y = torch.layer_norm(x, shape, None, None, epsilon, False) * scale
        return y if shift is None else y + shift

    if node.output_count == 1:
        return plain

    def with_statistics(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> object:
        axes = list(range(axis % x.dim(), x.dim()))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
        return plain(x, scale, shift), mean, torch.rsqrt(variance + epsilon)

    return with_statistics


@operator("GroupNormalization", since=18)
@operator("GroupNormalization", since=21)
def _group_norm(node: NodeView) -> Kernel:
    groups = node.attributes.get_int("num_groups")
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def of_channels(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return torch.group_norm(x, groups, scale, shift, epsilon, True)

    def of_groups(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        each = x.shape[1] // groups
        return of_channels(x, scale.repeat_interleave(each), shift.repeat_interleave(each))

    return of_channels if node.version >= 21 else of_groups


@operator("RMSNormalization", since=23)
def _rms_norm(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", -1)
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        axes = list(range(axis % x.dim(), x.dim()))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        root = torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
        return (wide * root).to(x.dtype) * scale

    return norm


@operator("LpNormalization", since=1)
def _lp_norm(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", -1)
    order = node.attributes.get_int("p", 2)

    def norm(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, order, axis, keepdim=True)
        return x / torch.where(length == 0, 1, length)

    return norm


@operator("MeanVarianceNormalization", since=9)
def _mean_variance_norm(node: NodeView) -> Kernel:
    axes = list(node.attributes.get_ints("axes", (0, 2, 3)))

    def norm(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (variance.sqrt() + 1e-9)

    return norm


@operator("LRN", since=1)
def _local_response_norm(node: NodeView) -> Kernel:
    attributes = node.attributes
    size = attributes.get_int("size")
    alpha = attributes.get_float("alpha", 1e-4) / size
    beta = attributes.get_float("beta", 0.75)
    bias = attributes.get_float("bias", 1.0)
    before, after = (size - 1) // 2, size // 2

    def norm(x: Tensor) -> Tensor:
        squares = x.square().flatten(2)
        windows = pad(squares, (0, 0, before, after)).unfold(1, size, 1)
        return x / (bias + alpha * windows.sum(-1).view_as(x)) ** beta

    return norm

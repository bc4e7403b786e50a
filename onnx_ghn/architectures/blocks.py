"""Blocks of convolutional networks.

Each takes a builder, an image, the number of output channels and a `Style`, and returns an image
of `out` channels whose side is divided by `stride`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx_ghn.architectures.builder import Builder, Map


@dataclass(frozen=True)
class Style:
    """What a network's blocks have in common.

    Attributes:
        kernel: Side of the spatial kernels.
        expansion: Width inside a block, relative to its output.
        groups: Groups of grouped convolutions.
        dilation: Dilation of dilated convolutions.
        squeeze: Whether blocks end in squeeze-excitation.
        preactivation: Whether residual blocks normalise before each convolution.
        pool: How sides are halved: "stride", "max" or "avg".
    """

    kernel: int = 3
    expansion: int = 4
    groups: int = 1
    dilation: int = 1
    squeeze: bool = False
    preactivation: bool = False
    pool: str = "stride"


Block = Callable[[Builder, Map, int, Style, int], Map]


def unit(b: Builder, x: Map, out: int, kernel: int, stride: int = 1, groups: int = 1) -> Map:
    """Convolution, normalisation, activation."""
    return b.activation(b.norm(b.conv(x, out, kernel, stride=stride, groups=groups)))


def plain(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """One k x k unit (VGG)."""
    y = b.norm(b.conv(x, out, style.kernel, stride=stride))
    return b.activation(_squeezed(b, y, style))


def dilated(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """One k x k unit with holes, with a shortcut where the shapes allow."""
    y = b.norm(b.conv(x, out, style.kernel, stride=stride, dilation=max(2, style.dilation)))
    y = _squeezed(b, y, style)
    return b.activation(b.add(y, x) if y.shape == x.shape else y)


def residual(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """Two k x k units and a shortcut (ResNet), with or without pre-activation."""
    if style.preactivation:
        h = b.activation(b.norm(x))
        y = b.conv(h, out, style.kernel, stride=stride)
        y = b.conv(b.activation(b.norm(y)), out, style.kernel)
        return b.add(_squeezed(b, y, style), _shortcut(b, x, out, stride, normalised=False))
    y = unit(b, x, out, style.kernel, stride)
    y = b.norm(b.conv(y, out, style.kernel))
    return b.activation(b.add(_squeezed(b, y, style), _shortcut(b, x, out, stride)))


def bottleneck(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """1 x 1 down, k x k, 1 x 1 up, and a shortcut (ResNet-50)."""
    return _bottleneck(b, x, out, style, stride, groups=1)


def grouped(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """A bottleneck with grouped k x k convolution (ResNeXt)."""
    return _bottleneck(b, x, out, style, stride, groups=max(2, style.groups))


def _bottleneck(b: Builder, x: Map, out: int, style: Style, stride: int, groups: int) -> Map:
    ratio = 2 if groups > 1 else style.expansion
    width = max(8 * groups, _eights(out / ratio))
    y = unit(b, x, width, 1)
    y = b.activation(b.norm(b.conv(y, width, style.kernel, stride=stride, groups=groups)))
    y = b.norm(b.conv(y, out, 1))
    return b.activation(b.add(_squeezed(b, y, style), _shortcut(b, x, out, stride)))


def separable(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """Depthwise k x k, then 1 x 1, each with normalisation and activation (MobileNet)."""
    y = unit(b, x, x.channels, style.kernel, stride, groups=x.channels)
    y = b.norm(b.conv(y, out, 1))
    return b.activation(_squeezed(b, y, style))


def inverted(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """1 x 1 up, depthwise, linear 1 x 1 down; a shortcut where the shapes allow (MobileNetV2)."""
    width = x.channels * style.expansion
    y = unit(b, x, width, 1)
    y = unit(b, y, width, style.kernel, stride, groups=width)
    y = b.norm(b.conv(_squeezed(b, y, style), out, 1))
    return b.add(y, x) if y.shape == x.shape else y


def convnext(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """Depthwise k x k, normalisation, a two-layer perceptron per pixel, shortcut (ConvNeXt)."""
    if stride > 1 or x.channels != out:
        x = b.conv(b.norm(x), out, stride, stride=stride, bias=True, padded=False)
    y = b.norm(b.conv(x, out, style.kernel, groups=out))
    y = b.conv(y, out * style.expansion, 1, bias=True)
    return b.add(b.conv(b.activation(y), out, 1, bias=True), x)


def dense(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """A dense block of three layers, each of which reads all before it, then a 1 x 1 (DenseNet)."""
    growth = max(8, _eights(out / style.expansion))
    for _ in range(3):
        y = b.conv(b.activation(b.norm(x)), growth, style.kernel)
        x = b.concat([x, y])
    x = b.conv(b.activation(b.norm(x)), out, 1)
    return b.pool(x, "avg") if stride > 1 else x


def branches(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """Parallel 1 x 1, k x k and pooled branches, concatenated (Inception)."""
    width = max(8, _eights(out / 4))
    parts = [unit(b, x, width, 1)]
    if out > 2 * width:
        pooled = b.pool(x, "avg" if style.pool == "avg" else "max", 3, 1)
        parts.append(unit(b, pooled, width, 1))
    rest = out - width * len(parts)
    parts.append(unit(b, unit(b, x, width, 1), rest, style.kernel))
    y = _squeezed(b, b.concat(parts), style)
    return b.pool(y, "max") if stride > 1 else y


def shuffled(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """Half of the channels through 1 x 1, depthwise, 1 x 1; then all shuffled (ShuffleNetV2)."""
    half = _eights(out / 2)
    if stride == 1 and x.channels == out:
        kept, y = b.channels(x, 0, out - half), b.channels(x, out - half, out)
    else:
        y = x
        kept = b.norm(b.conv(x, x.channels, style.kernel, stride=stride, groups=x.channels))
        kept = unit(b, kept, out - half, 1)
    y = unit(b, y, half, 1)
    y = b.norm(b.conv(y, half, style.kernel, stride=stride, groups=half))
    y = unit(b, y, half, 1)
    return _squeezed(b, b.shuffle(b.concat([kept, y]), 2), style)


def fire(b: Builder, x: Map, out: int, style: Style, stride: int) -> Map:
    """1 x 1 down to few channels, then 1 x 1 and k x k side by side (SqueezeNet)."""
    narrow = unit(b, x, max(8, _eights(out / 8)), 1)
    half = _eights(out / 2)
    parts = [unit(b, narrow, half, 1), unit(b, narrow, out - half, style.kernel)]
    y = _squeezed(b, b.concat(parts), style)
    return b.pool(y, "max") if stride > 1 else y


BLOCKS: dict[str, Block] = {
    "plain": plain,
    "residual": residual,
    "bottleneck": bottleneck,
    "separable": separable,
    "inverted": inverted,
    "grouped": grouped,
    "dilated": dilated,
    "dense": dense,
    "branches": branches,
    "convnext": convnext,
    "shuffled": shuffled,
    "fire": fire,
}

LAYERS = {
    "plain": 1,
    "residual": 2,
    "bottleneck": 3,
    "separable": 2,
    "inverted": 3,
    "grouped": 3,
    "dilated": 1,
    "dense": 4,
    "branches": 4,
    "convnext": 3,
    "shuffled": 3,
    "fire": 3,
}
"""Convolutions in one block, without shortcut and squeeze-excitation."""


def _shortcut(b: Builder, x: Map, out: int, stride: int, normalised: bool = True) -> Map:
    """The block's input, projected where the shapes differ."""
    if x.channels == out and stride == 1:
        return x
    y = b.conv(x, out, 1, stride=stride)
    return b.norm(y) if normalised else y


def _squeezed(b: Builder, x: Map, style: Style) -> Map:
    """Squeeze-excitation: scale each channel by a gate computed from all channels' means."""
    if not style.squeeze:
        return x
    gate = b.node("GlobalAveragePool", [x.value], (x.channels, 1, 1))
    gate = b.activation(b.conv(gate, max(8, _eights(x.channels / 4)), 1, bias=True), "relu")
    gate = b.conv(gate, x.channels, 1, bias=True)
    gate = b.node("Sigmoid", [gate.value], gate.shape)
    return b.multiply(x, gate, x.shape)


def _eights(width: float) -> int:
    """The nearest multiple of eight."""
    return int(width / 8 + 0.5) * 8

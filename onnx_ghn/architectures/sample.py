"""Draws one network from a space."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir as ir

from onnx_ghn.architectures import transformer
from onnx_ghn.architectures.blocks import BLOCKS, LAYERS, Style, unit
from onnx_ghn.architectures.builder import Builder, Map
from onnx_ghn.architectures.spaces import VIT, Space, space_named
from onnx_ghn.errors import OptionError

REFERENCE_SIDE = 32
"""The sizes of a space hold for images of so many pixels."""
ATTEMPTS = 500
FAMILY = "onnx_ghn.family"
NORM = "onnx_ghn.norm"
"""Metadata of a sampled model: what it was drawn as. For tables; the reader never looks at it."""

Key = TypeVar("Key")


def sample(space: str, seed: int, *, image_side: int = 32, classes: int = 10) -> ir.Model:
    """Draw a network.

    The same space and seed give the same network; with another image side or number of classes,
    the same network for such images. Weights have shapes and no values.

    Args:
        space: A key of `onnx_ghn.architectures.spaces.SPACES`.
        seed: Any integer.
        image_side: Rows and columns of its input images, RGB.
        classes: Outputs.

    Raises:
        OptionError: There is no such space, or the images are too small.
    """
    if image_side < 8 or classes < 1:
        raise OptionError(
            f"networks are drawn for images of at least 8 pixels and one class, "
            f"got {image_side} and {classes}"
        )
    ranges = space_named(space)
    draw = _Draw(f"{space}/{seed}")
    family = draw.weighted(ranges.families)  # outside the loop, or large families would be rare
    for _ in range(ATTEMPTS):
        plan = _plan(ranges, draw, family)
        reference = Builder(plan.norm, plan.activation)
        _network(reference, plan, REFERENCE_SIDE, 10)
        if _fits(reference, ranges):
            break
    else:
        raise OptionError(f"the space {space!r} has no networks that meet its own limits")
    builder = Builder(plan.norm, plan.activation)
    logits = _network(builder, plan, image_side, classes)
    model = builder.finish(logits, f"{space}-{seed}")
    model.metadata_props.update({FAMILY: plan.family, NORM: plan.norm})
    return model


def _fits(builder: Builder, space: Space) -> bool:
    fewest, most = space.layers
    low, high = space.parameters
    return (
        fewest <= builder.layers <= most
        and low <= builder.weights <= high
        and builder.macs <= space.macs
    )


class _Draw:
    """Random choices that depend on the seed alone: `random.random` is stable over versions."""

    def __init__(self, seed: str) -> None:
        self._uniform = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self._uniform() < share

    def rarely(self, share: float) -> bool:
        """`chance` that draws nothing where the share is 0: spaces without it stay as they were."""
        return share > 0 and self.chance(share)

    def among(self, choices: Sequence[Key]) -> Key:
        return choices[int(self._uniform() * len(choices))]

    def weighted(self, weights: Mapping[Key, float]) -> Key:
        point = self._uniform() * sum(weights.values())
        for key, weight in weights.items():
            point -= weight
            if point < 0:
                return key
        return key

    def log_uniform(self, low: float, high: float) -> float:
        return low * (high / low) ** self._uniform()


@dataclass(frozen=True)
class _Stage:
    """Blocks of one width; the first one halves the side where `halve`."""

    blocks: tuple[str, ...]
    width: int
    halve: bool


@dataclass(frozen=True)
class _Plan:
    """All choices of one network, none of which depends on the image."""

    family: str
    norm: str
    activation: str
    style: Style
    stem: str
    stem_width: int
    stages: tuple[_Stage, ...]
    hidden: int
    heads: int = 0
    patch: int = 0
    class_token: bool = False
    pixel_head: bool = False


def _plan(space: Space, draw: _Draw, family: str) -> _Plan:
    norm = "ln" if family == VIT else draw.weighted(space.norms)
    activation = draw.weighted(space.activations)
    layers = draw.log_uniform(*space.layers)
    hidden = _eights(draw.log_uniform(32, 256)) if draw.chance(space.two_layer_head) else 0
    style = Style(
        kernel=draw.weighted(space.kernels),
        expansion=draw.among((2, 3, 4, 6)) if family == "inverted" else draw.among((2, 4)),
        groups=draw.among((2, 4, 8)),
        dilation=2,
        squeeze=draw.chance(space.squeeze),
        preactivation=draw.chance(0.3),
        pool=draw.among(("stride", "stride", "max", "avg")),
    )
    low, high = space.widths
    if family == VIT:
        heads = draw.among((2, 4, 8))
        width = max(low, 16 * heads) if heads > 4 else low
        width = 8 * heads * max(1, round(draw.log_uniform(width, high) / (8 * heads)))
        count = max(1, round((layers - 2) / 4))
        stage = _Stage((VIT,) * count, width, False)
        ratio = Style(expansion=draw.among(transformer.MLP_RATIOS))
        stem = draw.weighted({"patch": 3, "conv": 1})
        patch = draw.among((2, 4))
        token = draw.rarely(space.class_token)
        return _Plan(
            family, norm, activation, ratio, stem, low, (stage,), hidden, heads, patch, token
        )
    families = [family]
    if draw.chance(space.mixed):
        families.append(draw.weighted({k: v for k, v in space.families.items() if k != VIT}))
    stem = draw.weighted(space.stems)
    stem_width = _eights(draw.log_uniform(low, max(low, high / 3)))
    stages = _stages(space, draw, families, layers, stem_width, stem)
    return _Plan(
        family,
        norm,
        activation,
        style,
        stem,
        stem_width,
        stages,
        hidden,
        pixel_head=draw.rarely(space.pixel_head),
    )


def _stages(
    space: Space, draw: _Draw, families: list[str], layers: float, stem_width: int, stem: str
) -> tuple[_Stage, ...]:
    """Two to four stages that grow in width, with about `layers` layers in all."""
    count = draw.among((2, 3, 3, 4))
    per_block = sum(LAYERS[family] for family in families) / len(families)
    blocks = max(count, round(max(1.0, layers - 2) / per_block))
    shares = [draw.log_uniform(0.5, 2) for _ in range(count)]
    width = float(stem_width)
    stages = []
    left = blocks
    for index, share in enumerate(shares):
        rest = count - index - 1
        mine = left if rest == 0 else round(left * share / sum(shares[index:]))
        mine = min(max(1, mine), left - rest)
        left -= mine
        if index or draw.chance(0.5):
            width = min(space.widths[1], width * draw.among((1, 1.5, 2, 2)))
        # A stem that strides twice has taken the first halving.
        halve = index > 0 and not (stem in ("stride_pool", "patch") and index == 1)
        family = families[index * len(families) // count]
        stages.append(_Stage((family,) * mine, max(space.widths[0], _eights(width)), halve))
    return tuple(stages)


def _network(b: Builder, plan: _Plan, side: int, classes: int) -> Map:
    x = b.input((3, side, side))
    x = _transformer(b, plan, x) if plan.family == VIT else _convolutional(b, plan, x)
    if plan.pixel_head:
        return b.global_pool(b.conv(x, classes, 1, bias=True))
    x = b.pick(x, 0) if plan.class_token else b.global_pool(x)
    if plan.hidden:
        x = b.activation(b.linear(x, plan.hidden))
    return b.linear(x, classes)


def _transformer(b: Builder, plan: _Plan, x: Map) -> Map:
    (stage,) = plan.stages
    patch = plan.patch
    if plan.stem == "conv":
        x = b.activation(b.conv(x, plan.stem_width, 3, stride=2, bias=True))
        patch = max(1, patch // 2)
    x = transformer.patches(b, x, stage.width, patch, plan.class_token)
    for _ in stage.blocks:
        x = transformer.layer(b, x, plan.heads, plan.style.expansion)
    return b.layer_norm(x, x.channels)


def _convolutional(b: Builder, plan: _Plan, x: Map) -> Map:
    if plan.stem == "patch":
        x = b.norm(b.conv(x, plan.stem_width, 4, stride=4, padded=False))
    else:
        kernel = 5 if plan.stem == "wide" else 3
        x = unit(b, x, plan.stem_width, kernel, 1 if plan.stem == "conv" else 2)
    if plan.stem == "stride_pool":
        x = b.pool(x, "max", 3, 2)
    for stage in plan.stages:
        for index, name in enumerate(stage.blocks):
            halve = stage.halve and index == 0 and x.side > 1
            if halve and plan.style.pool != "stride":
                x, halve = b.pool(x, plan.style.pool), False
            x = BLOCKS[name](b, x, stage.width, plan.style, 2 if halve else 1)
    if plan.style.preactivation and plan.family in ("residual", "dense"):
        x = b.activation(b.norm(x))
    return x


def _eights(width: float) -> int:
    """The nearest multiple of eight, at least one of them."""
    return max(1, math.floor(width / 8 + 0.5)) * 8

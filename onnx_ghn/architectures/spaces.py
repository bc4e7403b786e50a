"""Spaces of architectures, from narrow to wide, with all their ranges.

A space is what `sample` draws from. Numbers are for images of 32 x 32 pixels and ten classes;
families, norms and so on are drawn by their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnx_ghn.architectures.blocks import BLOCKS
from onnx_ghn.errors import OptionError

VIT = "vit"
FAMILIES = (*BLOCKS, VIT)
"""Kinds of networks: one for each block, and vision transformers."""
_OFTEN = ("plain", "residual", VIT)


@dataclass(frozen=True)
class Space:
    """What networks are drawn from.

    Attributes:
        families: Weight of each family.
        norms: Weight of each normalisation of convolutional networks.
        activations: Weight of each non-linearity.
        kernels: Weight of each kernel side.
        layers: Fewest and most layers with weights (convolutions and linear layers).
        widths: Fewest and most channels of a stage; multiples of eight are drawn.
        parameters: Fewest and most learnable elements.
        macs: Most multiply-adds of one image of 32 x 32 pixels.
        squeeze: Share of convolutional networks with squeeze-excitation.
        mixed: Share of convolutional networks with two families, one after the other.
        two_layer_head: Share of networks whose classifier has a hidden layer.
        stems: Weight of each first layer of convolutional networks.
        class_token: Share of transformers that classify by a token, not by the tokens' mean.
        pixel_head: Share of convolutional networks that classify each pixel, then take the mean.
    """

    families: Mapping[str, float]
    norms: Mapping[str, float]
    activations: Mapping[str, float]
    kernels: Mapping[int, float]
    layers: tuple[int, int]
    widths: tuple[int, int]
    parameters: tuple[int, int]
    macs: int
    squeeze: float = 0.0
    mixed: float = 0.0
    two_layer_head: float = 0.0
    stems: Mapping[str, float] = field(
        default_factory=lambda: {"conv": 3, "stride": 4, "stride_pool": 1, "wide": 2}
    )
    class_token: float = 0.0
    pixel_head: float = 0.0


NARROW = Space(
    families={"plain": 1, "residual": 1},
    norms={"bn": 1},
    activations={"relu": 1},
    kernels={3: 1},
    layers=(4, 16),
    widths=(16, 128),
    parameters=(5_000, 600_000),
    macs=12_000_000,
)
"""BatchNorm, ReLU, 3 x 3: where a hypernetwork starts to learn."""

MEDIUM = replace(
    NARROW,
    families={"plain": 3, "residual": 3, "bottleneck": 2, "separable": 2, "dense": 1, "dilated": 1},
    norms={"bn": 8, "ln": 1, "gn": 1},
    activations={"relu": 4, "gelu": 1, "silu": 1, "leaky_relu": 1, "hardswish": 1},
    kernels={3: 4, 5: 1},
    layers=(4, 24),
    parameters=(5_000, 1_000_000),
    macs=16_000_000,
    mixed=0.1,
    two_layer_head=0.1,
)
"""More norms, activations and kernels; 1 x 1, depthwise and concatenating blocks."""

FULL = Space(
    families={
        family: 1.5 if family in _OFTEN else 1
        for family in FAMILIES
        if family not in ("shuffled", "fire")
    },
    norms={"bn": 7, "ln": 1, "gn": 1, "none": 1},
    activations={
        "relu": 4,
        "gelu": 1,
        "silu": 1,
        "hardswish": 1,
        "relu6": 1,
        "leaky_relu": 0.5,
        "elu": 0.5,
    },
    kernels={3: 6, 5: 2, 7: 1},
    layers=(8, 40),
    widths=(16, 128),
    parameters=(10_000, 2_000_000),
    macs=24_000_000,
    squeeze=0.15,
    mixed=0.15,
    two_layer_head=0.15,
)
"""What a trained hypernetwork is expected to know."""

BROAD = replace(
    FULL,
    families={family: 1.5 if family in _OFTEN else 1 for family in FAMILIES},
    layers=(8, 60),
    widths=(16, 256),
    parameters=(10_000, 4_000_000),
    macs=40_000_000,
    stems={"conv": 3, "stride": 4, "stride_pool": 2, "wide": 2, "patch": 1},
    class_token=0.5,
    pixel_head=0.1,
)
"""Every family, and forms that libraries have: "full" and more."""

SPACES: Mapping[str, Space] = {
    "narrow": NARROW,
    "medium": MEDIUM,
    "full": FULL,
    "wide": replace(FULL, widths=(128, 512), parameters=(100_000, 20_000_000), macs=400_000_000),
    "deep": replace(FULL, layers=(80, 160), parameters=(10_000, 8_000_000), macs=120_000_000),
    "dense": replace(FULL, families={"dense": 3, "branches": 1}, mixed=0.0),
    "norm-free": replace(
        FULL,
        families={family: weight for family, weight in FULL.families.items() if family != VIT},
        norms={"none": 1},
    ),
    "broad": BROAD,
}
"""By name. "wide" to "norm-free" are out of the distribution of "full", each in one way."""


def space_named(name: str) -> Space:
    """The space of that name.

    Raises:
        OptionError: There is none.
    """
    if name not in SPACES:
        raise OptionError(f"unknown space {name!r}: choose one of {', '.join(SPACES)}")
    return SPACES[name]

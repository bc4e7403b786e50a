"""Resize and Upsample: nearest, linear and cubic, one axis after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, operator


@dataclass(frozen=True)
class _Rule:
    """How an output position looks at the input."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False


@operator("Upsample", since=7)
def _upsample_attribute(node: NodeView) -> Kernel:
    scales = list(node.attributes.get_floats("scales", ()))
    rule = _asymmetric(node)
    return lambda x: _resize(x, rule, scales=scales)


@operator("Upsample", since=9, python=(1,))
def _upsample_input(node: NodeView) -> Kernel:
    rule = _asymmetric(node)
    return lambda x, scales: _resize(x, rule, scales=scales)


@operator("Resize", since=10, python=(1,))
def _resize_10(node: NodeView) -> Kernel:
    rule = _asymmetric(node)
    return lambda x, scales: _resize(x, rule, scales=scales)


def _asymmetric(node: NodeView) -> _Rule:
    mode = node.attributes.get_string("mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise node.unsupported(f"mode {mode!r}")
    return _Rule(mode, "asymmetric", "floor")


@operator("Resize", since=11, python=(1, 2, 3))
def _resize_11(node: NodeView) -> Kernel:
    attributes = node.attributes
    rule = _Rule(
        attributes.get_string("mode", "nearest"),
        attributes.get_string("coordinate_transformation_mode", "half_pixel"),
        attributes.get_string("nearest_mode", "round_prefer_floor"),
        attributes.get_float("cubic_coeff_a", -0.75),
        bool(attributes.get_int("exclude_outside", 0)),
    )
    if rule.coordinates not in _SOURCE:
        raise node.unsupported(f"coordinate_transformation_mode {rule.coordinates!r}")
    if attributes.get_int("antialias", 0):
        raise node.unsupported("antialias")
    if attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.unsupported("keep_aspect_ratio_policy")
    axes = attributes.get_ints("axes", None)

    def resize(
        x: Tensor,
        region: Sequence[float] | None = None,
        scales: Sequence[float] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> Tensor:
        return _resize(x, rule, scales=scales, sizes=sizes, axes=axes)

    return resize


def _resize(
    x: Tensor,
    rule: _Rule,
    *,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    chosen = range(x.dim()) if axes is None else axes
    for i, axis in enumerate(chosen):
        old = x.shape[axis]
        new = sizes[i] if sizes else int(old * scales[i]) if scales else old
        scale = scales[i] if scales and not sizes else new / old
        if new != old or scale != 1.0:
            x = _resize_axis(x, axis, new, scale, rule)
    return x


def _resize_axis(x: Tensor, axis: int, new: int, scale: float, rule: _Rule) -> Tensor:
    taps, weights = _taps(x.shape[axis], new, scale, rule)
    shape = [1] * x.dim()
    shape[axis] = new
    result: Tensor | None = None
    for index, weight in zip(taps, weights, strict=True):
        part = x.index_select(axis, index.to(x.device))
        if len(taps) > 1:
            part = part * weight.to(x.device, x.dtype).view(shape)
        result = part if result is None else result + part
    assert result is not None
    return result


@lru_cache(maxsize=256)
def _taps(old: int, new: int, scale: float, rule: _Rule) -> tuple[list[Tensor], list[Tensor]]:
    """For each output position the input positions that it reads, and their weights."""
    # Single precision as in ONNX Runtime: it decides which way an exact tie is rounded.
    out = torch.arange(new, dtype=torch.float32)
    position = _SOURCE[rule.coordinates](out, old, new, scale)
    if rule.mode == "nearest":
        index = _ROUND[rule.rounding](position).long().clamp(0, old - 1)
        return [index], [torch.ones(new)]
    floor = position.floor()
    fraction = position - floor
    if rule.mode == "linear":
        offsets, weights = [0, 1], [1 - fraction, fraction]
    else:
        offsets = [-1, 0, 1, 2]
        weights = [_cubic((fraction - offset).abs(), rule.cubic) for offset in offsets]
    places = [floor.long() + offset for offset in offsets]
    if rule.exclude_outside:
        weights = [w * ((p >= 0) & (p < old)) for w, p in zip(weights, places, strict=True)]
        total = torch.stack(weights).sum(0)
        weights = [w / total for w in weights]
    return [p.clamp(0, old - 1) for p in places], weights


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel of Keys (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def _half_pixel(out: Tensor, old: int, new: int, scale: float) -> Tensor:
    return (out + 0.5) / scale - 0.5


def _pytorch_half_pixel(out: Tensor, old: int, new: int, scale: float) -> Tensor:
    return (out + 0.5) / scale - 0.5 if new > 1 else torch.zeros_like(out)


def _symmetric(out: Tensor, old: int, new: int, scale: float) -> Tensor:
    adjustment = new / (old * scale)
    return old / 2 * (1 - adjustment) + (out + 0.5) / scale - 0.5


def _corners(out: Tensor, old: int, new: int, scale: float) -> Tensor:
    return out * (old - 1) / (new - 1) if new > 1 else torch.zeros_like(out)


def _plain(out: Tensor, old: int, new: int, scale: float) -> Tensor:
    return out / scale


_SOURCE: dict[str, Callable[[Tensor, int, int, float], Tensor]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _corners,
    "asymmetric": _plain,
}

_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
}

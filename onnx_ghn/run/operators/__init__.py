"""Operators of the differentiable interpreter, by opset range."""

from __future__ import annotations

import importlib

_MODULES = (
    "activation",
    "arithmetic",
    "attention",
    "control",
    "convolution",
    "creation",
    "indexing",
    "linear",
    "microsoft",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resampling",
    "shaping",
)


def register_all() -> None:
    """Import every module of operators; each registers its own."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")

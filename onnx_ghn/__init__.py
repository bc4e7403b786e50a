"""Initialise the weights of any ONNX model with a graph hypernetwork.

    >>> import onnx_ghn
    >>> model, report = onnx_ghn.initialize("model.onnx", "out.onnx")  # doctest: +SKIP

The passes for onnx-ir pipelines are in `onnx_ghn.passes`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from onnx_ghn.api import initialize, inspect
    from onnx_ghn.errors import (
        ArchiveError,
        MissingDependencyError,
        ModelError,
        OnnxGhnError,
        OptionError,
        OutputError,
        UnsupportedOperatorError,
    )
    from onnx_ghn.options import InitializeOptions
    from onnx_ghn.report import Outcome, Report, Status

__all__ = [
    "ArchiveError",
    "InitializeOptions",
    "MissingDependencyError",
    "ModelError",
    "OnnxGhnError",
    "OptionError",
    "Outcome",
    "OutputError",
    "Report",
    "Status",
    "UnsupportedOperatorError",
    "initialize",
    "inspect",
]

# Imported when first asked for: `onnx-ghn --help` must not wait for onnx.
_HOMES = {
    "initialize": "api",
    "inspect": "api",
    "InitializeOptions": "options",
    "Outcome": "report",
    "Report": "report",
    "Status": "report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"onnx_ghn.{_HOMES.get(name, 'errors')}"), name)

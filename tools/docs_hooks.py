"""Hooks of the documentation build: the Python reference lists whatever the package exports."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

MARKER = "<!-- everything in {} -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each marker by one reference entry for each public name of the package it names."""
    import onnx_ghn
    import onnx_ghn.passes

    for package in (onnx_ghn, onnx_ghn.passes):
        marker = MARKER.format(package.__name__)
        if marker in markdown:
            markdown = markdown.replace(marker, _reference(package))
    return markdown


def _reference(package: ModuleType) -> str:
    names = sorted(package.__all__, key=lambda name: (not name[0].islower(), name))
    entries = []
    for name in names:
        home = inspect.getmodule(getattr(package, name))
        assert home is not None
        entries.append(f"::: {home.__name__}.{name}\n")
    return "\n".join(entries)

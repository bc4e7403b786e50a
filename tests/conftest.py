"""Shared fixtures: real architectures from the onnx package, and the corpora where they are."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parent.parent
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent (set {variable})")
    return folder


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of ONNX skeletons; skips where it is absent."""
    return _folder("ONNX_GHN_CORPUS", "corpus")


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of parity fixtures; skips where it is absent."""
    return _folder("ONNX_GHN_PARITY", "parity")


@pytest.fixture(scope="session")
def light() -> Path:
    """The folder of weightless real networks that the onnx package ships."""
    return LIGHT

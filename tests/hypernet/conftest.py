"""Small published-layout checkpoints, converted once, and the tool that compares with fixtures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import Archive, load_archive

DATA = Path(__file__).parent / "data"
TOOL = Path(__file__).parent.parent.parent / "tools" / "parity_values.py"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of small checkpoints and fixtures."""
    return DATA


@pytest.fixture(scope="session")
def parity_values() -> ModuleType:
    """tools/parity_values.py as a module."""
    spec = importlib.util.spec_from_file_location("parity_values", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Archive]:
    """The small checkpoints as loaded archives, by the name of their fixtures' folder."""
    folder = tmp_path_factory.mktemp("archives")
    loaded = {}
    for name, file in (("ghn3_tiny", "ghn3_tiny_hf.pt"), ("ghn2tiny_viaghn3", "ghn2tiny_hf.pt")):
        convert_checkpoint(DATA / file, folder / f"{name}.pt")
        loaded[name] = load_archive(folder / f"{name}.pt")
    return loaded


@pytest.fixture(scope="session")
def untrained(untrained_file: Path) -> Archive:
    """A small untrained archive, loaded."""
    return load_archive(untrained_file)

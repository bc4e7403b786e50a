"""The reader's graphs against the reference's, by tools/parity_graphs.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

from onnx_ghn.model_io import load
from onnx_ghn.read.reading import read_model

TESTS = Path(__file__).parent.parent
SMALL = TESTS / "hypernet" / "data"


@pytest.fixture(scope="module")
def tool():
    path = TESTS.parent / "tools" / "parity_graphs.py"
    spec = importlib.util.spec_from_file_location("parity_graphs", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("model", sorted((SMALL / "onnx10").glob("*.onnx")), ids=lambda p: p.stem)
def test_small_fixtures(model, tool):
    fixture = SMALL / "ghn3_tiny" / f"{model.stem}.npz"
    found = tool.compare(read_model(load(model)), fixture, classes=10, side=11)
    assert found.nodes > 50
    assert found.agrees, found


def test_a_difference_is_seen(tool):
    reading = read_model(load(SMALL / "onnx10" / "resnet18.onnx"))
    found = tool.compare(reading, SMALL / "ghn3_tiny" / "resnet18.npz", classes=10, side=11)
    assert found.agrees
    reading.graph.distance[0, 1] = 0
    found = tool.compare(reading, SMALL / "ghn3_tiny" / "resnet18.npz", classes=10, side=11)
    assert not found.agrees
    assert len(found.edges) == 1


@pytest.mark.parity
@pytest.mark.parametrize("checkpoint", ["ghn3_tiny", "ghn3_t"])
def test_all_graphs_agree(checkpoint, parity, tool):
    _, classes, side = tool.FIXTURES[checkpoint]
    pairs = list(tool.pairs(parity, checkpoint))
    assert len(pairs) >= 8
    for model, fixture in pairs:
        found = tool.compare(read_model(load(model)), fixture, classes, side)
        assert found.agrees, (model.name, found)

"""A model that is larger than the memory that initialising it takes; the script measures."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from onnx_ghn import model_io

TOOL = Path(__file__).parent.parent / "tools" / "bench_big.py"
LAYERS, WIDTH = 28, 2048


@pytest.fixture
def skeleton(tmp_path):
    """Layers of 16 MB each, 470 MB in all, of which the file holds only shapes."""
    nodes, weights = [], []
    for layer in range(LAYERS):
        name = f"layer.{layer}.weight"
        nodes += [
            helper.make_node("MatMul", [f"h{layer}", name], [f"a{layer}"]),
            helper.make_node("Relu", [f"a{layer}"], [f"h{layer + 1}"]),
        ]
        weights.append(TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH])
        for name in ("h0", f"h{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], weights)
    path = tmp_path / "deep.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("method", ["ghn", "classical"])
def test_memory_is_that_of_some_tensors_and_not_of_the_model(skeleton, tmp_path, method):
    figures = tmp_path / "figures.json"
    result = subprocess.run(
        [
            *(sys.executable, TOOL, skeleton, "--method", method),
            *("--folder", tmp_path, "--json", figures),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (measured,) = json.loads(figures.read_text())
    assert measured["written_gb"] > LAYERS * WIDTH**2 * 4 / 1e9
    assert measured["peak_above_mb"] < 3 * measured["largest_tensor_mb"] + 200
    assert 3 * measured["largest_tensor_mb"] + 200 < measured["written_gb"] * 1e3 / 1.6


def test_external_data_goes_in_and_out_through_little_memory(skeleton, tmp_path, command_lines):
    """Half of a model in six data files is set anew and half copied, into three files."""

    def run(*arguments):
        (answer,) = command_lines((tmp_path, "init", *arguments, "--method", "classical"))
        assert answer["code"] == 0, answer["messages"]
        assert answer["peak_bytes"] < 400 << 20

    run("deep.onnx", "-o", "whole.onnx", "--shard-size", "100MB")
    run(
        "whole.onnx",
        "-o",
        "half.onnx",
        "--shard-size",
        "200MB",
        "--include",
        "layer.1*",
        "--seed",
        2,
    )
    assert len(list(tmp_path.glob("whole.onnx-*-of-00006.data"))) == 6
    assert len(list(tmp_path.glob("half.onnx-*-of-00003.data"))) == 3
    assert all(path.stat().st_size <= 200e6 for path in tmp_path.glob("*.data"))
    whole, half = (
        model_io.load(tmp_path / f"{name}.onnx").graph.initializers for name in ("whole", "half")
    )
    same = [
        layer
        for layer in range(LAYERS)
        if whole[name := f"layer.{layer}.weight"].const_value.tobytes()
        == half[name].const_value.tobytes()
    ]
    assert same == [layer for layer in range(LAYERS) if not str(layer).startswith("1")]

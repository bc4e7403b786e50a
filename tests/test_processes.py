"""Whole processes: ten at a time into one folder, and the same bits wherever they run."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnx_ghn import model_io

ROOT = Path(__file__).parent.parent
WRITERS = 10


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture
def model(light, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes((light / "light_squeezenet.onnx").read_bytes())
    return path


@pytest.fixture
def run_ten(command_lines):
    """Starts ten runs at once; returns their exit codes and messages."""

    def run(model, *options, seeds=False):
        common = (model.parent, "init", model.name, "--method", "classical", *options)
        ended = command_lines(
            *((*common, *(("--seed", k) if seeds else ())) for k in range(WRITERS))
        )
        for answer in ended:
            assert "Traceback" not in answer["messages"] and "unexpected" not in answer["messages"]
        return [(answer["code"], answer["messages"]) for answer in ended]

    return run


@pytest.fixture
def alone(command_lines):
    """Digests of what one run gives that nobody disturbs."""

    def run(model, folder, *options):
        folder.mkdir()
        (folder / model.name).write_bytes(model.read_bytes())
        (answer,) = command_lines((folder, "init", model.name, "--method", "classical", *options))
        assert answer["code"] == 0, answer["messages"]
        return digests(folder)

    return run


SHARDS = ("--shard-size", "1MB")


@pytest.mark.parametrize("options", [(), SHARDS], ids=["one file", "data files"])
def test_ten_processes_with_force_write_one_result(model, tmp_path, alone, run_ten, options):
    expected = alone(model, tmp_path.with_name(tmp_path.name + "-alone"), *options)
    assert all(code == 0 for code, _ in run_ten(model, "--force", *options))
    assert digests(tmp_path) == expected


@pytest.mark.parametrize("options", [(), SHARDS], ids=["one file", "data files"])
def test_ten_processes_without_force_have_one_winner(model, tmp_path, alone, run_ten, options):
    expected = alone(model, tmp_path.with_name(tmp_path.name + "-alone"), *options)
    ended = run_ten(model, *options)
    assert sorted(code for code, _ in ended) == [0] + [2] * (WRITERS - 1)
    assert all("--force" in messages for code, messages in ended if code == 2)
    assert digests(tmp_path) == expected


@pytest.mark.long
def test_ten_processes_of_different_seeds_leave_one_of_their_results(
    model, tmp_path, alone, run_ten
):
    """The last one wins whole: never the model of one with the data of another."""
    results = []
    for seed in range(WRITERS):
        folder = tmp_path.with_name(f"{tmp_path.name}-{seed}")
        results.append(alone(model, folder, *SHARDS, "--seed", str(seed)))
    assert all(code == 0 for code, _ in run_ten(model, "--force", *SHARDS, seeds=True))
    assert digests(tmp_path) in results


def test_ten_processes_in_place(model, tmp_path, run_ten):
    assert all(code == 0 for code, _ in run_ten(model, "--in-place"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    onnx.checker.check_model(model, full_check=True)


def test_ten_processes_in_place_with_external_data(model, tmp_path, command_lines, run_ten):
    """Some may find that their input has changed; the model is complete all the same."""
    assert command_lines((tmp_path, "init", model, "--in-place", *SHARDS))[0]["code"] == 0
    for code, messages in run_ten(model, "--in-place", seeds=True):
        assert code in (0, 2), messages
        assert code == 0 or len(messages.strip().splitlines()) == 1
    loaded = model_io.load(model)
    assert all(model_io.has_value(value) for value in loaded.graph.initializers.values())
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


# The same bits


METHODS = {
    "classical": ("--method", "classical"),
    "torch": ("--method", "ghn", "--engine", "torch"),
    "onnxruntime": ("--method", "ghn", "--engine", "onnxruntime"),
}
ONE_AFTER_THE_OTHER = """
import json, sys
from onnx_ghn.cli import main

for sys.argv in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
"""Runs command lines in one process: its start and the imports take longer than a line."""


def variations():
    """Hash seeds, numbers of threads and cores, one at a time and together."""
    cores = sorted(os.sched_getaffinity(0))
    one = ("taskset", "-c", str(cores[0]))
    every = ("taskset", "-c", ",".join(map(str, cores)))
    yield (), {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    yield one, {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": str(len(cores))}
    yield every, {"PYTHONHASHSEED": "4294967295", "OMP_NUM_THREADS": "7"}
    yield (), {"PYTHONHASHSEED": "random", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}


@pytest.mark.parametrize(
    "name", ["light_shufflenet", pytest.param("light_resnet50", marks=pytest.mark.long)]
)
def test_same_bits_whatever_the_process(light, tmp_path, name):
    """Across hash seeds, cores and folders, with a path that is absolute or not."""
    source = (light / f"{name}.onnx").read_bytes()
    found = []
    for number, (prefix, variables) in enumerate(variations()):
        folder = tmp_path / ("x" * (number + 1)) / f"folder {number}"
        folder.mkdir(parents=True)
        path = folder / "net.onnx"
        path.write_bytes(source)
        given = path if number % 2 else path.name
        lines = [
            ["onnx-ghn", "init", str(given), *options, "--seed", "5", "-o", f"{method}.onnx"]
            for method, options in METHODS.items()
        ]
        process = subprocess.run(
            [*prefix, sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            timeout=600,
        )
        assert process.returncode == 0, process.stderr
        found.append(digests(folder))
    assert {*METHODS} == {name.removesuffix(".onnx") for name in found[0]} - {"net"}
    assert found.count(found[0]) == len(found)


def test_same_bits_whatever_the_order_of_what_is_a_tie(light, tmp_path, command_lines):
    """Initializers in another order, which no structure depends on, get the same values."""
    original = onnx.load(light / "light_squeezenet.onnx")
    written = []
    for name, step in (("a", 1), ("b", -1)):
        model = onnx.ModelProto()
        model.CopyFrom(original)
        initializers = list(original.graph.initializer)[::step]
        del model.graph.initializer[:]
        model.graph.initializer.extend(initializers)
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        (answer,) = command_lines((tmp_path, "init", path, "--method", "classical"))
        assert answer["code"] == 0, answer["messages"]
        tensors = onnx.load(tmp_path / f"{name}.init.onnx").graph.initializer
        written.append({tensor.name: tensor.raw_data for tensor in tensors})
    assert written[0] == written[1]


@pytest.mark.long
def test_many_rounds_of_ten(light, tmp_path, run_ten):
    for number, options in itertools.product(range(10), [(), SHARDS]):
        folder = tmp_path / f"{number}{len(options)}"
        folder.mkdir()
        path = folder / "net.onnx"
        path.write_bytes((light / "light_squeezenet.onnx").read_bytes())
        assert all(code == 0 for code, _ in run_ten(path, "--force", *options, seeds=True))
        loaded = model_io.load(folder / "net.init.onnx")
        assert all(model_io.has_value(value) for value in loaded.graph.initializers.values())

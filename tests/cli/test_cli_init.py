"""The command line as a user meets it: whole processes on real architectures."""

import hashlib
import json
import os
import stat
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest


def run(*arguments, cwd=None, env=None):
    if "ghn" in arguments and "--engine" not in arguments:
        arguments = (*arguments, "--engine", "onnxruntime")  # starts faster than torch
    return subprocess.run(
        [sys.executable, "-m", "onnx_ghn", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | (env or {}),
        timeout=120,
    )


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_refused(result, *words):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    "how", [["--method", "auto"], ["--method", "ghn", "--engine", "torch"]], ids=["auto", "ghn"]
)
def test_output_is_valid_runs_and_repeats_bit_for_bit(squeezenet, how):
    before = digest(squeezenet)
    first = run("init", squeezenet, *how)
    assert first.returncode == 0, first.stderr
    output = squeezenet.with_name("squeezenet.init.onnx")
    assert str(squeezenet) in first.stdout
    onnx.checker.check_model(output, full_check=True)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    session = onnxruntime.InferenceSession(output, quiet, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    noise = np.random.default_rng(0).standard_normal(entry.shape, dtype=np.float32)
    assert np.isfinite(session.run(None, {entry.name: noise})[0]).all()
    again = squeezenet.with_name("again.onnx")
    assert run("init", squeezenet, "-o", again, *how).returncode == 0
    assert digest(output) == digest(again)
    assert digest(squeezenet) == before


def test_json_report_names_every_tensor(squeezenet):
    result = run("init", squeezenet, "--method", "ghn", "--format", "json")
    report = json.loads(result.stdout)
    assert report["format"] == 1
    assert {"model", "nodes", "initializers", "decision", "summary"} <= report.keys()
    written = onnx.load(squeezenet.with_name("squeezenet.init.onnx"))
    floats = {i.name for i in written.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    assert floats <= {entry["name"] for entry in report["initializers"]}
    for entry in report["initializers"]:
        assert entry["status"] in {"predicted", "fallback", "calibrated", "kept"}
        assert entry["reason"]
    archive = report["decision"]["archive"]
    assert archive["trained"] is ("untrained" not in report["decision"]["reason"])
    assert report["summary"]["tensors"]["predicted"] > 40


def test_inspect_promises_what_init_does(squeezenet):
    promised = json.loads(run("inspect", squeezenet, "--method", "ghn", "--format", "json").stdout)
    done = json.loads(run("init", squeezenet, "--method", "ghn", "--format", "json").stdout)
    assert promised["initializers"] == done["initializers"]
    assert promised["nodes"] == done["nodes"]


def test_existing_output_needs_force(squeezenet):
    output = squeezenet.with_name("squeezenet.init.onnx")
    output.write_bytes(b"precious")
    assert_refused(run("init", squeezenet), "--force", str(output))
    assert output.read_bytes() == b"precious"
    assert run("init", squeezenet, "--force").returncode == 0
    onnx.checker.check_model(output)


def test_output_equal_to_input_needs_in_place(squeezenet):
    before = digest(squeezenet)
    assert_refused(run("init", squeezenet, "-o", squeezenet, "--force"), "--in-place")
    assert digest(squeezenet) == before
    assert run("init", squeezenet, "--in-place").returncode == 0
    assert digest(squeezenet) != before
    onnx.checker.check_model(squeezenet)


def test_missing_only_leaves_filled_tensors_alone(squeezenet):
    assert run("init", squeezenet, "--in-place").returncode == 0
    filled = {i.name: i.raw_data for i in onnx.load(squeezenet).graph.initializer}
    result = run(
        "init", squeezenet, "--in-place", "--missing-only", "--seed", "9", "--format", "json"
    )
    summary = json.loads(result.stdout)["summary"]["tensors"]
    assert summary["kept"] == sum(summary.values())
    # all but the provenance in the metadata is as it was
    again = onnx.load(squeezenet)
    assert {i.name: i.raw_data for i in again.graph.initializer} == filled


def test_exclude_keeps_by_name(squeezenet):
    assert run("init", squeezenet, "--in-place").returncode == 0
    name = next(i.name for i in onnx.load(squeezenet).graph.initializer if len(i.dims) == 4)
    value = next(i for i in onnx.load(squeezenet).graph.initializer if i.name == name).raw_data
    assert run("init", squeezenet, "--in-place", "--seed", "5", "--exclude", name).returncode == 0
    after = {i.name: i.raw_data for i in onnx.load(squeezenet).graph.initializer}
    assert after[name] == value


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"not a model at all", "not an ONNX model"), (None, "no such file")],
)
def test_unreadable_input_is_one_line(tmp_path, content, word):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    assert_refused(run("init", path), "broken.onnx", word)
    assert [entry.name for entry in tmp_path.iterdir()] in ([], ["broken.onnx"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission(squeezenet):
    squeezenet.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert_refused(run("init", squeezenet), "permission")
    finally:
        squeezenet.parent.chmod(stat.S_IRWXU)


def test_bare_file_name_does_not_open_the_folder_above(tmp_path):
    """onnx-ir checks external data only against an absolute path."""
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 2], np.ones(4, np.float32))
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "16")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert_refused(run("init", "m.onnx", cwd=folder), "m.onnx", "w")
    assert [entry.name for entry in folder.iterdir()] == ["m.onnx"]


def test_strict_turns_a_warning_into_exit_1(squeezenet):
    assert run("inspect", squeezenet, "--strict").returncode == 0
    # kept ConstantOfShape weights are learnable tensors left as they were
    assert run("inspect", squeezenet, "--strict", "--exclude", "*conv10*").returncode == 1


def test_usage_error_is_exit_2(squeezenet):
    result = run("init", squeezenet, "--method", "magic")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_no_colour_without_a_terminal(squeezenet):
    result = run("inspect", squeezenet, "-v")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr

"""calibrate, eval, init --calibrate and doctor as a user meets them.

The first test runs whole processes; the others call the same entry point in this one.
"""

import json
import os
import subprocess
import sys

import onnx
import onnxruntime
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images


def process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "onnx_ghn", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def assert_refused(result, *words):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr.strip().splitlines()[-1]


@pytest.fixture
def model(classifier):
    return classifier


def test_init_calibrate_then_eval(model, digits, run):
    """The whole way: fresh weights, statistics from data, a test that knows the normalisation."""
    numbers = ("--mean", "0.3", "--std", "0.35", "--batch-size", "100")
    made = process("init", model, "--calibrate", digits / "train.npz", *numbers, "--format", "json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["summary"]["tensors"]["calibrated"] == 4
    fresh = model.with_name("net.init.onnx")
    tested = process("eval", fresh, "--data", digits / "test.npz", "--format", "json")
    assert tested.returncode == 0, tested.stderr
    stored = json.loads(tested.stdout)
    assert stored["format"] == 1 and stored["n"] == 360
    assert stored["input"]["mean"] == [0.3] and stored["provider"] == "CPUExecutionProvider"
    assert stored["top1"] <= stored["top5"] and stored["images_per_second"] > 0
    assert stored["top1_interval"][0] <= stored["top1"] <= stored["top1_interval"][1]
    options = ("--batch-statistics", "--batch-size", "360", "--format", "json")
    batch = json.loads(run("eval", fresh, "--data", digits / "test.npz", *options).stdout)
    # Calibrated statistics of the training digits are close to those of all test digits.
    assert batch["loss"] == pytest.approx(stored["loss"], rel=0.05)


def test_calibrate_writes_beside(model, digits, run):
    result = run("calibrate", model, "--data", digits / "train.npz", "--limit", "200", "-v")
    assert result.returncode == 0, result.stderr
    assert "average over 4 batch(es) of data" in result.stdout
    output = model.with_name("net.calibrated.onnx")
    onnx.checker.check_model(output, full_check=True)
    assert_refused(run("calibrate", model, "--data", digits / "train.npz"), "--force")
    noise = run("calibrate", model, "--force", "--strict")
    assert noise.returncode == 1 and "noise" in noise.stderr


def test_eval_prints_a_table(model, digits, run):
    result = run("eval", model, "--data", digits / "test.npz", "--limit", "100")
    assert result.returncode == 0, result.stderr
    for word in ("top-1", "top-5", "loss", "images/s", "CPUExecutionProvider", "NCHW 1 x 8 x 8"):
        assert word in result.stdout
    assert result.stderr == ""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of real photographs in two classes, no two of one size."""
    monkeypatch.setenv("ONNX_GHN_CACHE", str(tmp_path / "cache"))
    for label, photo in enumerate(load_sample_images().images):
        folder = tmp_path / "photos" / str(label)
        folder.mkdir(parents=True)
        for count in range(1, 5):
            Image.fromarray(photo[: 100 * count, : 40 * count + 300]).save(folder / f"{count}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize("how", ["crop", "imagenet", "stretch"])
def test_photographs_come_to_the_size_as_asked_for(model, photos, run, tmp_path, how):
    more = ("--resize", how, "--format", "json")
    out = ("-o", tmp_path / "out.onnx", "--force")
    few = ("--steps", "1", "--hold-out", "0", "--force")
    for command in (
        ("eval", model, "--data", photos),
        ("calibrate", model, "--data", photos, *out),
        ("init", model, "--calibrate", photos, *out),
        ("finetune", model, "--data", photos, *few, *out),
    ):
        result = run(*command, *more)
        assert result.returncode == 0, result.stderr
        printed = json.loads(result.stdout)
        told = printed["input"] if "input" in printed else printed["data"]
        assert told["resize"] == how and told["shape"] == [1, 8, 8], command
    assert len(list((tmp_path / "cache").iterdir())) == 1
    table = run("eval", model, "--data", photos, "--resize", how)
    assert f"NCHW 1 x 8 x 8, other sizes: {how}" in table.stdout


def test_bad_use_is_one_line_and_exit_2(model, digits, tmp_path, run):
    data = digits / "test.npz"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert_refused(run("eval", model, "--data", data, "--device", "cuda"), "CUDA")
    assert_refused(run("eval", model, "--data", tmp_path / "none"), "none", "no such file")
    assert_refused(run("eval", model, "--data", data, "--side", "9"), "side 8, not 9")
    assert_refused(run("eval", model, "--data", data, "--mean", "a,b"), "'a,b'")
    assert_refused(run("init", model, "--mean", "0.5"), "--mean goes with --calibrate")
    assert list(tmp_path.iterdir()) == [model]


def test_doctor(run):
    result = run("doctor", "--format", "json")
    found = json.loads(result.stdout)
    assert result.returncode == (0 if found["ok"] else 1)
    assert found["versions"]["onnx-ir"] and "CPUExecutionProvider" in found["providers"]
    assert {"name", "ok", "detail"} == found["checks"][0].keys()
    assert "Traceback" not in result.stderr

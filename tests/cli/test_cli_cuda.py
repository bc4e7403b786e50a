"""`--device cuda` of all commands that have it, with a device and without one."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@no_cuda
def test_init_without_the_device_says_so(run, squeezenet, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("init", squeezenet, "-o", out, "--method", "ghn", "--device", "cuda")
    assert result.returncode == 2
    assert "finds no device 'cuda'" in result.stderr
    assert "--device cpu" in result.stderr
    assert not out.exists()


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tpu"])
def test_train_without_the_device_says_so(run, data, small, tmp_path, device):
    result = run(
        "train",
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--device",
        device,
        "--steps",
        "20",
        *small,
    )
    assert result.returncode == 2
    assert f"device {device!r}" in result.stderr


def test_the_onnxruntime_engine_stays_on_the_cpu(run, squeezenet):
    result = run("init", squeezenet, "--engine", "onnxruntime", "--device", "cuda")
    assert result.returncode == 2
    assert "--engine torch" in result.stderr


@no_cuda
@pytest.mark.parametrize("command", ["eval", "calibrate", "init", "rank", "finetune"])
def test_no_command_falls_back_to_the_cpu(run, classifier, digits, tmp_path, command):
    data = digits / "test.npz"
    more = {
        "eval": ("--data", data),
        "calibrate": ("--data", data),
        "init": ("--method", "classical", "--calibrate", data),
        "rank": ("--data", data, "--limit", "60"),
        "finetune": ("--data", data, "--steps", "1"),
    }[command]
    result = run(command, classifier, *more, "--device", "cuda")
    assert result.returncode == 2 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error:") and "CUDA" in last.upper()
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.cuda
@pytest.mark.usefixtures("runtime_on_cuda")
def test_onnx_runtime_on_cuda_tells_the_same(run, classifier, digits, tmp_path):
    data = digits / "test.npz"
    out = {device: tmp_path / f"{device}.onnx" for device in ("cpu", "cuda")}

    def told(device, *arguments):
        result = run(*arguments, "--device", device, "--format", "json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    for arguments in (
        ("calibrate", classifier, "--data", data),
        ("init", classifier, "--method", "classical", "--calibrate", data),
    ):
        for device, path in out.items():
            told(device, *arguments, "-o", path, "--force")
        cpu, cuda = (ir.load(path).graph.initializers.values() for path in out.values())
        for one, other in zip(cpu, cuda, strict=True):
            np.testing.assert_allclose(
                one.const_value.numpy(), other.const_value.numpy(), rtol=1e-4, atol=1e-5
            )
    tests = {device: told(device, "eval", out["cpu"], "--data", data) for device in out}
    assert tests["cuda"]["provider"] == "CUDAExecutionProvider"
    assert tests["cuda"]["loss"] == pytest.approx(tests["cpu"]["loss"], rel=1e-4)
    for score in ("top1", "naswot"):
        few = ("--limit", "100", "--score", score)
        ranks = [told(device, "rank", "--sample", "2", "--data", data, *few)[0] for device in out]
        assert ranks[0]["score"] == pytest.approx(ranks[1]["score"], rel=1e-3, abs=0.02)


@pytest.mark.cuda
@pytest.mark.usefixtures("runtime_on_cuda")
def test_doctor_runs_a_model_on_cuda(run):
    found = json.loads(run("doctor", "--format", "json").stdout)
    assert {"CUDAExecutionProvider"} <= {c["name"] for c in found["checks"] if c["ok"]}


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_trains(run, classifier, digits, tmp_path, precision):
    more = ("--steps", "20", "--precision", precision, "--device", "cuda", "--format", "json")
    out = tmp_path / "tuned.onnx"
    result = run("finetune", classifier, "--data", digits / "train.npz", *more, "-o", out)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["device"].startswith("cuda") and out.exists()


@pytest.mark.cuda
@needs_cuda
def test_cuda_predicts_the_same(run, squeezenet, tmp_path):
    values = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.onnx"
        run("init", squeezenet, "-o", out, "--method", "ghn", "--device", device)
        initializers = ir.load(out).graph.initializers.values()
        values.append({v.name: v.const_value.numpy() for v in initializers})
    cpu, cuda = values
    assert cpu.keys() == cuda.keys()
    for name, value in cpu.items():
        np.testing.assert_allclose(cuda[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("processes", [1, 2])
def test_a_hypernetwork_is_trained_on_cuda(run, data, small, tmp_path, processes):
    out = tmp_path / "run"
    more = ["--device", "cuda", "--processes", processes, "--steps", "20"]
    result = run("train", "--data", data, "--out", out, *more, *small)
    assert result.returncode == 0, result.stderr
    assert (out / "hypernet.pt").exists()

"""`--device cuda` of the commands that compute in torch; those of ONNX Runtime have theirs beside
the other tests of each."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TRAIN = ["--space", "narrow", "--batch", "16", "--side", "8", "--final-side", "8"]
TRAIN += ["--evaluate-architectures", "2", "--evaluate-examples", "64", "--steps", "20"]


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
def test_train_without_the_device_says_so(run, data, tmp_path, device):
    result = run("train", "--data", data, "--out", tmp_path / "run", "--device", device, *TRAIN)
    assert result.returncode == 2
    assert f"device {device!r}" in result.stderr


def test_the_onnxruntime_engine_stays_on_the_cpu(run, squeezenet):
    result = run("init", squeezenet, "--engine", "onnxruntime", "--device", "cuda")
    assert result.returncode == 2
    assert "--engine torch" in result.stderr


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
def test_a_hypernetwork_is_trained_on_cuda(run, data, tmp_path, processes):
    out = tmp_path / "run"
    more = ["--device", "cuda", "--processes", processes]
    result = run("train", "--data", data, "--out", out, *more, *TRAIN)
    assert result.returncode == 0, result.stderr
    assert (out / "hypernet.pt").exists()

import json
import os
import subprocess
import sys

import pytest
import torch

from onnx_ghn.train.checkpoint import load_checkpoint

COMMON = ["--steps", "5", "--space", "narrow", "--batch", "16", "--side", "8", "--final-side", "8"]
COMMON += ["--evaluate-architectures", "2", "--evaluate-examples", "64", "-q"]


def run(command, **extra):
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | extra
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_give_the_weights_of_one_with_the_same_global_batch(data, tmp_path):
    one = [sys.executable, "-m", "onnx_ghn", "train", "--data", str(data)]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two += ["-m", "onnx_ghn", "train", "--data", str(data)]
    alone, together = tmp_path / "alone", tmp_path / "together"
    run([*one, "--out", str(alone), "--processes", "1", "--meta-batch", "2", *COMMON])
    run([*two, "--out", str(together), "--meta-batch", "1", *COMMON])
    expected = load_checkpoint(alone / "state.pt")
    found = load_checkpoint(together / "state.pt")
    assert found.counters.architecture_steps == expected.counters.architecture_steps == 10
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    means = [
        json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["mean"]
        for folder in (alone, together)
    ]
    assert means[0] == pytest.approx(means[1], abs=0.02)

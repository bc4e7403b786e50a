"""Shared by the tests of the command line."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.cli import main


@pytest.fixture
def small():
    """Options of `train` for small images and short evaluations."""
    images = ["--space", "narrow", "--batch", "16", "--side", "8", "--final-side", "8"]
    return [*images, "--evaluate-architectures", "2", "--evaluate-examples", "64"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: starting one takes longer than the command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnx-ghn", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=exit.value.code, stdout=captured.out, stderr=captured.err)

    level = logging.getLogger("onnx_ir").level
    yield run
    logging.getLogger("onnx_ir").setLevel(level)


@pytest.fixture
def data(tmp_path):
    """A file with images of noise in three classes, to train a hypernetwork on."""
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    np.savez(path, x=rng.integers(0, 256, (120, 16, 16, 3), np.uint8), y=np.arange(120) % 3)
    return path


@pytest.fixture
def classifier(trained, export, tmp_path):
    """A file with the network that knows the digits."""
    path = tmp_path / "net.onnx"
    ir.save(export(trained), path)
    return path


@pytest.fixture
def squeezenet(light, tmp_path):
    """A file with a real architecture without weights."""
    path = tmp_path / "squeezenet.onnx"
    path.write_bytes((light / "light_squeezenet.onnx").read_bytes())
    return path

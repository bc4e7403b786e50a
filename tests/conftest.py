"""Shared fixtures: real architectures from the onnx package, and the corpora where they are."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

ROOT = Path(__file__).parent.parent
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent (set {variable})")
    return folder


def _load_tool(name: str) -> ModuleType:
    folder = str(ROOT / "tools")
    if folder not in sys.path:  # tools import each other
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """Loads a module of the folder `tools`, which is no package, by its name."""
    return _load_tool


@pytest.fixture(scope="session")
def runtime_on_cuda() -> None:
    """Skips where ONNX Runtime is no CUDA build, or where there is no device."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def command_lines() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Runs command lines at once, each in a process of its own: `command_lines((folder, *args))`.

    See tests/forking.py for the answers.
    """
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "forking.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    ) as server:

        def run(*lines: tuple[Any, ...]) -> list[dict[str, Any]]:
            assert server.stdin is not None and server.stdout is not None
            requests = [
                {"folder": str(folder), "arguments": [str(argument) for argument in arguments]}
                for folder, *arguments in lines
            ]
            server.stdin.write(json.dumps(requests) + "\n")
            server.stdin.flush()
            answers: list[dict[str, Any]] = json.loads(server.stdout.readline())
            return answers

        yield run
        server.communicate()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of ONNX skeletons; skips where it is absent."""
    return _folder("ONNX_GHN_CORPUS", "corpus")


@pytest.fixture(scope="session")
def materialize(corpus: Path) -> Callable[..., onnx.ModelProto]:
    """The corpus's own function that fills a skeleton: `materialize(model, seed=0)`."""
    spec = importlib.util.spec_from_file_location("materialize", corpus / "materialize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.materialize


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of parity fixtures; skips where it is absent."""
    return _folder("ONNX_GHN_PARITY", "parity")


@pytest.fixture(scope="session")
def light() -> Path:
    """The folder of weightless real networks that the onnx package ships."""
    return LIGHT


@pytest.fixture(scope="session")
def untrained_file(
    tmp_path_factory: pytest.TempPathFactory, load_tool: Callable[[str], ModuleType]
) -> Path:
    """A small untrained archive, whichever ships."""
    file = tmp_path_factory.mktemp("untrained") / "untrained.pt"
    tool = load_tool("make_untrained")
    tool.write_archive(file, tool.CONFIG, tool.untrained_state(tool.NETWORK, tool.SEED))
    return file


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scikit-learn's digits, 8 x 8 grey: train.npz and test.npz."""
    datasets = pytest.importorskip("sklearn.datasets")
    folder = tmp_path_factory.mktemp("digits")
    bunch = datasets.load_digits()
    x = (bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    for name, part in (("train", slice(0, 1437)), ("test", slice(1437, None))):
        np.savez(folder / f"{name}.npz", x=x[part], y=bunch.target[part])
    return folder


@pytest.fixture(scope="session")
def trained(digits: Path) -> Any:
    """A small convolutional network in torch, trained on the digits for two epochs."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    with np.load(digits / "train.npz") as data:
        x = torch.tensor(data["x"]).permute(0, 3, 1, 2).float() / 255
        y = torch.tensor(data["y"])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(2):
        for chosen in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="session")
def export() -> Callable[..., ir.Model]:
    """Export a network for digits: `export(network, training=False, folded=False, batch=None)`."""
    import torch

    def export(
        network: Any, *, training: bool = False, folded: bool = False, batch: int | None = None
    ) -> ir.Model:
        modes = torch.onnx.TrainingMode
        mode = modes.TRAINING if training else modes.EVAL if folded else modes.PRESERVE
        buffer = io.BytesIO()
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                copy.deepcopy(network).train(training),  # tracing moves running statistics
                (torch.randn(batch or 2, 1, 8, 8),),
                buffer,
                dynamo=False,
                training=mode,
                do_constant_folding=folded,
                input_names=["x"],
                dynamic_axes=None if batch else {"x": {0: "N"}},
            )
        return ir.from_proto(onnx.load_from_string(buffer.getvalue()))

    return export

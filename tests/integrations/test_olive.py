"""The worked example of docs/olive.md, in an environment of its own with a real Olive.

Olive brings torch, transformers and a hundred megabytes more, so it has no place among the
dependencies of the other tests.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parent.parent.parent
TORCH = "torch==2.13.0"  # another one may be a CUDA build of gigabytes

pytestmark = pytest.mark.long


def call(*command, cwd=None):
    quiet = {"OLIVE_DISABLE_TELEMETRY": "1", "CI": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    output = f"{result.stdout}\n{result.stderr}"
    assert result.returncode == 0, f"{command}: {output[-4000:]}"
    return output


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """A Python with Olive: ONNX_GHN_OLIVE_PYTHON, or one that is made here."""
    given = os.environ.get("ONNX_GHN_OLIVE_PYTHON")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("olive")
    install = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        call(sys.executable, "-m", "venv", folder)
        call(*install, TORCH)
        call(*install, f"{ROOT}[cpu,olive]")
    except AssertionError as error:
        pytest.skip(f"no environment for Olive (set ONNX_GHN_OLIVE_PYTHON): {str(error)[-300:]}")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def page():
    text = (ROOT / "docs" / "olive.md").read_text(encoding="utf-8")

    def blocks(language):
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)

    return blocks


@pytest.fixture(scope="module")
def folder(python, page, tmp_path_factory):
    """Where the example was run as a reader runs it, up to Olive's end."""
    folder = tmp_path_factory.mktemp("workflow")
    call(python, "-c", page("python")[0], cwd=folder)
    (workflow,) = page("json")
    (folder / "workflow.json").write_text(workflow)
    (shell,) = page("sh")
    for line in shell.strip().splitlines():
        program, *arguments = shlex.split(line)
        call(python.parent / program, *arguments, cwd=folder)
    return folder


def initializers(path):
    model = onnx.load(path)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_package_config_holds_all_that_olive_has_and_our_pass(folder, python):
    config = json.loads((folder / "package.json").read_text())
    code = "from olive.package_config import OlivePackageConfig as Config;"
    shipped = call(python, "-c", f"{code} print(Config.get_default_config_path())")
    own = json.loads(Path(shipped.split()[0]).read_text())
    assert config["passes"].keys() == own["passes"].keys() | {"OnnxGhnInit"}
    assert all(config["passes"][name] == own["passes"][name] for name in own["passes"])


def test_skeleton_goes_in_and_a_model_with_weights_comes_out(folder, python, page):
    skeleton = onnx.load(folder / "bert.onnx")
    assert not any(
        tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 100
        for tensor in skeleton.graph.initializer
    )
    ready = folder / "ready" / "model.onnx"
    onnx.checker.check_model(ready, full_check=True)
    weights = [array for array in initializers(ready).values() if array.size > 1000]
    assert len(weights) >= 14
    assert all(array.dtype == np.float16 and array.std() > 0 for array in weights)
    printed = call(python, "-c", page("python")[1], cwd=folder)
    assert "(2, 3) float32 True" in printed


def test_weights_are_those_of_init(folder, python):
    """Same options, same bits: what Olive wrote in half precision is what init predicts."""
    init = python.parent / "onnx-ghn"
    call(init, "init", "bert.onnx", "-o", "cli.onnx", "--method", "ghn", "--seed", 1, cwd=folder)
    ours = initializers(folder / "cli.onnx")
    theirs = initializers(folder / "ready" / "model.onnx")
    name = "bert.encoder.layer.0.intermediate.dense.bias"
    assert name in ours
    by_bytes = {array.tobytes() for array in theirs.values()}
    matrices = [array for array in ours.values() if array.ndim == 2 and array.size > 1000]
    halves = [array.astype(np.float16) for array in matrices]
    found = sum(
        half.tobytes() in by_bytes or np.ascontiguousarray(half.T).tobytes() in by_bytes
        for half in halves
    )
    assert found >= len(halves) - 1, f"{found} of {len(halves)}"


def test_one_pass_without_a_workflow_writes_external_data(folder, python, page):
    printed = call(python, "-c", page("python")[2], cwd=folder)
    assert "['bert.onnx', 'bert.onnx.data']" in printed
    arrays = initializers(folder / "one-pass" / "bert.onnx")
    assert sum(array.size > 1000 for array in arrays.values()) >= 14


def test_external_data_goes_in_and_out(folder, python):
    """Olive gives each pass a folder of its own: what lies beside the input must come along."""
    model = onnx.load(folder / "one-pass" / "bert.onnx")
    (folder / "outside").mkdir()
    onnx.save(model, folder / "outside" / "m.onnx", save_as_external_data=True, location="m.bin")
    code = """
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from onnx_ghn.integrations.olive import OnnxGhnInit
configured = {"method": "classical", "seed": 9, "include": ["*.dense.weight"]}
initialise = create_pass_from_dict(OnnxGhnInit, configured, disable_search=True)
initialise.run(ONNXModelHandler("outside", onnx_file_name="m.onnx"), "inside")
"""
    call(python, "-c", code, cwd=folder)
    before = initializers(folder / "outside" / "m.onnx")
    after = initializers(folder / "inside" / "m.onnx")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert changed == {name for name in before if name.endswith(".dense.weight")}


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ('{"method": "magic"}', "method"),
        ('{"seed": -1}', "seed"),
        ('{"roles": ["x"]}', "NAME=ROLE"),
    ],
)
def test_a_wrong_parameter_is_an_error_that_names_it(folder, python, configured, message):
    code = f"""
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from onnx_ghn.integrations.olive import OnnxGhnInit
try:
    initialise = create_pass_from_dict(OnnxGhnInit, {configured}, disable_search=True)
    initialise.run(ONNXModelHandler("bert.onnx"), "wrong")
except Exception as error:
    print("refused:", error)
"""
    printed = call(python, "-c", code, cwd=folder)
    assert message in printed[printed.index("refused:") :]

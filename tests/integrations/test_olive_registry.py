"""The package config, on a registry of Olive's form; test_olive.py has the real one."""

import json
import subprocess
import sys

import pytest

from onnx_ghn.cli import main
from onnx_ghn.errors import MissingDependencyError
from onnx_ghn.integrations import olive_registry

OLIVE = {
    "passes": {"Other": {"module_path": "olive.passes.onnx.other.Other"}},
    "extra_dependencies": {"cpu": ["onnxruntime"]},
}


@pytest.fixture
def olive(tmp_path, monkeypatch):
    """A package named olive with a registry, and no code that could be imported."""
    (tmp_path / "olive").mkdir()
    (tmp_path / "olive" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "olive" / "olive_config.json").write_text(json.dumps(OLIVE))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "olive"


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["onnx-ghn", "olive-config", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code


def test_both_registries_in_one(olive, monkeypatch, tmp_path, capsys):
    output = tmp_path / "package.json"
    assert call(monkeypatch, "-o", output) == 0
    config = json.loads(output.read_text())
    assert config["passes"]["Other"] == OLIVE["passes"]["Other"]
    ours = config["passes"]["OnnxGhnInit"]
    assert ours["module_path"] == "onnx_ghn.integrations.olive.OnnxGhnInit"
    assert config["extra_dependencies"] == {"cpu": ["onnxruntime"], "onnx-ghn": ["onnx-ghn"]}
    assert call(monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) == config


def test_an_output_is_not_overwritten_by_itself(olive, monkeypatch, tmp_path, capsys):
    output = tmp_path / "package.json"
    output.write_text("mine")
    assert call(monkeypatch, "-o", output) == 2
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert call(monkeypatch, "-o", output, "--force") == 0
    assert "OnnxGhnInit" in output.read_text()


@pytest.mark.parametrize("text", ["", "[]", '{"passes": 3}', "{}"])
def test_a_file_that_is_no_registry(olive, text):
    registry = olive / "olive_config.json"
    registry.write_text(text)
    with pytest.raises(MissingDependencyError, match="no registry"):
        olive_registry.package_config()


def test_without_olive_the_error_holds_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(olive_registry.importlib.util, "find_spec", lambda name: None)
    assert call(monkeypatch) == 2
    assert "pip install 'onnx-ghn[olive]'" in capsys.readouterr().err


def test_olive_is_not_imported(olive):
    code = "from onnx_ghn.integrations.olive_registry import package_config as p; p()"
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(olive.parent)!r}); {code}"],
        check=True,
    )

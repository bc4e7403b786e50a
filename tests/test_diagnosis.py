import importlib.metadata

import onnxruntime

from onnx_ghn import diagnosis
from onnx_ghn.errors import MissingDependencyError
from onnx_ghn.run import session


def failures(found: diagnosis.Diagnosis) -> dict[str, str]:
    return {check.name: check.detail for check in found.checks if not check.ok}


def test_a_sound_installation():
    found = diagnosis.diagnose()
    assert found.versions["numpy"] == importlib.metadata.version("numpy")
    assert found.providers == tuple(onnxruntime.get_available_providers())
    ran = {check.name: check.detail for check in found.checks if check.ok}
    assert "runs a tiny model" in ran["CPUExecutionProvider"]
    assert "sha256" in ran["archive"]
    assert found.ok == (not failures(found))


def test_two_runtimes_are_found_with_the_repair(monkeypatch):
    two = {"onnxruntime": ["onnxruntime", "onnxruntime-gpu"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: two)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "1.20" if name == "onnxruntime-gpu" else version(name),
    )
    found = diagnosis.diagnose()
    assert not found.ok
    detail = failures(found)["one ONNX Runtime"]
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu, then pip install" in detail
    assert found.to_json()["runtimes"]["onnxruntime-gpu"] == "1.20"


def test_no_runtime_is_found_with_the_repair(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    found = diagnosis.diagnose()
    assert "onnx-ghn[cpu]" in failures(found)["one ONNX Runtime"]
    assert found.providers == ()


def test_the_rest_of_an_uninstalled_wheel_is_found(monkeypatch):
    monkeypatch.delattr(onnxruntime, "set_default_logger_severity")
    found = diagnosis.diagnose()
    assert "is broken" in failures(found)["onnxruntime"]


def test_a_provider_that_does_not_start_is_a_failure(monkeypatch):
    def refuse(model, *, device):
        raise MissingDependencyError("no such luck")

    monkeypatch.setattr(session, "open_session", refuse)
    assert failures(diagnosis.diagnose())["CPUExecutionProvider"] == "no such luck"

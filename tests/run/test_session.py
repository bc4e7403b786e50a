"""ONNX Runtime sessions: every form of a model, and an error wherever a provider is missing."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.errors import DeviceError, MissingDependencyError, ModelError, OptionError
from onnx_ghn.run import session as session_module
from onnx_ghn.run.session import Input, open_session

LINEAR = """<ir_version: 8, opset_import: ["" : 17]>
    linear (float[N,3] x) => (float[N,2] y, float[N,2] z)
    <float[3,2] w = {1, 2, 3, 4, 5, 6}>
    { y = MatMul(x, w)  z = Relu(y) }"""


def cuda_is_there() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def linear() -> ir.Model:
    return ir.from_onnx_text(LINEAR)


def check(session: session_module.Session) -> None:
    assert session.inputs == (Input("x", np.float32, ("N", 3)),)
    assert session.outputs == ("y", "z")
    result = session.run({"x": -np.eye(3, dtype=np.float32)})
    assert result["y"].tolist() == [[-1, -2], [-3, -4], [-5, -6]]
    assert not result["z"].any()


def test_every_form_of_a_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check(open_session(linear()))
    check(open_session(ir.to_proto(linear()).SerializeToString()))
    ir.save(linear(), tmp_path / "model.onnx")
    check(open_session(tmp_path / "model.onnx"))
    monkeypatch.chdir(tmp_path)
    check(open_session("model.onnx"))


def test_external_data_is_found_by_path_and_by_model(tmp_path: Path):
    path = tmp_path / "model.onnx"
    ir.save(linear(), path, external_data="model.data", size_threshold_bytes=0)
    assert (tmp_path / "model.data").stat().st_size >= 24
    check(open_session(path))
    loaded = ir.load(path)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    check(open_session(loaded))


def test_large_model_goes_through_a_file_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session_module, "INLINE_LIMIT", 8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = linear()
    check(open_session(model))
    assert not list(tmp_path.iterdir())
    assert isinstance(model.graph.initializers["w"].const_value, ir.TensorProtocol)


def test_lazy_tensors_are_evaluated():
    model = linear()
    array = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    model.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: ir.tensor(array), dtype=ir.DataType.FLOAT, shape=ir.Shape((3, 2)), name="w"
    )
    check(open_session(model))


def test_outputs_can_be_chosen():
    result = open_session(linear()).run({"x": np.ones((1, 3), np.float32)}, outputs=["z"])
    assert list(result) == ["z"]
    assert result["z"].tolist() == [[9, 12]]


def test_provider_is_the_one_that_was_asked_for():
    assert open_session(linear(), device="cpu").provider == "CPUExecutionProvider"


def test_unknown_device_is_refused():
    with pytest.raises(OptionError, match=r"'tpu'.*cpu, cuda"):
        open_session(linear(), device="tpu")


@pytest.mark.skipif(cuda_is_there(), reason="this ONNX Runtime has CUDA")
def test_cuda_that_is_not_installed_is_an_error():
    with pytest.raises(MissingDependencyError, match=r"onnx-ghn\[gpu\]"):
        open_session(linear(), device="cuda")


@pytest.mark.cuda
@pytest.mark.usefixtures("runtime_on_cuda")
def test_cuda_runs():
    session = open_session(linear(), device="cuda")
    assert session.provider == "CUDAExecutionProvider"
    check(session)


class CudaBuild:
    """What we use of ONNX Runtime's CUDA build; its sessions run on `starts`."""

    def __init__(self, starts: str) -> None:
        self.starts = starts
        self.asked: list[Any] = []

    SessionOptions = SimpleNamespace

    def set_default_logger_severity(self, severity: int) -> None: ...

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn.so")  # as the real one does, to stdout

    def InferenceSession(self, source: Any, options: Any, providers: list[Any]) -> Any:
        self.asked = providers
        value = SimpleNamespace(name="x", type="tensor(float)", shape=[])
        return SimpleNamespace(
            get_providers=lambda: [self.starts],
            get_inputs=lambda: [value],
            get_outputs=lambda: [value],
            disable_fallback=lambda: None,
        )


def test_cuda_that_does_not_start_is_an_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", CudaBuild("CPUExecutionProvider"))
    with pytest.raises(DeviceError, match="could not start CUDAExecutionProvider"):
        open_session(linear(), device="cuda")
    printed = capsys.readouterr()
    assert printed.out == "" and "libcudnn" in printed.err


def test_cuda_computes_in_whole_float32(monkeypatch):
    build = CudaBuild("CUDAExecutionProvider")
    monkeypatch.setitem(sys.modules, "onnxruntime", build)
    assert open_session(linear(), device="cuda").provider == "CUDAExecutionProvider"
    (name, options), last = build.asked
    assert (name, options["use_tf32"], last) == (
        "CUDAExecutionProvider",
        "0",
        "CPUExecutionProvider",
    )


def test_missing_runtime_names_both_commands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"onnx-ghn\[cpu\].*onnx-ghn\[gpu\]"):
        open_session(linear())


def test_errors_of_the_runtime_are_one_line(tmp_path: Path):
    broken = linear()
    broken.graph.initializers["w"].const_value = ir.tensor(np.ones((4, 2), np.float32), name="w")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    for model in (b"not a model", bad, tmp_path / "absent.onnx"):
        with pytest.raises(ModelError, match="can't load") as caught:
            open_session(model)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        open_session(broken).run({"x": np.ones((1, 3), np.float32)})
    with pytest.raises(ModelError, match=r"can't run.*x"):
        open_session(linear()).run({"x": np.ones((1, 5), np.float32)})
    with pytest.raises(ModelError, match=r"can't run.*x"):
        open_session(linear()).run({})

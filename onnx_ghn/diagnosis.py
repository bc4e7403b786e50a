"""What is installed, and whether it works: the findings of `doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from onnx_ghn.errors import OnnxGhnError
from onnx_ghn.report import FORMAT

PACKAGES = ("onnx-ghn", "onnx", "onnx-ir", "numpy", "protobuf", "torch")
RUNTIME = "onnxruntime"
REPAIR = "pip uninstall --yes {all}, then pip install 'onnx-ghn[cpu]', or 'onnx-ghn[gpu]' for CUDA"

_LINEAR = """<ir_version: 8, opset_import: ["" : 17]> tiny (float[N,3] x) => (float[N,2] y)
    <float[3,2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }"""


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: What it is.
        ok: Whether it works.
        detail: What was found, or what is wrong and how to repair it.
    """

    name: str
    ok: bool
    detail: str


@dataclass
class Diagnosis:
    """The result of `diagnose`.

    Attributes:
        versions: Of Python and packages; None for a package that isn't installed.
        runtimes: Installed distributions of ONNX Runtime, with versions.
        providers: Execution providers that ONNX Runtime was built with.
        devices: CUDA devices that torch sees.
        checks: What was tried.
    """

    versions: dict[str, str | None]
    runtimes: dict[str, str]
    providers: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was tried works."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `doctor --format json`."""
        return {"format": FORMAT, "ok": self.ok} | asdict(self)


def diagnose() -> Diagnosis:
    """Find out versions, providers and devices, and run a tiny model on each provider we use."""
    found = importlib.metadata.packages_distributions().get(RUNTIME, [])
    runtimes = {name: importlib.metadata.version(name) for name in sorted(set(found))}
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    diagnosis = Diagnosis(versions, runtimes)
    diagnosis.checks.append(_one_runtime(runtimes))
    diagnosis.devices = _devices(diagnosis.checks)
    if runtimes:
        from onnx_ghn.run.session import PROVIDERS, available_providers

        try:
            diagnosis.providers = available_providers()
        except (OnnxGhnError, AttributeError, ImportError) as error:
            # What is left after one of two wheels was uninstalled imports, but is empty.
            repair = REPAIR.format(all=" ".join(runtimes))
            diagnosis.checks.append(Check(RUNTIME, False, f"is broken ({error}): {repair}"))
        for device, provider in PROVIDERS.items():
            if provider in diagnosis.providers:
                diagnosis.checks.append(_attempt(provider, partial(_run, device)))
    diagnosis.checks.append(_attempt("archive", _archive))
    return diagnosis


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _one_runtime(runtimes: dict[str, str]) -> Check:
    """ONNX Runtime's wheels all own one folder: of two, one has overwritten the other."""
    names = ", ".join(f"{name} {version}" for name, version in runtimes.items())
    if not runtimes:
        detail = "is not installed: pip install 'onnx-ghn[cpu]', or 'onnx-ghn[gpu]' for CUDA"
        return Check("one ONNX Runtime", False, detail)
    if len(runtimes) > 1:
        repair = REPAIR.format(all=" ".join(runtimes))
        detail = f"{names} overwrite each other, and mostly CUDA is lost: {repair}"
        return Check("one ONNX Runtime", False, detail)
    return Check("one ONNX Runtime", True, names)


def _devices(checks: list[Check]) -> tuple[str, ...]:
    try:
        import torch

        return tuple(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
    except Exception as error:  # broken libraries raise anything
        checks.append(Check("torch", False, f"{type(error).__name__}: {error}"))
        return ()


def _attempt(name: str, run: Callable[[], str]) -> Check:
    try:
        return Check(name, True, run())
    except OnnxGhnError as error:
        return Check(name, False, str(error))


def _run(device: str) -> str:
    import onnx_ir as ir

    from onnx_ghn.errors import ModelError
    from onnx_ghn.run.session import open_session

    start = time.perf_counter()
    session = open_session(ir.from_onnx_text(_LINEAR), device=device)
    result = session.run({"x": np.eye(3, dtype=np.float32)})["y"]
    if not np.allclose(result, [[1, 2], [3, 4], [5, 6]], atol=1e-2):
        raise ModelError(f"a tiny model gives {result.tolist()}, which is wrong")
    return f"runs a tiny model ({1e3 * (time.perf_counter() - start):.0f} ms with loading)"


def _archive() -> str:
    from onnx_ghn.hypernet.archive import read_info

    info = read_info()
    state = "trained" if info.trained else "untrained"
    return f"{info.name}, {state}, sha256 {info.sha256[:12]}"

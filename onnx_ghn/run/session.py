"""ONNX Runtime sessions: the only module that imports onnxruntime.

The provider that was asked for is the provider that runs, or there is an error: ONNX Runtime's
own way is to fall back to the CPU in silence.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.errors import (
    DeviceError,
    MissingDependencyError,
    ModelError,
    OnnxGhnError,
    OptionError,
)
from onnx_ghn.run.parts import PartedSession

INLINE_LIMIT = 1 << 25
"""Bytes of tensors above which a model in memory goes to ONNX Runtime through a temporary file:
protobuf ends at 2 GB, and a message needs its size several times over."""

ERRORS_ONLY = 3
"""ONNX Runtime's log severity: warnings about unused or foldable nodes help no user."""

FATAL_ONLY = 4
"""That of a session: its errors arrive as exceptions and are told there."""

MESSAGE_LIMIT = 400
"""Characters of ONNX Runtime's message that are shown: some hold every shape of the model."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""float32 as on the CPU: TF32 keeps ten bits of a mantissa. And no trial of all of cuDNN's
algorithms, which takes longer than a few runs save, and may end otherwise the next time."""

_ELEMENT_TYPES = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": np.object_,
}


@dataclass(frozen=True)
class Input:
    """An input that has to be fed.

    Attributes:
        name: Its name in the model.
        dtype: Element type, `object` for strings; None where numpy has no such tensors.
        shape: A size, or the name (or None) of a dynamic one, for each axis.
    """

    name: str
    dtype: npt.DTypeLike | None
    shape: tuple[int | str | None, ...]


class Session:
    """A model that is loaded in ONNX Runtime.

    Attributes:
        inputs: What has to be fed; initializers that are inputs too are left out.
        outputs: Names of the outputs, in order.
        provider: Name of the execution provider that runs it.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(
            Input(value.name, _dtype(value.type), tuple(value.shape))
            for value in session.get_inputs()
        )
        self.outputs = tuple(value.name for value in session.get_outputs())
        self.provider: str = session.get_providers()[0]

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Run once.

        Args:
            feeds: An array for each of `inputs`.
            outputs: Names of the outputs that are wanted; all where None.

        Returns:
            The outputs by name: arrays, or what else ONNX Runtime makes of sequences and maps.

        Raises:
            ModelError: ONNX Runtime refuses the input or fails in a node, which it names.
        """
        names = list(self.outputs if outputs is None else outputs)
        try:
            results = self._session.run(names, dict(feeds))
        except OnnxGhnError:  # a part that can't be loaded
            raise
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise ModelError(f"ONNX Runtime can't run the model: {_reason(error)}") from error
        return dict(zip(names, results, strict=True))


def open_session(
    model: ir.Model | bytes | str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int = 1,
    few_runs: bool = False,
) -> Session:
    """Load a model in ONNX Runtime.

    Args:
        model: A model, a serialised one, or the path of one. Of a path's model ONNX Runtime reads
            the external data itself, next to the file.
        device: "cpu" or "cuda".
        threads: Threads that one operator may use. With one, results do not depend on the
            number of cores.
        few_runs: Save memory, and the time to load, of a model that runs a few times only: its
            weights are used as they lie in the file, a large one runs in parts, and memory goes
            back after each run.

    Returns:
        The session, on the provider that was asked for.

    Raises:
        MissingDependencyError: ONNX Runtime, or its CUDA build, is not installed.
        OptionError: There is no such device.
        DeviceError: CUDA does not start.
        ModelError: ONNX Runtime can't load the model.
    """
    provider = PROVIDERS.get(device)
    if provider is None:
        raise OptionError(f"unknown device {device!r}: choose one of {', '.join(PROVIDERS)}")
    runtime = _import_runtime(provider)

    def load(source: str | bytes) -> Any:
        return _load(runtime, source, provider, threads, few_runs)

    if isinstance(model, ir.Model) and _needs_file(model):
        if few_runs:
            return Session(PartedSession(model, load))
        # Once the session is made nothing reads the file any more.
        with tempfile.TemporaryDirectory(prefix="onnx-ghn-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.data")
            return Session(load(str(path)))
    if isinstance(model, ir.Model):
        return Session(load(ir.to_proto(model).SerializeToString()))
    return Session(load(model if isinstance(model, bytes) else str(Path(model).absolute())))


def available_providers() -> tuple[str, ...]:
    """The providers that the installed ONNX Runtime was built with; whether they start is open.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    return tuple(_import_runtime(PROVIDERS["cpu"]).get_available_providers())


def _import_runtime(provider: str) -> ModuleType:
    """The onnxruntime module, after a check that it holds the provider."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "running a model needs ONNX Runtime: pip install 'onnx-ghn[cpu]', "
            "or pip install 'onnx-ghn[gpu]' for CUDA"
        ) from error
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    if provider == PROVIDERS["cuda"]:
        if provider not in onnxruntime.get_available_providers():
            raise MissingDependencyError(
                "the ONNX Runtime that is installed has no CUDA. Both builds own the same folder, "
                "so first: pip uninstall onnxruntime onnxruntime-gpu, then: "
                "pip install 'onnx-ghn[gpu]'"
            )
        with contextlib.redirect_stdout(sys.stderr):  # it prints; stdout is for our results
            onnxruntime.preload_dlls()  # finds the CUDA libraries that came with pip
    return onnxruntime


def _load(
    runtime: ModuleType, source: str | bytes, provider: str, threads: int, few_runs: bool
) -> Any:
    options = runtime.SessionOptions()
    if few_runs:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # The level above lays channels out in blocks: for one run, copies that save no time.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    options.use_deterministic_compute = True
    providers: list[Any] = [PROVIDERS["cpu"]]
    if provider == PROVIDERS["cuda"]:
        # The CPU stays, for the few operators that have no CUDA kernel.
        providers.insert(0, (provider, CUDA_OPTIONS))
    try:
        session = runtime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base but this
        where = source if isinstance(source, str) else "the model"
        raise ModelError(f"ONNX Runtime can't load {where}: {_reason(error)}") from error
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"ONNX Runtime could not start {provider}: is there a CUDA device, and do its driver "
            "and libraries fit this ONNX Runtime? Or use --device cpu"
        )
    session.disable_fallback()
    return session


def _needs_file(model: ir.Model) -> bool:
    """Whether the model is too large for one message, or refers to files beside it."""
    size = 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                return True
            size += tensor.nbytes if tensor is not None else 0
    return size > INLINE_LIMIT


def _dtype(type_name: str) -> npt.DTypeLike | None:
    """The numpy type of what ONNX Runtime calls "tensor(float)" and the like."""
    if not type_name.startswith("tensor("):
        return None
    return _ELEMENT_TYPES.get(type_name[len("tensor(") : -1])


def _reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its error code."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:MESSAGE_LIMIT]

"""Compares one operator of the interpreter with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper

from onnx_ghn.run.interpreter import Interpreter


def node_model(
    operator: str,
    inputs: Sequence[np.ndarray | None],
    opset: int,
    *,
    outputs: int = 1,
    constant: Sequence[int] = (),
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; the inputs in `constant` are initializers."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    node = helper.make_node(
        operator, names, [f"y{i}" for i in range(outputs)], domain=domain, **attributes
    )
    declared, stored = [], []
    for i, array in enumerate(inputs):
        if array is None:
            continue
        if i in constant:
            stored.append(onnx.numpy_helper.from_array(array, f"x{i}"))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            declared.append(helper.make_tensor_value_info(f"x{i}", kind, array.shape))
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    graph = helper.make_graph([node], "operator", declared, results, stored)
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=4 if opset < 8 else 10)


def run_reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime's outputs, without its optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.fixture(scope="session")
def check_operator() -> Callable[..., None]:
    """A function that asserts that interpreter and ONNX Runtime agree on one node."""

    def check(
        operator: str,
        inputs: Sequence[np.ndarray | None],
        opset: int,
        *,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        constant: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        model = node_model(operator, inputs, opset, constant=constant, **settings)
        feeds = {
            f"x{i}": array
            for i, array in enumerate(inputs)
            if array is not None and i not in constant
        }
        expected = run_reference(model, feeds)
        interpreter = Interpreter(ir.from_proto(model))
        got = interpreter({name: torch.from_numpy(array) for name, array in feeds.items()})
        assert len(got) == len(expected)
        for tensor, array in zip(got, expected, strict=True):
            assert tuple(tensor.shape) == array.shape
            assert tensor.numpy().dtype == array.dtype
            np.testing.assert_allclose(tensor.numpy(), array, rtol=rtol, atol=atol)

    return check


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Seeded normal noise of a shape, float32."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.standard_normal(shape).astype(np.float32)

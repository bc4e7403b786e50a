"""Small graphs from ONNX text, with random bytes where the text only declares a tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.parameter import Parameter
from onnx_ghn.read.verdict import judge

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'


def parse_model(text: str) -> ir.Model:
    """Parse a graph; a declared value that no node makes becomes a random initializer."""
    proto = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEADER + text)
    generator = np.random.default_rng(0)
    graphs = [proto.graph]
    for graph in graphs:
        graphs.extend(
            a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH
        )
        made = {name for node in graph.node for name in node.output}
        stored = {tensor.name for tensor in graph.initializer}
        for info in list(graph.value_info):
            if info.name in made or info.name in stored:
                continue
            kind = info.type.tensor_type
            shape = [size.dim_value for size in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            array = generator.standard_normal(shape).astype(dtype)
            graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
    return ir.from_proto(proto)


@pytest.fixture
def parse() -> Callable[[str], ir.Model]:
    """`parse_model`, as a fixture."""
    return parse_model


@pytest.fixture
def verdicts() -> Callable[[str | ir.Model], dict[str, Parameter]]:
    """Parameters of a text or model, by name."""

    def by_name(model: str | ir.Model) -> dict[str, Parameter]:
        parsed = parse_model(model) if isinstance(model, str) else model
        return {parameter.name: parameter for parameter in judge(parsed, trace(parsed))}

    return by_name

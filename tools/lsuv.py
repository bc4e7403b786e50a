"""LSUV: orthogonal weights, then unit variance of each layer's output on data, layer by layer.

After Mishkin and Matas, "All you need is a good init" (2016). One of the starts that
`finetune_table.py` compares.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from onnx_ghn.model_copy import copy_model
from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes.initialize import Initialize
from onnx_ghn.read.reading import read_model
from onnx_ghn.run.interpreter import Interpreter

ROUNDS, TOLERANCE = 3, 0.05
LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
SMALLEST = 1e-6
"""Variance under which a layer is left as it is: its output is constant."""


def initialize_lsuv(
    model: ir.Model, images: torch.Tensor, *, seed: int = 0, device: str = "cpu"
) -> None:
    """Set the learnable tensors of a model.

    Args:
        model: Changed in place. Its one input takes `images`.
        images: A batch, as the model takes it.
        seed: Seed of the orthogonal matrices.
        device: Where the model runs.
    """
    Initialize(InitializeOptions(method="orthogonal", seed=seed))(model)
    # A layer's output has to be an output of the graph to be seen.
    seen = copy_model(model)
    layers: dict[str, str] = {}
    for parameter in read_model(seen).parameters:
        site = parameter.sites[0] if parameter.sites else None
        is_matrix = parameter.learnable and len(parameter.logical_shape) >= 2
        if is_matrix and site is not None and site.node.op_type in LAYERS:
            layers[parameter.name] = site.node.outputs[0].name or ""
    order = {value.name: at for at, node in enumerate(seen.graph) for value in node.outputs}
    layers = {name: out for name, out in layers.items() if out in order}
    names = sorted(layers, key=lambda name: order[layers[name]])
    by_name = {value.name: value for node in seen.graph for value in node.outputs}
    present = {value.name for value in seen.graph.outputs}
    seen.graph.outputs.extend(by_name[out] for out in layers.values() if out not in present)
    interpreter = Interpreter(seen, batch_statistics=True, device=device)
    weights = {name: torch.tensor(_value(model, name).numpy(), device=device) for name in names}
    batch = images.to(device)
    with torch.no_grad():
        for name in names:
            at = interpreter.output_names.index(layers[name])
            for _ in range(ROUNDS):
                variance = float(interpreter(batch, weights)[at].float().var())
                if not SMALLEST < variance < np.inf or abs(variance - 1) < TOLERANCE:
                    break
                weights[name] = weights[name] / variance**0.5
    for name, weight in weights.items():
        before = _value(model, name)
        array = weight.cpu().numpy().astype(before.dtype.numpy())
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)


def _value(model: ir.Model, name: str) -> ir.TensorProtocol:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value

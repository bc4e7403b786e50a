"""Scores of a network that need no training and no labels, computed in torch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnx_ghn.errors import ModelError
from onnx_ghn.fallback import MATRIX_ROLES
from onnx_ghn.read.context import RELU_LIKE
from onnx_ghn.read.reading import Reading
from onnx_ghn.run.interpreter import Interpreter
from onnx_ghn.run.registry import Kernel


def synflow(model: ir.Model, reading: Reading, example: tuple[int, ...]) -> float:
    """Synaptic saliency of a whole network, as a natural logarithm.

    The sum over weight matrices and kernels of |w · ∂R/∂w|, where R is the sum of the outputs for
    an input of ones and every learnable tensor takes its absolute value (H. Tanaka, D. Kunin,
    D. Yamins, S. Ganguli, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", NeurIPS 2020, as a score of pruning; as one of networks, with
    BatchNormalization switched off as here: M. Abdelfattah et al., "Zero-Cost Proxies for
    Lightweight NAS", ICLR 2021). Computed in float64: the numbers grow with depth.

    Args:
        model: A complete model.
        reading: What the reader found in it.
        example: Shape of its input, with the batch axis; a batch of one suffices.

    Returns:
        The logarithm; minus infinity where nothing flows.

    Raises:
        ModelError: The model has no learnable weight matrix, or doesn't run.
    """
    learnable = {p.name for p in reading.parameters if p.learnable}
    matrices = {p.name for p in reading.parameters if p.learnable and p.role in MATRIX_ROLES}
    statistics = _statistics(model)
    values: dict[str, Tensor] = {}
    for name, value in model.graph.initializers.items():
        if value.dtype is None or not value.dtype.is_floating_point() or value.const_value is None:
            continue
        tensor = torch.from_numpy(value.const_value.numpy().astype(np.float64))
        if name in statistics:
            tensor = torch.full_like(tensor, statistics[name])
        elif name in learnable:
            tensor = tensor.abs()
        values[name] = tensor.requires_grad_(name in matrices)
    weights = [values[name] for name in sorted(matrices & values.keys())]
    if not weights:
        raise ModelError("synflow needs a learnable weight matrix, and the model has none")
    output = Interpreter(model)(torch.ones(example, dtype=torch.float64), values)[0]
    slopes = torch.autograd.grad(output.sum(), weights, allow_unused=True)
    flow = sum(
        float((weight.detach() * slope).abs().sum())
        for weight, slope in zip(weights, slopes, strict=True)
        if slope is not None
    )
    return math.log(flow) if flow > 0 else -math.inf


def naswot(model: ir.Model, images: Tensor) -> float:
    """How differently a network responds to the images of one batch.

    log |det K|, where K[i, j] counts the rectifiers that are on for both or for none of the images
    i and j (J. Mellor, J. Turner, A. Storkey, E. Crowley, "Neural Architecture Search without
    Training", ICML 2021). BatchNormalization uses the statistics of the batch. Smooth rectifiers
    (GELU, SiLU and so on) count as on where their input is positive.

    Args:
        model: A complete model.
        images: float32, a batch of its input.

    Returns:
        The logarithm; minus infinity where the network can't tell two images apart.

    Raises:
        ModelError: The model has no rectifier, or doesn't run.
    """
    program = Interpreter(model, batch_statistics=True).compile()
    codes = _Codes(len(images))
    steps = []
    for kernel, inputs, output, dead in program.steps:
        node = program.nodes.get(output)
        watched = codes.watch(kernel) if node is not None and _is_rectifier(node) else kernel
        steps.append((watched, inputs, output, dead))
    slots = program.template.copy()
    for slot in program.inputs.values():
        slots[slot] = images
    with torch.no_grad():
        dataclasses.replace(program, steps=steps).run(slots)
    if not codes.units:
        raise ModelError("naswot needs rectifiers (Relu and the like), and the model has none")
    sign, logarithm = torch.linalg.slogdet(codes.kernel)
    return float(logarithm) if sign > 0 else -math.inf


class _Codes:
    """Sums the agreement of each two images over all rectifiers, layer by layer."""

    def __init__(self, count: int) -> None:
        self.units = 0
        self.kernel = torch.zeros((count, count), dtype=torch.float64)

    def watch(self, kernel: Kernel) -> Kernel:
        """A function that does what `kernel` does and notes where its first input is positive."""

        def watched(x: Tensor, *others: Any) -> Any:
            count = len(self.kernel)
            if x.numel() % count == 0:
                on = (x > 0).reshape(count, -1).float()
                off = 1 - on
                self.units += on.shape[1]
                self.kernel += on @ on.T + off @ off.T
            return kernel(x, *others)

        return watched


def _is_rectifier(node: ir.Node) -> bool:
    """Whether the node lets positive values pass; of a written-out SiLU, its Sigmoid counts."""
    if node.op_type == "Sigmoid":
        data = node.inputs[0]
        consumers = list(node.outputs[0].consumers())
        return len(consumers) == 1 and consumers[0].op_type == "Mul" and data in consumers[0].inputs
    return node.op_type in RELU_LIKE or node.op_type == "Selu"


def _statistics(model: ir.Model) -> dict[str, float]:
    """Names of running means and variances, and the values with which they do nothing."""
    neutral: dict[str, float] = {}
    for node in model.graph.all_nodes():
        if node.op_type == "BatchNormalization":
            epsilon = node.attributes.get_float("epsilon", 1e-5)
            for value, number in zip(node.inputs[3:5], (0.0, 1.0 - epsilon), strict=True):
                if value is not None and value.name:
                    neutral[value.name] = number
    return neutral

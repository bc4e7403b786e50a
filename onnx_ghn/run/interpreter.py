"""Executes an ONNX model in torch, differentiably, with parameters by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext

import onnx_ir as ir
import torch
from onnx_ir.passes import common

from onnx_ghn.errors import ModelError
from onnx_ghn.run.compiler import compile_graph
from onnx_ghn.run.ordering import HOLDS_SUBGRAPHS
from onnx_ghn.run.program import Program
from onnx_ghn.run.registry import RunOptions, canonical_domain, find

_NOTHING: Mapping[str, torch.Tensor] = {}


class Interpreter:
    """An `ir.Model` as a differentiable torch function of its inputs and parameters.

        interpreter = Interpreter(model, batch_statistics=True)
        (logits,) = interpreter(images, {"conv.weight": weight, ...})

    The model is compiled once for a given tuple of parameter names, into a flat list of torch
    calls. A parameter takes the place of the initializer, graph input or node output of its name
    and has the physical shape of the file. What no parameter replaces is loaded from the model
    once, on first use, so only those tensors need bytes. The model is not changed and must not
    change afterwards.

    Attributes:
        input_names: Graph inputs that are not initializers, in order.
        output_names: Graph outputs, in the order of the returned tuple.
        statistics: With `record_statistics`, what BatchNormalization saw in the latest call:
            (mean, unbiased variance), both detached, by the names of its two statistics inputs.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        batch_statistics: bool = False,
        record_statistics: bool = False,
        tracked: Collection[str] = (),
        device: str | torch.device = "cpu",
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        """Prepare a model.

        Args:
            model: The model. Its local functions are inlined (in a copy).
            batch_statistics: Let BatchNormalization use the statistics of the batch in place of
                the running ones.
            record_statistics: Fill `statistics` at each call; implies `batch_statistics`.
            tracked: Names of running means, each given as a parameter together with its running
                variance. The BatchNormalization that takes it normalises with the statistics of
                the batch and moves the two in place by its momentum, as a torch module in train
                mode does.
            device: Where to compute. Inputs and parameters must be there.
            autocast: Element type of torch's mixed precision (bfloat16, float16), None for none.
            channels_last: Give inputs of rank 4 the channels-last memory format, which
                convolutions then keep.

        Raises:
            UnsupportedOperatorError: An operator is not known; names domain, operator, opset
                version and node.
        """
        self.statistics: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}
        self._options = RunOptions(
            batch_statistics=batch_statistics or record_statistics,
            recorded=self.statistics if record_statistics else None,
            tracked=frozenset(tracked),
        )
        self._device = torch.device(device)
        self._autocast = autocast
        self._channels_last = channels_last
        self._model = _flattened(model)
        graph = self._model.graph
        self.input_names = tuple(v.name or "" for v in graph.inputs if not v.is_initializer())
        self.output_names = tuple(value.name or "" for value in graph.outputs)
        self._programs: dict[tuple[str, ...], Program] = {}

    def compile(self, names: tuple[str, ...] = ()) -> Program:
        """The program for parameters of these names; compiled on first use.

        Raises:
            ModelError: A name is not in the model, or a tensor that is needed has no value.
        """
        program = self._programs.get(names)
        if program is None:
            graph = self._model.graph
            program = compile_graph(
                graph, self._model.opset_imports, names, self._options, self._device
            )
            self._programs[names] = program
        return program

    def __call__(
        self,
        inputs: torch.Tensor | Mapping[str, torch.Tensor],
        parameters: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Run the model.

        Args:
            inputs: The tensor of the only input, or tensors by input name.
            parameters: Tensors by the name of what they replace, in physical shape.

        Returns:
            The graph outputs, in order.

        Raises:
            ModelError: An input is missing or unknown, or an operator failed; names the node.
        """
        if parameters is None:
            parameters = _NOTHING
        program = self.compile(tuple(parameters))
        slots = program.template.copy()
        for slot, tensor in zip(program.given, parameters.values(), strict=True):
            slots[slot] = tensor
        self._bind(program, slots, inputs)
        if self._options.recorded is not None:
            self.statistics.clear()
        with self._mixed_precision():
            return program.run(slots)

    def _bind(
        self,
        program: Program,
        slots: list[torch.Tensor],
        inputs: torch.Tensor | Mapping[str, torch.Tensor],
    ) -> None:
        expected = program.inputs
        if isinstance(inputs, torch.Tensor):
            if len(expected) != 1:
                raise ModelError(f"the model takes {len(expected)} inputs {list(expected)}, got 1")
            inputs = {next(iter(expected)): inputs}
        elif inputs.keys() != expected.keys():
            raise ModelError(f"the model takes the inputs {list(expected)}, got {list(inputs)}")
        for name, tensor in inputs.items():
            if self._channels_last and tensor.dim() == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            slots[expected[name]] = tensor

    def _mixed_precision(self) -> AbstractContextManager[object]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast)


def _flattened(model: ir.Model) -> ir.Model:
    """The model itself, or a copy without functions and subgraph initializers."""
    nested = any(node.op_type in HOLDS_SUBGRAPHS for node in model.graph)
    if model.functions or nested:
        model = model.clone()
        if model.functions:
            common.InlinePass()(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)
    opsets = {canonical_domain(domain): v for domain, v in model.opset_imports.items()}
    for node in model.graph.all_nodes() if nested else model.graph:
        find(node, opsets.get(canonical_domain(node.domain), 0))
    return model

"""Compiles a graph to a flat program: a list of (function, input slots, output slot).

Everything that does not depend on the inputs or on the given parameters is computed once, here.
A value may live in up to three forms: on the device, as a host tensor (shape arithmetic), and as
Python numbers (what torch wants for shapes, axes and splits). The compiler converts between them
where an operator asks for another form, so that on an accelerator shape arithmetic never waits
for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

import onnx_ghn.run.operators
from onnx_ghn.errors import ModelError, OnnxGhnError
from onnx_ghn.run.ordering import HOLDS_SUBGRAPHS, captured_values, in_order
from onnx_ghn.run.program import Program, with_lifetimes
from onnx_ghn.run.registry import (
    Kernel,
    NodeView,
    Operator,
    Placement,
    RunOptions,
    canonical_domain,
    describe,
    find,
)
from onnx_ghn.run.tensors import to_torch

onnx_ghn.run.operators.register_all()

_LARGEST_NUMBERS = 64  # elements of a constant that builders may see as Python numbers


# The forms of a value; plain numbers, because compiling is part of a trainer's inner loop.
_DEVICE, _HOST, _PYTHON = range(3)


def compile_graph(
    graph: ir.Graph,
    opsets: Mapping[str, int],
    given: Sequence[str],
    options: RunOptions,
    device: torch.device,
    captured: Sequence[ir.Value] = (),
) -> Program:
    """Compile a graph.

    Args:
        graph: The graph.
        opsets: Opset version by domain.
        given: Names of the values that the caller gives at each call in place of what the file
            holds: initializers, or the output of any node, which then is not executed.
        options: What changes the meaning of operators.
        device: Where the tensors live.
        captured: Values of enclosing graphs that a subgraph reads, given after its inputs.

    Raises:
        UnsupportedOperatorError: A node's operator is not known.
        ModelError: A given name or a needed value is not in the graph.
    """
    return _Compiler(opsets, options, device).compile(graph, given, captured)


class _Compiler:
    def __init__(
        self, opsets: Mapping[str, int], options: RunOptions, device: torch.device
    ) -> None:
        self.opsets = {canonical_domain(domain): version for domain, version in opsets.items()}
        self.options = options
        self.device = device
        self.one_memory = device.type == "cpu"
        self.template: list[Any] = [None]  # slot 0 is the absent optional input
        self.plan: list[tuple[Kernel, tuple[int, ...], int]] = []
        # Where a value is, for each form. On the CPU, device and host form are the same.
        self.slots: list[dict[ir.Value | None, int]] = [{}, {}, {}]
        if self.one_memory:
            self.slots[_HOST] = self.slots[_DEVICE]
        self.initializers: dict[ir.Value, ir.TensorProtocol] = {}
        self.constants: dict[ir.Value, Any] = {}
        self.on_host: set[ir.Value] = set()
        self.nodes: dict[int, ir.Node] = {}

    def compile(
        self, graph: ir.Graph, given: Sequence[str], captured: Sequence[ir.Value]
    ) -> Program:
        """Compile `graph`; a compiler is used once."""
        given_slots = tuple(self.reserve(value) for value in _values_named(graph, given))
        for value in graph.initializers.values():
            if value.const_value is not None:
                self.initializers[value] = value.const_value
        inputs = {}
        for value in (*graph.inputs, *captured):
            if value not in self.slots[_DEVICE] and value not in self.initializers:
                inputs[value.name or ""] = self.reserve(value)
        nodes = in_order(graph)
        needed = self.needed_values(graph.outputs, nodes)
        for node in nodes:
            if not needed.isdisjoint(node.outputs):
                self.add(node, needed)
        outputs = tuple(self.slot(value, _DEVICE) for value in graph.outputs)
        steps = with_lifetimes(self.plan, (*outputs, *given_slots, *inputs.values()))
        return Program(self.template, steps, given_slots, inputs, outputs, self.nodes)

    def needed_values(
        self, outputs: Iterable[ir.Value], nodes: Sequence[ir.Node]
    ) -> set[ir.Value | None]:
        """Values on which the outputs depend and which are not given."""
        needed: set[ir.Value | None] = set(outputs)
        for node in reversed(nodes):
            wanted = False
            for value in node.outputs:
                if value in needed:
                    if value in self.slots[_DEVICE]:
                        needed.discard(value)
                    else:
                        wanted = True
            if wanted:
                needed.update(node.inputs)
                needed.update(captured_values(node))
        needed.discard(None)
        return needed

    def reserve(self, value: ir.Value, form: int = _DEVICE) -> int:
        """A new slot that holds `value` in `form`."""
        slot = len(self.template)
        self.template.append(None)
        self.slots[form][value] = slot
        return slot

    def constant(self, value: ir.Value | None) -> Any:
        """The host tensor of a value that never changes, else None."""
        if value is None:
            return None
        found = self.constants.get(value)
        if found is None and value not in self.slots[_DEVICE]:
            stored = self.initializers.get(value)
            if stored is not None:
                found = self.constants[value] = to_torch(stored, value.name or "")
        return found

    def is_constant(self, value: ir.Value) -> bool:
        """Whether the value never changes; does not load it."""
        return value in self.constants or (
            value in self.initializers and value not in self.slots[_DEVICE]
        )

    def slot(self, value: ir.Value | None, form: int) -> int:
        """The slot that holds `value` in `form`, after a conversion where one is needed."""
        found = self.slots[form].get(value)
        if found is not None:
            return found
        if value is None:
            return 0
        constant = self.constant(value)
        if constant is not None:
            slot = self.reserve(value, form)
            self.template[slot] = self.convert(constant, form)
            return slot
        if form == _PYTHON:
            source, kernel = self.slot(value, _HOST), _to_python
        else:
            other = _HOST if form == _DEVICE else _DEVICE
            stored = self.slots[other].get(value)
            if stored is None:
                raise ModelError(
                    f"value {value.name!r} is used but nothing gives it: no bytes in the file, "
                    "no parameter of that name, and no node before its use"
                )
            source, kernel = stored, self.mover(form)
        slot = self.reserve(value, form)
        self.plan.append((kernel, (source,), slot))
        return slot

    def convert(self, tensor: Any, form: int) -> Any:
        """A constant in another form."""
        if form == _PYTHON:
            return _to_python(tensor)
        if form == _DEVICE and isinstance(tensor, torch.Tensor):
            return tensor.to(self.device)
        return tensor

    def mover(self, form: int) -> Kernel:
        """The function that brings a tensor to the host or to the device."""
        device = torch.device("cpu") if form == _HOST else self.device
        return lambda x: x.to(device)

    def add(self, node: ir.Node, needed: set[ir.Value | None]) -> None:
        """Compile one node: fold it where it is constant, else append a step."""
        version = self.opsets.get(canonical_domain(node.domain))
        if version is None:
            raise ModelError(f"{describe(node)}: the model imports no opset of that domain")
        if node.op_type == "Identity" and canonical_domain(node.domain) == "":
            self.alias(node)
            return
        operator = find(node, version)
        captures = captured_values(node)
        operands: list[ir.Value | None] = [*node.inputs, *captures]
        view = NodeView(
            node, version, self.options, self.numbers_of(node), self.blocks(node, captures)
        )
        try:
            for i in operator.unused(view):
                operands[i] = None
            kernel = operator.build(view)
        except OnnxGhnError:
            raise
        except Exception as error:  # whatever its attributes led to, it is about this node
            raise ModelError(
                f"{describe(node)} can't be computed: {error}: are its attributes and inputs what "
                "the operator takes?"
            ) from error
        if operator.many and len(node.outputs) == 1:
            kernel = _first_of(kernel)
        if all(value is None or self.is_constant(value) for value in operands):
            self.fold(node, operator, kernel, operands, needed)
            return
        host = self.runs_on_host(operator, operands)
        place = _HOST if host else _DEVICE
        if operator.placement is Placement.METADATA:
            inputs = [self.anywhere(value) for value in operands]
        elif operator.python:
            inputs = [
                self.slot(value, _PYTHON if i in operator.python else place)
                for i, value in enumerate(operands)
            ]
        else:
            inputs = [self.slot(value, place) for value in operands]
        self.emit(node, kernel, tuple(inputs), host, needed)

    def numbers_of(self, node: ir.Node) -> Callable[[int], Any]:
        """The function by which a builder reads small constant inputs as Python numbers."""

        def numbers(index: int) -> Any:
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or not self.is_constant(value):
                return None
            tensor = self.constant(value)
            small = isinstance(tensor, torch.Tensor) and tensor.numel() <= _LARGEST_NUMBERS
            return tensor.tolist() if small else None

        return numbers

    def alias(self, node: ir.Node) -> None:
        """Let an Identity's output be its input."""
        source, output = node.inputs[0], node.outputs[0]
        if source is None:
            raise ModelError(f"{describe(node)}: its input is absent")
        constant = self.constant(source)
        if constant is not None:
            self.constants[output] = constant
            return
        form = _HOST if source in self.on_host else _DEVICE
        self.slots[form][output] = self.slot(source, form)
        if source in self.on_host:
            self.on_host.add(output)

    def runs_on_host(self, operator: Operator, operands: Sequence[ir.Value | None]) -> bool:
        """Whether the step runs in host memory, away from an accelerator."""
        if self.one_memory:
            return False
        if operator.placement is not Placement.DATA:
            return True
        return all(
            value is None
            or i in operator.python
            or value in self.on_host
            or self.is_constant(value)
            for i, value in enumerate(operands)
        )

    def anywhere(self, value: ir.Value | None) -> int:
        """The slot of a tensor, wherever it is already."""
        on_host = value is not None and value in self.on_host
        return self.slot(value, _HOST if on_host else _DEVICE)

    def fold(
        self,
        node: ir.Node,
        operator: Operator,
        kernel: Kernel,
        operands: Sequence[ir.Value | None],
        needed: set[ir.Value | None],
    ) -> None:
        """Execute a node whose inputs never change."""
        arguments = [
            _to_python(self.constant(value)) if i in operator.python else self.constant(value)
            for i, value in enumerate(operands)
        ]
        try:
            with torch.no_grad():
                result = kernel(*arguments)
        except OnnxGhnError:
            raise
        except Exception as error:  # whatever torch raises, it is about this node
            raise ModelError(f"{describe(node)} failed: {error}") from error
        results = (result,) if len(node.outputs) == 1 else result
        for value, tensor in zip(node.outputs, results, strict=False):
            if value in needed:
                self.constants[value] = tensor

    def emit(
        self,
        node: ir.Node,
        kernel: Kernel,
        inputs: tuple[int, ...],
        host: bool,
        needed: set[ir.Value | None],
    ) -> None:
        """Append the step of a node, and one for each further output that is used."""
        form = _HOST if host else _DEVICE
        wanted = [(i, value) for i, value in enumerate(node.outputs) if value in needed]
        if host:
            self.on_host.update(value for _, value in wanted)
        if len(node.outputs) == 1:
            slot = self.reserve(node.outputs[0], form)
            self.plan.append((kernel, inputs, slot))
        else:
            slot = len(self.template)
            self.template.append(None)
            self.plan.append((kernel, inputs, slot))
            for i, value in wanted:
                self.plan.append((_pick(i), (slot,), self.reserve(value, form)))
        self.nodes[slot] = node

    def blocks(self, node: ir.Node, captures: Sequence[ir.Value]) -> dict[str, Kernel]:
        """The subgraphs of a node as functions of their inputs, then the captured values."""
        blocks: dict[str, Kernel] = {}
        if node.op_type not in HOLDS_SUBGRAPHS:
            return blocks
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                program = compile_graph(
                    attribute.as_graph(), self.opsets, (), self.options, self.device, captures
                )
                blocks[attribute.name] = program.as_kernel()
        return blocks


def _values_named(graph: ir.Graph, names: Sequence[str]) -> list[ir.Value]:
    """The values of the given names.

    Raises:
        ModelError: There is none of that name.
    """
    found: dict[str, ir.Value] = dict(graph.initializers)
    found.update((value.name, value) for value in graph.inputs if value.name)
    if any(name not in found for name in names):
        for node in graph:
            values = (*node.inputs, *node.outputs)
            found.update((value.name, value) for value in values if value and value.name)
    for name in names:
        if name not in found:
            raise ModelError(f"the model has no tensor {name!r} to take a parameter's place")
    return [found[name] for name in names]


def _to_python(tensor: Any) -> Any:
    return tensor.tolist() if isinstance(tensor, torch.Tensor) else tensor


def _pick(index: int) -> Kernel:
    def pick(results: Any) -> Any:
        if isinstance(results, torch.Tensor):  # its row would be silently wrong
            raise TypeError("one tensor where several outputs are read")
        return results[index]

    return pick


def _first_of(kernel: Kernel) -> Kernel:
    return lambda *inputs: kernel(*inputs)[0]

"""Compiles a graph to a flat program: a list of (function, input slots, output slot).

Everything that does not depend on the inputs or on the given parameters is computed once, here.
A value may live in up to three forms: on the device, as a host tensor (shape arithmetic), and as
Python numbers (what torch wants for shapes, axes and splits). The compiler converts between them
where an operator asks for another form, so that on an accelerator shape arithmetic never waits
for the device.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
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


class _Form(enum.Enum):
    DEVICE = "device"
    HOST = "host"
    PYTHON = "python"

    __hash__ = object.__hash__  # enum's own, by name, is slow, and slots are looked up by form


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
        self.one_memory = device.type == "cpu"  # host and device form are the same
        self.template: list[Any] = [None]  # slot 0 is the absent optional input
        self.plan: list[tuple[Kernel, tuple[int, ...], int]] = []
        self.slots: dict[tuple[ir.Value | None, _Form], int] = {}
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
            if (value, _Form.DEVICE) not in self.slots and value not in self.initializers:
                inputs[value.name or ""] = self.reserve(value)
        nodes = in_order(graph)
        needed = self.needed_values(graph.outputs, nodes)
        for node in nodes:
            if any(value in needed for value in node.outputs):
                self.add(node, needed)
        outputs = tuple(self.slot(value, _Form.DEVICE) for value in graph.outputs)
        steps = with_lifetimes(self.plan, (*outputs, *given_slots, *inputs.values()))
        return Program(self.template, steps, given_slots, inputs, outputs, self.nodes)

    def needed_values(self, outputs: Iterable[ir.Value], nodes: Sequence[ir.Node]) -> set[ir.Value | None]:
        """Values on which the outputs depend and which are not given."""
        needed: set[ir.Value | None] = set(outputs)
        for node in reversed(nodes):
            wanted = False
            for value in node.outputs:
                if value in needed:
                    if (value, _Form.DEVICE) in self.slots:
                        needed.discard(value)
                    else:
                        wanted = True
            if wanted:
                needed.update(node.inputs)
                needed.update(captured_values(node))
        needed.discard(None)
        return needed

    def reserve(self, value: ir.Value, form: _Form = _Form.DEVICE) -> int:
        """A new slot that holds `value` in `form`."""
        slot = len(self.template)
        self.template.append(None)
        self.slots[value, form] = slot
        return slot

    def constant(self, value: ir.Value | None) -> Any:
        """The host tensor of a value that never changes, else None."""
        if value is None:
            return None
        found = self.constants.get(value)
        if found is None and (value, _Form.DEVICE) not in self.slots:
            stored = self.initializers.get(value)
            if stored is not None:
                found = self.constants[value] = to_torch(stored, value.name or "")
        return found

    def is_constant(self, value: ir.Value) -> bool:
        """Whether the value never changes; does not load it."""
        return value in self.constants or (
            value in self.initializers and (value, _Form.DEVICE) not in self.slots
        )

    def slot(self, value: ir.Value | None, form: _Form) -> int:
        """The slot that holds `value` in `form`, after a conversion where one is needed."""
        if form is _Form.HOST and self.one_memory:
            form = _Form.DEVICE
        found = self.slots.get((value, form))
        if found is not None:
            return found
        if value is None:
            return 0
        constant = self.constant(value)
        if constant is not None:
            slot = self.reserve(value, form)
            self.template[slot] = self.convert(constant, form)
            return slot
        if form is _Form.PYTHON:
            source, kernel = self.slot(value, _Form.HOST), _to_python
        else:
            other = _Form.HOST if form is _Form.DEVICE else _Form.DEVICE
            stored = self.slots.get((value, other))
            if stored is None:
                raise ModelError(
                    f"value {value.name!r} is used but nothing gives it: no bytes in the file, "
                    "no parameter of that name, and no node before its use"
                )
            source, kernel = stored, self.mover(form)
        slot = self.reserve(value, form)
        self.plan.append((kernel, (source,), slot))
        return slot

    def convert(self, tensor: Any, form: _Form) -> Any:
        """A constant in another form."""
        if form is _Form.PYTHON:
            return _to_python(tensor)
        if form is _Form.DEVICE and isinstance(tensor, torch.Tensor):
            return tensor.to(self.device)
        return tensor

    def mover(self, form: _Form) -> Kernel:
        """The function that brings a tensor to the host or to the device."""
        device = torch.device("cpu") if form is _Form.HOST else self.device
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
        kernel = operator.build(view)
        if operator.many and len(node.outputs) == 1:
            kernel = _first_of(kernel)
        if all(value is None or self.is_constant(value) for value in operands):
            self.fold(node, operator, kernel)
            return
        host = self.runs_on_host(operator, operands)
        place = _Form.HOST if host else _Form.DEVICE
        if operator.placement is Placement.METADATA:
            inputs = [self.anywhere(value) for value in operands]
        elif operator.python:
            inputs = [
                self.slot(value, _Form.PYTHON if i in operator.python else place)
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
        form = _Form.HOST if source in self.on_host else _Form.DEVICE
        self.slots[output, form] = self.slot(source, form)
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
            or value in self.constants
            for i, value in enumerate(operands)
        )

    def anywhere(self, value: ir.Value | None) -> int:
        """The slot of a tensor, wherever it is already."""
        on_host = value is not None and value in self.on_host
        return self.slot(value, _Form.HOST if on_host else _Form.DEVICE)

    def fold(self, node: ir.Node, operator: Operator, kernel: Kernel) -> None:
        """Execute a node whose inputs never change."""
        operands = [
            _to_python(self.constant(value))
            if i in operator.python and value is not None
            else self.constant(value)
            for i, value in enumerate((*node.inputs, *captured_values(node)))
        ]
        try:
            with torch.no_grad():
                result = kernel(*operands)
        except OnnxGhnError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ModelError(f"{describe(node)} failed: {error}") from error
        results = (result,) if len(node.outputs) == 1 else result
        for value, tensor in zip(node.outputs, results, strict=False):
            if value.name:
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
        form = _Form.HOST if host else _Form.DEVICE
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
                self.plan.append((itemgetter(i), (slot,), self.reserve(value, form)))
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
            found.update((value.name, value) for value in node.outputs if value.name)
    for name in names:
        if name not in found:
            raise ModelError(f"the model has no tensor {name!r} to take a parameter's place")
    return [found[name] for name in names]


def _to_python(tensor: Any) -> Any:
    return tensor.tolist() if isinstance(tensor, torch.Tensor) else tensor


def _first_of(kernel: Kernel) -> Kernel:
    return lambda *inputs: kernel(*inputs)[0]

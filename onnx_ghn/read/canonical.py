"""From ONNX nodes to the canonical graph: one walk along the data flow.

Each value carries its *sources*, the GHN nodes that feed it. A node that is a primitive of the
vocabulary takes the sources of its operands as predecessors and becomes the source of its
outputs; every other node is transparent and hands the sources on. What is a weight, a bias or a
norm is the reader's verdict on the tensors, not the operator's name.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.distances import shortest_paths
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op, Part, Slot
from onnx_ghn.read.ordering import canonical_order
from onnx_ghn.read.parameter import Parameter, Role
from onnx_ghn.read.primitives import (
    FUSED_ATTENTION,
    PRODUCTS,
    is_attention,
    is_gate,
    is_masked_score,
    pooling,
)

Sources = tuple[int, ...]
INPUT = 0

_NORM_ROLES = (Role.NORM_SCALE, Role.NORM_SHIFT)
_SUMS = frozenset({"Add", "Sum", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})


@dataclass
class _Node:
    """A node of the graph while it is built."""

    op: Op
    predecessors: list[int]
    name: str
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)
    attributes: dict[str, int] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)

    def label(self) -> tuple[int, ...]:
        """What the node is, without its place."""
        values = (self.attributes.get(name, 0) for name in ATTRIBUTES)
        parts = (sorted(Part).index(slot.part) for slot in self.slots)
        return (int(self.op), *self.shape, *values, *parts)


def build_graph(flow: DataFlow, parameters: Sequence[Parameter]) -> GhnGraph:
    """The GHN graph of a traced model.

    Args:
        flow: `trace(model)`.
        parameters: `judge(model, flow)`; slots refer to them by index.
    """
    builder = _Builder(flow, parameters)
    builder.walk()
    builder.mark_head()
    return builder.finish()


class _Builder:
    def __init__(self, flow: DataFlow, parameters: Sequence[Parameter]) -> None:
        self.flow = flow
        self.parameters = parameters
        self.nodes = [_Node(Op.INPUT, [], "")]
        self.sources: dict[ir.Value, Sources] = {}
        self.weights: dict[ir.Node, list[tuple[int, int]]] = defaultdict(list)
        self.first_site: dict[int, ir.Node] = {}
        for index, parameter in enumerate(parameters):
            if parameter.learnable:
                for site in parameter.sites:
                    self.first_site.setdefault(index, site.node)
                    self.weights[site.node].append((site.index, index))

    def walk(self) -> None:
        """Visit every node in data-flow order."""
        for node in self.flow.nodes:
            if not any(map(self.flow.is_signal, node.outputs)):
                continue
            sources = self._visit(node)
            for output in node.outputs:
                self.sources[output] = sources

    def _visit(self, node: ir.Node) -> Sources:
        operands = [self._of(value) for value in node.inputs if self.flow.is_signal(value)]
        sources = self._combine(node, operands)
        weights = sorted(self.weights.get(node, ()))
        for role in (Role.CONV, Role.LINEAR, Role.BIAS, *_NORM_ROLES, Role.POSITION):
            for _, index in weights:
                if self.parameters[index].role is role:
                    sources = self._weigh(node, index, sources)
        if node.op_type in FUSED_ATTENTION:
            sources = (self._add(Op.MSA, sources, node),)
        return sources

    def _of(self, value: ir.Value | None) -> Sources:
        """The sources of a value; the input's node for what comes from outside."""
        if value is None:
            return ()
        return self.sources.get(self.flow.resolve(value), self.sources.get(value, (INPUT,)))

    # -- nodes without weights ------------------------------------------------------------

    def _combine(self, node: ir.Node, operands: list[Sources]) -> Sources:
        """What a node does to the sources of its data operands, before its weights."""
        sources = _union(operands)
        op = node.op_type
        if op in _SUMS and len(sources) > 1:
            if is_masked_score(self.flow, node):
                return _without_input(sources)
            return (self._add(Op.SUM, sources, node),)
        if op == "Concat" and len(sources) > 1:
            return (self._add(Op.CONCAT, sources, node),)
        if op in PRODUCTS and len(operands) > 1:
            return self._weigh_values(operands, sources)
        sources = _without_input(sources)
        if is_gate(self.flow, node):
            return (self._add(Op.CSE, sources, node),)
        if is_attention(self.flow, node):
            return (self._add(Op.MSA, sources, node),)
        pool = pooling(self.flow, node)
        if pool is not None:
            return (self._add_pool(node, sources, *pool),)
        return sources

    def _weigh_values(self, operands: list[Sources], sources: Sources) -> Sources:
        """Attention times values: the values feed the attention, which alone feeds what follows."""
        for operand in operands:
            if len(operand) == 1 and self.nodes[operand[0]].op is Op.MSA:
                attention = self.nodes[operand[0]]
                for source in sources:
                    if source != operand[0] and source not in attention.predecessors:
                        attention.predecessors.append(source)
                return operand
        return _without_input(sources)

    def _add_pool(self, node: ir.Node, sources: Sources, op: Op, window: tuple[int, int]) -> int:
        strides = node.attributes.get_ints("strides", [1])
        index = self._add(op, sources, node, stride=int(max(strides)))
        if op is not Op.GLOB_AVG:
            self.nodes[index].shape = (1, 1, *window)
        return index

    # -- nodes with weights ---------------------------------------------------------------

    def _weigh(self, node: ir.Node, index: int, sources: Sources) -> Sources:
        """Add the node of a parameter that `node` uses."""
        role = self.parameters[index].role
        if role in (Role.CONV, Role.LINEAR):
            return (self._add_weight(node, index, sources),)
        if role is Role.BIAS:
            return (self._add_vector(Op.BIAS, node, index, Part.SHIFT, sources),)
        if role is Role.NORM_SCALE:
            op = Op.BN if self._is_batch_norm(node, sources) else Op.LN
            return (self._add_vector(op, node, index, Part.SCALE, sources),)
        if role is Role.NORM_SHIFT:
            self._attach_shift(node, index, sources)
            return sources
        return self._add_position(node, index, sources)

    def _add_weight(self, node: ir.Node, index: int, sources: Sources) -> int:
        parameter = self.parameters[index]
        out, inputs, *kernel = (*parameter.logical_shape, 1)[: max(2, len(parameter.logical_shape))]
        height, width = (*kernel, 1, 1)[:2]
        dilations = [int(d) for d in node.attributes.get_ints("dilations", [1])]
        op = Op.CONV
        if parameter.groups > 1:
            op = Op.DIL_CONV if min(dilations) > 1 else Op.SEP_CONV
        added = self._add(
            op,
            sources,
            node,
            groups=parameter.groups,
            stride=int(max(node.attributes.get_ints("strides", [1]))),
            dilation=max(dilations),
            in_channels=inputs * parameter.groups,
            out_channels=out,
            is_linear=int(parameter.role is Role.LINEAR),
        )
        self.nodes[added].shape = (out, inputs, height, width)
        self._slot(added, node, index, Part.WEIGHT)
        return added

    def _add_vector(self, op: Op, node: ir.Node, index: int, part: Part, sources: Sources) -> int:
        size = math.prod(self.parameters[index].logical_shape)
        added = self._add(op, sources, node, out_channels=size)
        self.nodes[added].shape = (size, 1, 1, 1)
        self._slot(added, node, index, part)
        return added

    def _is_batch_norm(self, node: ir.Node, sources: Sources) -> bool:
        """BatchNormalization itself, or the scale that some exporters put after it."""
        if node.op_type == "BatchNormalization":
            return True
        return node.op_type == "Mul" and len(sources) == 1 and self.nodes[sources[0]].op is Op.BN

    def _attach_shift(self, node: ir.Node, index: int, sources: Sources) -> None:
        """The shift of a norm is predicted from the node of its scale."""
        if len(sources) != 1:
            return
        norm = self.nodes[sources[0]]
        taken = any(slot.part is Part.SHIFT for slot in norm.slots)
        if norm.op in (Op.BN, Op.LN) and not taken:
            self._slot(sources[0], node, index, Part.SHIFT)

    def _add_position(self, node: ir.Node, index: int, sources: Sources) -> Sources:
        """A position table joins the stream: pos_enc, without predecessors, and a sum."""
        shape = self.parameters[index].logical_shape
        if len(shape) < 2:
            return sources
        side = math.isqrt(math.prod(shape[:-1]))
        position = self._add(Op.POS_ENC, (), node)
        self.nodes[position].shape = (1, shape[-1], side, side)
        self._slot(position, node, index, Part.WEIGHT)
        if node.op_type not in ("Add", "Sum"):
            return (position,)
        return (self._add(Op.SUM, (*sources, position), node),)

    def _slot(self, added: int, node: ir.Node, index: int, part: Part) -> None:
        """Predict a parameter from a node: where it is used first, if it is used more than once."""
        if self.first_site[index] is node:
            self.nodes[added].slots.append(Slot(index, part))

    def _add(self, op: Op, sources: Iterable[int], node: ir.Node, **attributes: int) -> int:
        attributes.setdefault("output_side", self._side(node.outputs[0]))
        name = node.name or node.outputs[0].name or ""
        self.nodes.append(_Node(op, list(sources), name, attributes=attributes))
        return len(self.nodes) - 1

    def _side(self, value: ir.Value) -> int:
        """Side of an NCHW map in pixels, 0 where it is unknown or there is none."""
        shape = self.flow.shape(value) or (tuple(value.shape) if value.shape is not None else ())
        side = shape[-1] if len(shape) == 4 else 0
        return side if isinstance(side, int) and side > 0 else 0

    # -- the whole graph ------------------------------------------------------------------

    def mark_head(self) -> None:
        """Find the classifier: the last weight before the first output, and its bias."""
        outputs = self.flow.model.graph.outputs
        sources = self._of(outputs[0]) if outputs else ()
        if len(sources) != 1:
            return
        last = sources[0]
        pool = last if self.nodes[last].op is Op.GLOB_AVG else None
        if pool is not None and len(self.nodes[pool].predecessors) == 1:
            last = self.nodes[pool].predecessors[0]
        bias = last if self.nodes[last].op is Op.BIAS else None
        weight = self.nodes[last].predecessors[0] if bias is not None else last
        if self.nodes[weight].op is not Op.CONV or self.nodes[weight].shape[2:] != (1, 1):
            return
        for index in (weight, bias):
            if index is not None:
                self.nodes[index].attributes["is_head"] = 1
        if pool is not None:
            # a convolution may classify before the pool: to a GHN the classifier comes last
            self.nodes[pool].predecessors = self.nodes[weight].predecessors
            self.nodes[weight].predecessors = [pool]

    def finish(self) -> GhnGraph:
        """Drop what the vocabulary has no place for, sort, and measure distances."""
        order = self._topological(self._drop_squeezes())
        nodes = [self.nodes[index] for index in order]
        place = {index: position for position, index in enumerate(order)}
        before = [[place[p] for p in node.predecessors] for node in nodes]
        ranks = canonical_order([node.label() for node in nodes], before)
        ranks.remove(INPUT)
        ranks.insert(0, INPUT)
        moved = {old: new for new, old in enumerate(ranks)}
        nodes = [nodes[old] for old in ranks]
        predecessors = [sorted(moved[p] for p in before[old]) for old in ranks]
        return GhnGraph(
            op=np.array([node.op for node in nodes], np.int64),
            shape=np.array([node.shape for node in nodes], np.int64),
            attributes=np.array(
                [[node.attributes.get(name, 0) for name in ATTRIBUTES] for node in nodes], np.int64
            ),
            distance=shortest_paths(predecessors),
            slots=tuple(tuple(node.slots) for node in nodes),
            nodes=tuple(node.name for node in nodes),
        )

    def _drop_squeezes(self) -> set[int]:
        """Remove global pools inside gates: a squeeze is part of its cse."""
        before_gate: set[int] = set()
        for index in reversed(range(len(self.nodes))):
            node = self.nodes[index]
            if node.op is Op.CSE or index in before_gate:
                before_gate.update(node.predecessors)
        dropped = {
            index
            for index in before_gate
            if self.nodes[index].op is Op.GLOB_AVG and self._feeds_gate(index)
        }
        for node in self.nodes:
            if dropped & set(node.predecessors):
                node.predecessors = list(
                    _union(
                        self.nodes[p].predecessors if p in dropped else (p,)
                        for p in node.predecessors
                    )
                )
        return dropped

    def _feeds_gate(self, pool: int) -> bool:
        """Whether all paths from a pool lead through a cse soon: weights and biases only between."""
        frontier, seen = [pool], {pool}
        while frontier:
            current = frontier.pop()
            for index, node in enumerate(self.nodes):
                if current in node.predecessors and index not in seen:
                    if node.op is Op.CSE:
                        return True
                    if node.op in (Op.CONV, Op.BIAS, Op.BN, Op.LN, Op.SEP_CONV):
                        seen.add(index)
                        frontier.append(index)
        return False

    def _topological(self, dropped: set[int]) -> list[int]:
        """Indices in topological order; only a moved pool, or values of attention, are not so yet."""
        waiting = {i: len(n.predecessors) for i, n in enumerate(self.nodes) if i not in dropped}
        successors: dict[int, list[int]] = defaultdict(list)
        for index in waiting:
            for predecessor in self.nodes[index].predecessors:
                successors[predecessor].append(index)
        order = [index for index, count in waiting.items() if count == 0]
        for index in order:
            for successor in successors[index]:
                waiting[successor] -= 1
                if waiting[successor] == 0:
                    order.append(successor)
        return order


def _union(groups: Iterable[Iterable[int]]) -> Sources:
    """Distinct sources in order of appearance."""
    return tuple(dict.fromkeys(source for group in groups for source in group))


def _without_input(sources: Sources) -> Sources:
    """Drop the input where something else feeds the value too: a mask is no edge of the network."""
    rest = tuple(source for source in sources if source != INPUT)
    return rest or sources

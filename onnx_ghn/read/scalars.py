"""Float initializers of one element: nearly all are constants, a few are learned.

Learned ones are found by an exporter's mark, by an exponential (logit scale), as the only bias
of a layer with one output, or as a pair, scale and shift in initializers of rank one (a learnable
affine block: constants of that kind are Constant nodes or of rank zero).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnx_ghn.read import elementwise
from onnx_ghn.read.constants import has_value
from onnx_ghn.read.context import ahead, behind, linear_before, other_operand
from onnx_ghn.read.dataflow import FLOATS, DataFlow
from onnx_ghn.read.finding import Finding, keep
from onnx_ghn.read.given import GivenRole, as_given
from onnx_ghn.read.layout import Layout, Reshape
from onnx_ghn.read.marks import Mark, mark_of
from onnx_ghn.read.parameter import Holder, Parameter, Role, Site


def unlisted(flow: DataFlow, listed: set[str]) -> Iterator[ir.Value]:
    """The float initializers that are not among the roots: those of one element."""
    for graph in flow.model.graphs():
        for value in graph.initializers.values():
            if value.dtype in FLOATS and (flow.original(value).name or "") not in listed:
                yield value


def scalar(flow: DataFlow, value: ir.Value, given: Mapping[str, GivenRole]) -> Parameter:
    """The verdict on an initializer of one element outside a weight slot."""
    original = flow.original(value)
    sites = tuple(flow.uses(value))
    found = _judge(flow, value, sites)
    role = given.get(original.name or "")
    if role is not None:
        found = as_given(role, found, None)
    shape = flow.shape(value) or ()
    layout = Layout() if shape == (1,) else Layout((Reshape((1,), shape),))
    return Parameter(
        name=original.name or "",
        value=original,
        holder=Holder.INITIALIZER,
        shape=shape,
        dtype=value.dtype or ir.DataType.FLOAT,
        role=found.role,
        learnable=found.learnable,
        reason=found.reason,
        logical_shape=(1,),
        layout=layout,
        neutral=found.neutral,
        tie=original.name or "",
        has_value=has_value(value),
        sites=sites,
    )


def _judge(flow: DataFlow, value: ir.Value, sites: tuple[Site, ...]) -> Finding:
    mark = mark_of(value)
    if mark is Mark.BUFFER:
        return keep("the exporter marks it as a buffer")
    if mark is Mark.PARAMETER:
        shift = any(site.node.op_type in ("Add", "Sub") for site in sites)
        role, neutral = (Role.BIAS, 0.0) if shift else (Role.LOGIT_SCALE, 1.0)
        return Finding(role, True, "the exporter marks it as a parameter", neutral=neutral)
    if len(sites) != 1:
        return keep("one number, used in several places" if sites else "not used by any node")
    return _judge_site(flow, value, sites[0])


def _judge_site(flow: DataFlow, value: ir.Value, site: Site) -> Finding:
    node = site.node
    if node.op_type == "Exp" and _scales_data(flow, node):
        return Finding(Role.LOGIT_SCALE, True, "its exponential scales data")
    shape = flow.shape(value) or ()
    data = other_operand(node, site.index) if len(node.inputs) == 2 else None
    if data is None or not flow.is_data(data) or not shape:
        return keep("one number outside a weight slot")
    if node.op_type == "Add" and _is_single_output(flow, data):
        return Finding(Role.BIAS, True, "added to the only output of a layer")
    if node.op_type in ("Mul", "Add") and _is_affine_pair(flow, value, node, data):
        if node.op_type == "Mul":
            return Finding(Role.LAYER_SCALE, True, "scale of a learnable affine block", neutral=1.0)
        return Finding(Role.BIAS, True, "shift of a learnable affine block")
    if node.op_type == "Mul" and _is_branch_gate(flow, value, node, data):
        return Finding(Role.LAYER_SCALE, True, "scales a residual branch", neutral=1.0)
    return keep("one number outside a weight slot")


def _scales_data(flow: DataFlow, node: ir.Node) -> bool:
    """Whether the result, perhaps limited, only multiplies or divides."""
    after = ahead(flow, node.outputs[0])
    if len(after) == 1 and after[0].op_type in ("Clip", "Min"):
        after = ahead(flow, after[0].outputs[0])
    return all(n.op_type in ("Mul", "Div") for n in after)


def _is_branch_gate(flow: DataFlow, value: ir.Value, node: ir.Node, data: ir.Value) -> bool:
    """Whether one number scales a branch before it joins the stream (ReZero, SkipInit).

    Only in a file of PyTorch's first exporter, where constants of one element are Constant nodes
    or of rank zero, and a parameter of one element is an initializer of shape (1,).
    """
    if flow.model.producer_name != "pytorch" or not _is_lone_initializer(flow, value):
        return False
    after = ahead(flow, node.outputs[0])
    return (
        len(after) == 1
        and after[0].op_type == "Add"
        and all(map(flow.is_data, after[0].inputs))
        and not elementwise.from_input(flow, data)
    )


def _is_single_output(flow: DataFlow, data: ir.Value) -> bool:
    linear = linear_before(flow, data)
    if linear is None or linear.op_type not in ("MatMul", "Gemm"):
        return False
    weight = flow.shape(linear.inputs[1])
    turned = linear.op_type == "Gemm" and linear.attributes.get_int("transB", 0) != 0
    return weight is not None and len(weight) == 2 and weight[0 if turned else 1] == 1


def _is_affine_pair(flow: DataFlow, value: ir.Value, node: ir.Node, data: ir.Value) -> bool:
    """Mul by one number and Add of another, both initializers of rank one, away from the input."""
    if node.op_type == "Mul":
        after = ahead(flow, node.outputs[0])
        if len(after) != 1 or after[0].op_type != "Add":
            return False
        partner = next((v for v in after[0].inputs if _is_lone_initializer(flow, v)), None)
        return partner is not None and not elementwise.from_input(flow, data)
    scale = behind(flow, data)
    if scale is None or scale.op_type != "Mul":
        return False
    partner = next((v for v in scale.inputs if _is_lone_initializer(flow, v)), None)
    return partner is not None and not elementwise.from_input(flow, data)


def _is_lone_initializer(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether a value is an initializer of shape (1,) with one use."""
    if value is None or not value.is_initializer() or flow.shape(value) != (1,):
        return False
    return len(flow.uses(value)) == 1

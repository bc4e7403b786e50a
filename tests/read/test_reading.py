"""Whole models: real architectures, independence of names and order, warnings."""

import random
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_ghn.read import reading as reading_module
from onnx_ghn.read.graph import ATTRIBUTES, Op
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.reading import read_model

LIGHT = {
    "light_resnet50": {"CONV": 54, "BN": 53, "SUM": 16, "MAX_POOL": 1, "GLOB_AVG": 1, "BIAS": 1},
    "light_squeezenet": {"CONV": 26, "BIAS": 26, "CONCAT": 8, "MAX_POOL": 3, "GLOB_AVG": 1},
    "light_densenet121": {
        **{"CONV": 121, "BN": 121, "CONCAT": 58, "AVG_POOL": 3},
        **{"MAX_POOL": 1, "GLOB_AVG": 1, "BIAS": 1},
    },
    "light_inception_v1": {"CONV": 58, "BIAS": 58, "MAX_POOL": 13, "CONCAT": 9, "GLOB_AVG": 1},
    "light_inception_v2": {
        **{"CONV": 70, "BN": 69, "CONCAT": 10, "AVG_POOL": 7},
        **{"MAX_POOL": 5, "GLOB_AVG": 1, "BIAS": 1},
    },
    "light_shufflenet": {
        **{"CONV": 2, "SEP_CONV": 48, "BN": 49, "SUM": 13, "CONCAT": 3, "AVG_POOL": 3},
        **{"MAX_POOL": 1, "GLOB_AVG": 1, "BIAS": 2},
    },
    "light_vgg19": {"CONV": 19, "BIAS": 19, "MAX_POOL": 5},
    "light_bvlc_alexnet": {"CONV": 5, "SEP_CONV": 3, "BIAS": 8, "MAX_POOL": 3},
    "light_zfnet512": {"CONV": 8, "BIAS": 8, "MAX_POOL": 3},
}


def ops(graph):
    return dict(Counter(Op(op).name for op in graph.op))


def assert_same(one, other):
    for name in ("op", "shape", "attributes", "distance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert [[slot.part for slot in slots] for slots in one.slots] == [
        [slot.part for slot in slots] for slots in other.slots
    ]


@pytest.mark.parametrize("name", LIGHT)
def test_real_architectures(light, name):
    read = read_model(ir.from_proto(onnx.load(light / f"{name}.onnx")))
    assert ops(read.graph) == {"INPUT": 1, **LIGHT[name]}
    assert read.graph.op[0] == Op.INPUT
    head = read.graph.attributes[:, ATTRIBUTES.index("is_head")]
    assert head.sum() == 2
    assert read.graph.shape[head.argmax(), 0] in (512, 1000)
    assert not np.tril(read.graph.distance).any()
    assert read.warnings == ()


def renamed(proto):
    """The same model with other names of nodes and values."""
    names = {}

    def fresh(name):
        return name and names.setdefault(name, f"v{len(names)}")

    for node in proto.graph.node:
        node.name = fresh(f"node {node.name} {node.output[0]}")
        node.input[:] = [fresh(name) for name in node.input]
        node.output[:] = [fresh(name) for name in node.output]
    graph = proto.graph
    for value in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        value.name = fresh(value.name)
    return proto


def shuffled(proto, seed):
    """The same model with its nodes in another topological order."""
    generator = random.Random(seed)
    left = list(proto.graph.node)
    made = {name for node in left for name in node.output}
    order = []
    while left:
        ready = [node for node in left if not made.intersection(node.input)]
        chosen = generator.choice(ready)
        order.append(chosen)
        left.remove(chosen)
        made.difference_update(chosen.output)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    return proto


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet", "light_inception_v1"])
def test_names_and_the_order_of_nodes_do_not_matter(light, name):
    path = light / f"{name}.onnx"
    graph = read_model(ir.from_proto(onnx.load(path))).graph
    assert_same(graph, read_model(ir.from_proto(renamed(onnx.load(path)))).graph)
    for seed in range(2):
        assert_same(graph, read_model(ir.from_proto(shuffled(onnx.load(path), seed))).graph)


def test_a_graph_that_is_too_large_is_none(light, monkeypatch):
    monkeypatch.setattr(reading_module, "MAX_NODES", 64)
    read = read_model(ir.from_proto(onnx.load(light / "light_squeezenet.onnx")))
    assert read.graph is None
    assert read.graph_reason == "graph too large: 65 nodes, at most 64"
    assert len(read.parameters) == 52


def test_declared_shapes_change_no_more_than_sides(light):
    proto = onnx.load(light / "light_shufflenet.onnx")
    bare = read_model(ir.from_proto(proto)).graph
    rich = read_model(ir.from_proto(onnx.shape_inference.infer_shapes(proto))).graph
    side = ATTRIBUTES.index("output_side")
    np.testing.assert_array_equal(bare.distance, rich.distance)
    np.testing.assert_array_equal(
        np.delete(bare.attributes, side, 1), np.delete(rich.attributes, side, 1)
    )
    known = bare.attributes[:, side] > 0
    np.testing.assert_array_equal(bare.attributes[known, side], rich.attributes[known, side])


def folded(blocks, residual):
    lines, value = [], "x"
    declared = ", ".join(f"float[4,4,1,1] w{k}, float[4] b{k}" for k in range(blocks))
    for k in range(blocks):
        lines.append(f"p{k} = Conv({value}, w{k}, b{k})")
        value = f"p{k}"
        if residual and k:
            lines.append(f"s{k} = Add(p{k}, p{k - 1})")
            value = f"s{k}"
    body = "\n".join(lines)
    return f"g (float[1,4,8,8] x) => (float[1,4,8,8] y) <{declared}> {{{body}\ny = Relu({value})}}"


@pytest.mark.parametrize(
    ("blocks", "residual", "warns"), [(9, True, True), (9, False, False), (4, True, False)]
)
def test_a_folded_batch_norm_is_suspected(parse, blocks, residual, warns):
    read = read_model(parse(folded(blocks, residual)))
    assert any("folded BatchNorm" in warning for warning in read.warnings) is warns


def test_one_scale_in_several_norms_is_reported(parse):
    read = read_model(
        parse("""g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4] s, float[4] t> {
            a = LayerNormalization(x, s, t)
            b = MatMul(a, w)
            y = LayerNormalization(b, s, t)
        }""")
    )
    assert len(read.warnings) == 1
    assert "'s'" in read.warnings[0]


def test_a_long_chain_without_declared_shapes_is_followed():
    chain = " ".join(f"v{i + 1} = Relu (v{i})" for i in range(1500))
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]>'
        f"g (float[2, 4] v0) => (float[2, 4] y) <float[4, 4] w = {{{', '.join(['1'] * 16)}}}>"
        f"{{ {chain} y = MatMul (v1500, w) }}"
    )
    reading = read_model(model)
    assert [str(parameter.role) for parameter in reading.parameters] == ["linear"]


def test_scales_after_a_norm_that_a_constant_of_shape_gives_are_parameters():
    model = ir.from_onnx_text(
        """
        <ir_version: 8, opset_import: ["" : 9]>
        g (float[1, 4, 8, 8] x, float[4] s, float[4] b, float[4] m, float[4] v)
          => (float[1, 4, 8, 8] y) <int64[1] shape = {4}>
        {
          n = BatchNormalization (x, s, b, m, v)
          scale = ConstantOfShape (shape)
          scale3 = Unsqueeze <axes = [1, 2]> (scale)
          shift = ConstantOfShape (shape)
          shift3 = Unsqueeze <axes = [1, 2]> (shift)
          scaled = Mul (n, scale3)
          y = Add (scaled, shift3)
        }
        """
    )
    found = {parameter.name: parameter for parameter in read_model(model).parameters}
    assert (found["scale"].role, found["scale"].learnable) == (Role.NORM_SCALE, True)
    assert (found["shift"].role, found["shift"].learnable) == (Role.NORM_SHIFT, True)

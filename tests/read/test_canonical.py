"""Small graphs: which nodes and edges they give."""

import numpy as np
import pytest

from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.graph import ATTRIBUTES, Op, Part
from onnx_ghn.read.reading import build_graph, read_model
from onnx_ghn.read.verdict import judge


@pytest.fixture
def graph_of(parse):
    def build(text):
        model = parse(text)
        flow = trace(model)
        parameters = judge(model, flow)
        return parameters, build_graph(flow, parameters)

    return build


def ops(graph):
    return [Op(op).name for op in graph.op]


def edges(graph):
    return {
        (Op(graph.op[i]).name, Op(graph.op[j]).name) for i, j in np.argwhere(graph.distance == 1)
    }


def column(graph, name):
    return graph.attributes[:, ATTRIBUTES.index(name)].tolist()


def predicted(parameters, graph, op):
    return {
        (parameters[slot.parameter].name, slot.part)
        for slots, node in zip(graph.slots, graph.op, strict=True)
        for slot in slots
        if node == op
    }


def test_convolutions_by_groups_and_dilation(graph_of):
    _, graph = graph_of("""g (float[1,3,16,16] x) => (float[1,8,16,16] y)
        <float[8,3,3,3] a, float[8,1,3,3] b, float[8,4,3,3] c, float[8,8,3,3] d> {
        p = Conv<pads=[1,1,1,1]>(x, a)
        q = Conv<group=8, pads=[1,1,1,1]>(p, b)
        r = Conv<group=2, dilations=[2,2], pads=[2,2,2,2]>(q, c)
        y = Conv<dilations=[2,2], pads=[2,2,2,2]>(r, d)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "SEP_CONV", "DIL_CONV", "CONV"]
    assert graph.shape[1:].tolist() == [[8, 3, 3, 3], [8, 1, 3, 3], [8, 4, 3, 3], [8, 8, 3, 3]]
    assert column(graph, "groups") == [0, 1, 8, 2, 1]
    assert column(graph, "dilation") == [0, 1, 1, 2, 2]
    assert column(graph, "in_channels") == [0, 3, 8, 8, 8]
    assert column(graph, "output_side") == [16, 16, 16, 16, 16]


def test_residual_block(graph_of):
    parameters, graph = graph_of("""g (float[1,3,8,8] x) => (float[1,5] y)
        <float[4,3,3,3] a, float[4,4,3,3] b, float[4] s, float[4] t, float[4] m, float[4] v,
         float[5,4] w, float[5] c> {
        p = Conv<pads=[1,1,1,1]>(x, a)
        q = Conv<pads=[1,1,1,1]>(p, b)
        n = BatchNormalization(q, s, t, m, v)
        r = Add(n, p)
        u = Relu(r)
        k = GlobalAveragePool(u)
        f = Flatten(k)
        y = Gemm<transB=1>(f, w, c)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "CONV", "BN", "SUM", "GLOB_AVG", "CONV", "BIAS"]
    assert column(graph, "is_head") == [0, 0, 0, 0, 0, 0, 1, 1]
    assert column(graph, "is_linear") == [0, 0, 0, 0, 0, 0, 1, 0]
    assert predicted(parameters, graph, Op.BN) == {("s", Part.SCALE), ("t", Part.SHIFT)}
    assert graph.distance[1, 4] == 1
    assert graph.distance[0, 7] == 5


def test_a_classifier_without_bias_is_the_head_and_hangs_on_its_data(graph_of):
    _, graph = graph_of("""g (float[1,3,8,8] x) => (float[1,5] y)
        <float[4,3,3,3] a, float[4,5] w> {
        p = Conv(x, a)
        k = ReduceMean<axes=[2,3], keepdims=0>(p)
        l = MatMul(k, w)
        y = Softmax(l)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "GLOB_AVG", "CONV"]
    assert column(graph, "is_head") == [0, 0, 0, 1]
    assert edges(graph) == {("INPUT", "CONV"), ("CONV", "GLOB_AVG"), ("GLOB_AVG", "CONV")}
    assert graph.shape[3].tolist() == [5, 4, 1, 1]


def test_a_convolution_that_classifies_before_the_pool_comes_after_it(graph_of):
    _, graph = graph_of("""g (float[1,3,8,8] x) => (float[1,5] y)
        <float[4,3,3,3] a, float[5,4,1,1] w, float[5] c> {
        p = Conv(x, a)
        r = Relu(p)
        l = Conv(r, w, c)
        k = GlobalAveragePool(l)
        y = Flatten(k)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "GLOB_AVG", "CONV", "BIAS"]
    assert column(graph, "is_head") == [0, 0, 0, 1, 1]


def test_squeeze_and_excitation_is_one_cse_without_its_pool(graph_of):
    _, graph = graph_of("""g (float[1,4,8,8] x) => (float[1,4,8,8] y)
        <float[4,4,3,3] a, float[2,4,1,1] d, float[2] e, float[4,2,1,1] f, float[4] h> {
        p = Conv<pads=[1,1,1,1]>(x, a)
        k = GlobalAveragePool(p)
        q = Conv(k, d, e)
        r = Relu(q)
        s = Conv(r, f, h)
        t = Sigmoid(s)
        y = Mul(p, t)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "CONV", "BIAS", "CONV", "BIAS", "CSE"]
    assert edges(graph) >= {("BIAS", "CSE"), ("CONV", "CSE")}
    assert graph.distance[1, 6] == 1


@pytest.mark.parametrize("gate", ["Sigmoid(p)", "HardSigmoid(p)"])
def test_activations_are_transparent(graph_of, gate):
    _, graph = graph_of(f"""g (float[1,4,8,8] x) => (float[1,4,8,8] y)
        <float[4,4,1,1] a> {{
        p = Conv(x, a)
        s = {gate}
        y = Mul(p, s)
    }}""")
    assert ops(graph) == ["INPUT", "CONV"]


ATTENTION = """g (float[1,6,8] x) => (float[1,6,8] y)
    <float[8,8] q, float[8,8] k, float[8,8] v, float[8,8] o, float[1,6,8] table> {{
    e = Add(x, table)
    a = MatMul(e, q)
    b = MatMul(e, k)
    c = MatMul(e, v)
    {}
    z = MatMul(h, o)
    y = Add(z, e)
}}"""


@pytest.mark.parametrize(
    "core",
    [
        """t = Transpose<perm=[0,2,1]>(b)
        s = MatMul(a, t)
        w = Softmax(s)
        h = MatMul(w, c)""",
        "h = com.microsoft.MultiHeadAttention<num_heads=2>(a, b, c)",
    ],
)
def test_attention_takes_queries_keys_and_values(graph_of, core):
    parameters, graph = graph_of(ATTENTION.format(core))
    found = ops(graph)
    assert found.count("MSA") == 1
    assert found.count("CONV") == 4
    assert found.count("SUM") == 2
    assert found.count("POS_ENC") == 1
    msa = found.index("MSA")
    assert (graph.distance[:, msa] == 1).sum() == 3
    assert (graph.distance[msa] == 1).sum() == 1
    assert graph.shape[found.index("POS_ENC")].tolist() == [1, 8, 2, 2]
    assert predicted(parameters, graph, Op.POS_ENC) == {("table", Part.WEIGHT)}
    assert found[0] == "INPUT"


def test_values_that_depend_on_the_attention_make_no_cycle(graph_of):
    _, graph = graph_of("""g (float[1,6,8] x) => (float[1,6,8] y)
        <float[8,8] q, float[8,8] k, float[8,8] v> {
        a = MatMul(x, q)
        b = MatMul(x, k)
        t = Transpose<perm=[0,2,1]>(b)
        s = MatMul(a, t)
        w = Softmax(s)
        c = MatMul(w, x)
        d = MatMul(c, v)
        y = MatMul(w, d)
    }""")
    assert ops(graph).count("MSA") == 1
    assert len(graph) == 5


def test_sum_and_concat_need_two_distinct_sources(graph_of):
    _, graph = graph_of("""g (float[1,4,8,8] x) => (float[1,12,8,8] y)
        <float[4,4,1,1] a, float[4,4,1,1] b> {
        p = Conv(x, a)
        q = Conv(p, b)
        d = Add(p, p)
        s = Sum(d, q, p)
        u = Concat<axis=1>(s, s)
        y = Concat<axis=1>(u, q)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "CONV", "SUM", "CONCAT"]


def test_a_second_scale_after_a_norm_has_no_node(graph_of):
    parameters, graph = graph_of("""g (float[1,4,8,8] x) => (float[1,4,8,8] y)
        <float[4,4,1,1] a, float[4] s, float[4] t, float[4] m, float[4] v,
         float[4,1,1] c, float[4,1,1] d> {
        p = Conv(x, a)
        n = BatchNormalization(p, s, t, m, v)
        q = Mul(n, c)
        y = Add(q, d)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "BN"]
    assert predicted(parameters, graph, Op.BN) == {("s", Part.SCALE), ("t", Part.SHIFT)}


def test_group_norm_from_its_parts_is_a_norm_of_layers(graph_of):
    parameters, graph = graph_of("""g (float[1,4,8,8] x) => (float[1,4,8,8] y)
        <float[4,4,1,1] a, float[2] one, float[2] zero, float[4,1,1] s, float[4,1,1] t,
         int64[3] groups = {0, 2, -1}, int64[4] whole = {1, 4, 8, 8}> {
        p = Conv(x, a)
        r = Reshape(p, groups)
        n = InstanceNormalization(r, one, zero)
        u = Reshape(n, whole)
        q = Mul(u, s)
        y = Add(q, t)
    }""")
    assert "BN" not in ops(graph)
    assert ("s", Part.SCALE) in predicted(parameters, graph, Op.LN)
    assert ("t", Part.SHIFT) in predicted(parameters, graph, Op.LN)


@pytest.mark.parametrize("mean", ["GlobalAveragePool", "ReduceMean<axes=[2]>"])
def test_layer_norm_as_tensorflow_writes_it(graph_of, mean):
    parameters, graph = graph_of(f"""g (float[1,6,8] x) => (float[1,6,8] y)
        <float[8,8] w, float[8] gamma, float[8] beta, float[8,8] u, float e = {{0.001}}> {{
        p = MatMul(x, w)
        m = {mean}(p)
        minus = Neg(m)
        d = Sub(p, m)
        q = Mul(d, d)
        v = {mean}(q)
        ve = Add(v, e)
        s = Sqrt(ve)
        r = Reciprocal(s)
        k = Mul(r, gamma)
        a = Mul(p, k)
        b = Mul(minus, k)
        c = Add(b, beta)
        n = Add(a, c)
        y = MatMul(n, u)
    }}""")
    assert ops(graph) == ["INPUT", "CONV", "LN", "CONV"]
    assert predicted(parameters, graph, Op.LN) == {("gamma", Part.SCALE), ("beta", Part.SHIFT)}
    assert (graph.distance == 1).sum() == 3


def test_talking_heads_are_attention(graph_of):
    _, graph = graph_of("""g (float[1,6,8] x) => (float[1,6,8] y)
        <float[8,8] q, float[8,8] k, float[8,8] v, float[6,6] mix> {
        a = MatMul(x, q)
        b = MatMul(x, k)
        c = MatMul(x, v)
        t = Transpose<perm=[0,2,1]>(b)
        s = MatMul(a, t)
        w = Softmax(s)
        h = MatMul(w, mix)
        y = MatMul(h, c)
    }""")
    assert ops(graph).count("MSA") == 1
    assert ("MSA", "CONV") in edges(graph)


def test_branches_hand_their_sources_on(graph_of):
    _, graph = graph_of("""g (float[1,4,8,8] x, bool flag) => (float[1,4,8,8] y)
        <float[4,4,1,1] a, float[4,4,1,1] b> {
        p = Conv(x, a)
        q = If(flag)<
            then_branch = t () => (float[1,4,8,8] r) { r = Relu(p) },
            else_branch = e () => (float[1,4,8,8] i) { i = Identity(p) }
        >
        y = Conv(q, b)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "CONV"]
    assert graph.distance[1, 2] == 1


def test_a_shared_weight_is_predicted_where_it_is_used_first(graph_of):
    parameters, graph = graph_of("""g (float[1,4,8,8] x) => (float[1,4,8,8] y)
        <float[4,4,1,1] a> {
        p = Conv(x, a)
        r = Relu(p)
        y = Conv(r, a)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "CONV"]
    assert [len(slots) for slots in graph.slots] == [0, 1, 0]
    assert len([p for p in parameters if p.learnable]) == 1


def test_a_pool_over_all_places_is_global_whatever_its_operator(parse):
    text = """g (float[1,4,8,8] x) => (float[1,4] y) <float[4,4,1,1] a> {{
        p = Conv(x, a)
        k = {}
        y = Flatten(k)
    }}"""
    found = [
        ops(read_model(parse(text.format(pool))).graph)
        for pool in (
            "GlobalAveragePool(p)",
            "AveragePool<kernel_shape=[8,8]>(p)",
            "ReduceMean<axes=[-1,-2]>(p)",
            "AveragePool<kernel_shape=[2,2], strides=[2,2]>(p)",
            "MaxPool<kernel_shape=[8,8]>(p)",
        )
    ]
    assert [nodes[-1] for nodes in found[3:]] == ["AVG_POOL", "MAX_POOL"]
    assert all("GLOB_AVG" in nodes for nodes in found[:3])


def test_other_dimensions_and_transposed_convolutions_have_their_2d_equivalent(graph_of):
    parameters, graph = graph_of("""g (float[1,3,4,9,9] x) => (y)
        <float[8,3,2,5,3] a, float[8,6,3,3,3] t, float[6,6,3] b, int64[3] flat = {1, 6, -1}> {
        p = Conv<strides=[1,2,2]>(x, a)
        q = ConvTranspose<strides=[2,2,2]>(p, t)
        r = Reshape(q, flat)
        y = Conv(r, b)
    }""")
    assert ops(graph) == ["INPUT", "CONV", "CONV", "CONV"]
    assert graph.shape[1:].tolist() == [[8, 3, 5, 3], [6, 8, 3, 3], [6, 6, 3, 1]]
    assert column(graph, "stride") == [0, 2, 1, 1]
    assert {name for name, _ in predicted(parameters, graph, Op.CONV)} == {"a", "t", "b"}


@pytest.mark.parametrize(("stacked", "head"), [(False, 1), (True, 0)])
def test_a_stack_of_matrices_is_no_classifier(graph_of, stacked, head):
    """As in a network of capsules, where each part of the signal has a matrix of its own."""
    shape = "12, 16, 4" if stacked else "16, 4"
    _, graph = graph_of(f"""g (float[2,12,8] x) => (y) <float[8,16] v, float[{shape}] w> {{
        axis = Constant<value_ints=[2]>()
        h = MatMul(x, v)  r = Relu(h)  t = Unsqueeze(r, axis)
        y = MatMul({"t" if stacked else "r"}, w)
    }}""")
    assert column(graph, "is_head")[-1] == head

"""The rewrite of BatchNormalization: numbers against numpy, and nothing else touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_ghn.passes.batch_statistics import BatchStatistics
from onnx_ghn.run.session import open_session

PARAMETERS = "float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {5, 5}, float[2] v = {9, 9}"


def norm(shape: str, opset: int = 17, attributes: str = "", type: str = "float") -> ir.Model:
    parameters = PARAMETERS.replace("float", type)
    outputs = "y, mean, variance" if "training" in attributes else "y"
    return ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g ({type}[{shape}] x) => ({type}[{shape}] y) <{parameters}>
        {{ {outputs} = BatchNormalization{attributes}(x, s, b, m, v) }}"""
    )


def data(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 3 + 2).astype(dtype)


@pytest.mark.parametrize("opset", [9, 13, 15, 17, 18, 21])
@pytest.mark.parametrize("shape", [(6, 2), (4, 2, 5), (3, 2, 4, 5), (2, 2, 3, 4, 5)])
def test_statistics_are_those_of_the_batch(opset: int, shape: tuple[int, ...]):
    rewrite = BatchStatistics()
    model = norm(",".join(["N", *map(str, shape[1:])]), opset)
    result = rewrite(model)
    assert result.modified
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    x = data(*shape)
    found = open_session(result.model).run({"x": x})
    [layer] = rewrite.statistics
    assert (layer.running_mean, layer.running_variance) == ("m", "v")
    axes = (0, *range(2, len(shape)))
    assert found[layer.mean] == pytest.approx(x.mean(axes), abs=1e-5)
    assert found[layer.variance] == pytest.approx(x.var(axes, ddof=1), rel=1e-5)
    assert float(found[layer.count]) == x.size / 2
    assert found["y"].mean(axes) == pytest.approx([0, 1], abs=1e-5)
    assert found["y"].std(axes) == pytest.approx([1, 2], rel=1e-4)


@pytest.mark.parametrize("type", ["float16", "double"])
def test_other_element_types(type: str):
    rewrite = BatchStatistics()
    x = data(64, 2, 8, 8, dtype={"float16": "float16", "double": "float64"}[type])
    x += x.dtype.type(30)  # in half precision a sum of squares would overflow
    found = open_session(rewrite(norm("N,2,8,8", type=type)).model).run({"x": x})
    [layer] = rewrite.statistics
    exact = x.astype(np.float64)
    assert found["y"].dtype == x.dtype
    assert found[layer.mean] == pytest.approx(exact.mean((0, 2, 3)), rel=1e-6)
    assert found[layer.variance] == pytest.approx(exact.var((0, 2, 3), ddof=1), rel=1e-4)


def test_training_mode_stays_and_is_observed():
    model = norm("N,2,3", attributes="<training_mode = 1>")
    rewrite = BatchStatistics()
    copy = rewrite(model).model
    node = next(node for node in copy.graph if node.op_type == "BatchNormalization")
    assert node.attributes.get_int("training_mode") == 1
    x = data(5, 2, 3)
    found = open_session(copy).run({"x": x})
    assert found[rewrite.statistics[0].mean] == pytest.approx(x.mean((0, 2)), abs=1e-5)
    assert found["y"].std((0, 2)) == pytest.approx([1, 2], rel=1e-4)


def test_one_element_a_channel_has_no_variance_but_a_finite_output():
    rewrite = BatchStatistics()
    found = open_session(rewrite(norm("N,2")).model).run({"x": data(1, 2)})
    [layer] = rewrite.statistics
    assert float(found[layer.count]) == 1
    assert found[layer.variance].tolist() == [0, 0]
    assert found["y"].tolist() == [[0, 1]]


def test_the_model_itself_is_untouched_and_its_tensors_are_shared():
    model = norm("N,2,3")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    copy = BatchStatistics()(model).model
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert copy.graph.initializers["s"].const_value is model.graph.initializers["s"].const_value


def test_without_exposing_there_are_no_new_outputs():
    rewrite = BatchStatistics(expose=False)
    copy = rewrite(norm("N,2,3")).model
    assert [value.name for value in copy.graph.outputs] == ["y"]
    assert rewrite.statistics == ()
    x = data(5, 2, 3)
    y = open_session(copy).run({"x": x})["y"]
    assert y.std((0, 2)) == pytest.approx([1, 2], rel=1e-4)


def test_observing_without_normalising_computes_what_the_model_does():
    rewrite = BatchStatistics(normalise=False)
    model = norm("N,2,3")
    x = data(5, 2, 3)
    found = open_session(rewrite(model).model).run({"x": x})
    assert np.array_equal(found["y"], open_session(model).run({"x": x})["y"])
    assert found[rewrite.statistics[0].mean] == pytest.approx(x.mean((0, 2)), abs=1e-5)


def test_only_the_named_nodes_are_rewritten():
    rewrite = BatchStatistics(only={"other"})
    assert not rewrite(norm("N,2,3")).modified
    assert rewrite.statistics == ()


def test_several_nodes_have_outputs_of_their_own():
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] z)
        <{PARAMETERS}>
        {{ y = BatchNormalization(x, s, b, m, v)  z = BatchNormalization(y, s, b, m, v) }}"""
    )
    rewrite = BatchStatistics()
    found = open_session(rewrite(model).model).run({"x": data(50, 2)})
    first, second = rewrite.statistics
    assert found[first.mean] == pytest.approx([2, 2], abs=1.5)
    assert found[second.mean] == pytest.approx([0, 1], abs=1e-5)


def test_weight_standardisation_is_left_alone():
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,2] y)
        <float[1,2,3] w = {{1, 2, 3, 4, 5, 7}}, int64[2] shape = {{2, 3}}, {PARAMETERS}>
        {{ n, rm, rv = BatchNormalization<training_mode = 1>(w, s, b, m, v)
           r = Reshape(n, shape)  y = Gemm<transB = 1>(x, r) }}"""
    )
    rewrite = BatchStatistics()
    result = rewrite(model)
    assert not result.modified
    assert rewrite.statistics == ()
    assert rewrite.hidden == {"n": "it normalises a weight"}


def test_statistics_of_single_activations_are_left_alone():
    rewrite = BatchStatistics()
    assert not rewrite(norm("N,2", opset=8, attributes="<spatial = 0>")).modified
    assert "spatial=0" in rewrite.hidden["y"]


def test_nodes_in_functions_are_observed():
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[N,2] x) => (float[N,2] y) <{PARAMETERS}> {{ y = local.block(x, s, b, m, v) }}
        <domain: "local", opset_import: ["" : 17]>
        block (p, q, r, t, u) => (o) {{ o = BatchNormalization(p, q, r, t, u) }}"""
    )
    rewrite = BatchStatistics()
    found = open_session(rewrite(model).model).run({"x": data(50, 2)})
    [layer] = rewrite.statistics
    assert (layer.running_mean, layer.running_variance) == ("m", "v")
    assert found[layer.mean] == pytest.approx([2, 2], abs=1.5)
    assert len(model.functions) == 1


def test_nodes_in_bodies_are_rewritten_but_hidden():
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x, bool c) => (float[N,2] y) <{PARAMETERS}>
        {{ y = If(c) <then_branch = t () => (float[N,2] p)
                        {{ p = BatchNormalization(x, s, b, m, v) }},
                     else_branch = e () => (float[N,2] q) {{ q = Identity(x) }}> }}"""
    )
    rewrite = BatchStatistics()
    copy = rewrite(model).model
    assert rewrite.statistics == ()
    assert rewrite.hidden == {"p": "it is in the body of another node"}
    y = open_session(copy).run({"x": data(50, 2), "c": np.array(True)})["y"]
    assert y.std(0) == pytest.approx([1, 2], rel=1e-4)

"""The pass on small graphs: what it sets, what it leaves, and how often it changes its mind."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnx_ghn import InitializeOptions, ModelError, Status
from onnx_ghn.passes import Initialize

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (
  float[n, 3, 16, 16] x,
  float[8, 3, 3, 3] conv_w, float[8] conv_b, float[8] scale, float[8] shift,
  float[8] mean, float[8] variance, float[10, 8] head_w, float[10] head_b
) => (float[n, 10] y)
{
  c = Conv <pads = [1, 1, 1, 1]> (x, conv_w, conv_b)
  b = BatchNormalization (c, scale, shift, mean, variance)
  r = Relu (b)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, head_w, head_b)
}
"""
LEARNABLE = {"conv_w", "conv_b", "scale", "shift", "head_w", "head_b"}


def with_initializers(text, make, data=("x", "ids", "fed")):
    """The model of an ONNX text whose inputs, but for data, become initializers."""
    model = ir.from_onnx_text(text)
    for value in [value for value in model.graph.inputs if value.name not in data]:
        model.graph.inputs.remove(value)
        value.const_value = make(value)
        model.graph.register_initializer(value)
    return model


def filled(text=NET, dtype=ir.DataType.FLOAT, seed=3):
    """The model of an ONNX text with random values in its initializers."""
    rng = np.random.default_rng(seed)

    def make(value):
        array = rng.standard_normal(tuple(value.shape)).astype(dtype.numpy())
        return ir.tensor(abs(array) + 1 if value.name == "variance" else array, name=value.name)

    return with_initializers(text, make)


def skeleton():
    """The model without the bytes of its weights: their file is absent."""
    return with_initializers(
        NET,
        lambda value: ir.ExternalTensor(
            "absent.bin",
            0,
            None,
            ir.DataType.FLOAT,
            shape=value.shape,
            name=value.name,
            base_dir="/nonexistent",
        ),
    )


def values(model):
    return {name: v.const_value.numpy().copy() for name, v in model.graph.initializers.items()}


def run(model, **options):
    initialise = Initialize(InitializeOptions(**options))
    result = initialise(model)
    return result, initialise.report


@pytest.mark.parametrize("method", ["auto", "ghn", "orthogonal", "kaiming", "lecun", "xavier"])
def test_sets_learnable_and_nothing_else(method):
    model = filled()
    before = values(model)
    result, report = run(model, method=method)
    after = values(model)
    assert result.modified
    for name, value in before.items():
        changed = not np.array_equal(value, after[name])
        assert changed == (name in LEARNABLE), name
    statuses = {outcome.name: outcome.status for outcome in report.outcomes}
    assert statuses.keys() == before.keys()
    assert statuses["mean"] is statuses["variance"] is Status.KEPT
    expected = Status.PREDICTED if report.decision["method"] == "ghn" else Status.FALLBACK
    assert all(statuses[name] is expected for name in LEARNABLE)
    assert any("running statistics" in warning for warning in report.warnings)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_second_run_changes_nothing_and_a_seed_changes_everything():
    model = filled()
    run(model, method="ghn")
    first = values(model)
    result, report = run(model, method="ghn")
    assert not result.modified
    assert report.count(Status.PREDICTED) == len(LEARNABLE)
    again = values(model)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    result, _ = run(model, method="orthogonal", seed=1)
    assert result.modified
    assert not np.array_equal(first["conv_w"], values(model)["conv_w"])


def test_bits_do_not_depend_on_what_was_there():
    one, other = filled(seed=1), filled(seed=2)
    for model in (one, other):
        run(model, method="ghn", seed=4)
    for name in LEARNABLE:
        assert np.array_equal(values(one)[name], values(other)[name])


@pytest.mark.parametrize(
    "dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE], ids=lambda d: d.name
)
def test_keeps_the_element_type(dtype):
    name = {"FLOAT16": "float16", "BFLOAT16": "bfloat16", "DOUBLE": "double"}[dtype.name]
    # opset 22 is the first whose Conv takes bfloat16
    model = filled(NET.replace("float[", f"{name}[").replace('"" : 17', '"" : 22'), dtype)
    run(model, method="ghn")
    for value in model.graph.initializers.values():
        assert value.const_value.dtype is dtype
        assert np.isfinite(value.const_value.numpy().astype(np.float64)).all()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_nodes_that_gave_a_weight_become_initializers_of_the_same_name():
    model = with_initializers(
        """
        <ir_version: 3, opset_import: ["" : 13]>
        net (float[n, 4] x, float[5] one, float[5, 3] fed) => (float[n, 3] y)
        <int64[2] shape = {4, 5}>
        {
          w = ConstantOfShape (shape)
          two = Identity (one)
          h = Gemm (x, w, one)
          g = Add (h, two)
          y = MatMul (g, fed)
        }
        """,
        lambda value: ir.tensor(np.ones(5, np.float32), name="one"),
    )
    _, report = run(model, method="classical")
    assert set(model.graph.initializers) >= {"w", "one", "fed"}
    assert [node.op_type for node in model.graph if node.op_type == "ConstantOfShape"] == []
    assert [value.name for value in model.graph.inputs] == ["x", "fed"]
    assert model.ir_version == 4
    assert any("IR version" in change for change in report.changes)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result = session.run(None, {"x": np.ones((2, 4), np.float32)})[0]
    assert np.isfinite(result).all()
    assert result.std() > 0


def test_statistics_without_a_value_are_calibrated_and_weights_without_one_are_set():
    model = skeleton()
    _, report = run(model, method="classical")
    statuses = {outcome.name: outcome.status for outcome in report.outcomes}
    assert statuses["mean"] is statuses["variance"] is Status.CALIBRATED
    after = values(model)
    assert np.abs(after["mean"]).max() > 0
    assert (after["variance"] > 0).all()
    assert not np.allclose(after["variance"], 1, atol=1e-3)


def test_a_tensor_without_value_cannot_be_excluded():
    model = skeleton()
    with pytest.raises(ir.passes.PassError) as caught:
        ir.passes.Sequential(Initialize(InitializeOptions(exclude=("conv_w",))))(model)
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, ModelError)
    assert "conv_w" in str(error)


def test_composes_with_other_passes():
    from onnx_ir.passes.common import CheckerPass, ShapeInferencePass, TopologicalSortPass

    model = filled()
    pipeline = ir.passes.Sequential(
        TopologicalSortPass(), Initialize(), ShapeInferencePass(), CheckerPass()
    )
    assert pipeline(model).model is model
    assert set(model.graph.initializers) == LEARNABLE | {"mean", "variance"}


def test_tied_copies_get_one_value():
    model = with_initializers(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (int64[n, s] ids, float[20, 6] table) => (float[n, s, 20] y)
        {
          e = Gather (table, ids)
          head = Transpose <perm = [1, 0]> (table)
          y = MatMul (e, head)
        }
        """,
        lambda value: ir.tensor(np.ones((20, 6), np.float32), name="table"),
    )
    _, report = run(model, method="classical")
    assert [outcome.name for outcome in report.outcomes] == ["table"]
    assert values(model)["table"].std() > 0

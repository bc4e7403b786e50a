"""The passes among other people's: onnx-ir's common passes and onnxscript's optimizer."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime
import pytest

from onnx_ghn import InitializeOptions
from onnx_ghn.passes import BatchStatistics, Calibrate, Initialize, UnfoldBatchNormalization

# Weights are equal placeholders, as a skeleton's are; one comes from a Constant, one lies in a
# branch, and a node and an opset are of no use to anybody.
NET = """
<ir_version: 10, opset_import: ["" : 21, "unused" : 1]>
net (float[n, 3, 8, 8] x, bool deep) => (float[n, 5] y)
<float[4, 3, 3, 3] conv_w, float[4] conv_b, float[4] scale, float[4] shift,
 float[4] mean, float[4] variance, float[4, 4, 1, 1] next_w, float[4] next_b,
 float[4, 4, 1, 1] last_w, float[4] last_b, float[5, 4] head_w>
{
  c = Conv <pads = [1, 1, 1, 1]> (x, conv_w, conv_b)
  b = BatchNormalization (c, scale, shift, mean, variance)
  r = Relu (b)
  same = Identity (r)
  s = Conv (same, next_w, next_b)
  t = Relu (s)
  h = If (deep) <
    then_branch = deep_net () => (float[n, 4, 8, 8] d) { e = Conv (t, last_w, last_b)
      d = Relu (e) },
    else_branch = flat_net () => (float[n, 4, 8, 8] f) { f = Neg (t) }
  >
  unused = Neg (h)
  p = GlobalAveragePool (h)
  g = Flatten (p)
  head_b = Constant <value = float[5] {0, 0, 0, 0, 0}> ()
  y = Gemm <transB = 1> (g, head_w, head_b)
}
"""
WEIGHTS = {"conv_w", "conv_b", "scale", "shift", "next_w", "next_b", "last_w", "last_b"}
WEIGHTS |= {"head_w", "head_b"}
OPTIONS = InitializeOptions(method="ghn", seed=5)


def placeholders():
    """The model with zeros for weights, so that any two of one shape are equal."""
    text = NET
    start, end = text.index("<float[4, 3, 3, 3]"), text.index(">\n{")
    declared = [part.strip() for part in text[start + 1 : end].replace("\n", " ").split(", float")]
    model = ir.from_onnx_text(
        (text[:start] + text[end + 2 :]).replace(
            "bool deep)", "bool deep, " + ", float".join(declared) + ")"
        )
    )
    for value in list(model.graph.inputs)[2:]:
        model.graph.inputs.remove(value)
        fill = np.ones if value.name == "variance" else np.zeros
        value.const_value = ir.tensor(fill(tuple(value.shape), np.float32), name=value.name)
        model.graph.register_initializer(value)
    return model


def run(model, seed=0):
    x = np.random.default_rng(seed).standard_normal((4, 3, 8, 8)).astype(np.float32)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = {value.name for value in session.get_inputs()}
    outputs = []
    for deep in (True, False):
        feeds = {"x": x, "deep": np.array(deep)}
        outputs.append(session.run(["y"], {k: v for k, v in feeds.items() if k in given})[0])
    assert np.isfinite(outputs).all()
    return np.stack(outputs)


@pytest.fixture(scope="module")
def expected():
    model = placeholders()
    Initialize(OPTIONS)(model)
    outputs = run(model)
    assert outputs.std() > 1e-3
    assert not np.allclose(outputs[0], outputs[1], atol=1e-4), "the branches differ"
    return outputs


def learned(model):
    return {
        name: value.const_value.numpy().copy()
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if name in WEIGHTS
    }


# CheckerPass needs a complete model, de-duplication ties placeholders: both go after ours.
AFTER = [getattr(common, name) for name in common.__all__]
TIES = {"DeduplicateHashedInitializersPass", "DeduplicateInitializersPass"}
BEFORE = [cls for cls in AFTER if cls.__name__ not in TIES]


@pytest.mark.parametrize("other", AFTER, ids=lambda cls: cls.__name__)
def test_before_a_common_pass(other, expected):
    model = ir.passes.Sequential(Initialize(OPTIONS), other())(placeholders()).model
    np.testing.assert_allclose(run(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", BEFORE, ids=lambda cls: cls.__name__)
def test_after_a_common_pass(other, expected):
    model = ir.passes.Sequential(other(), Initialize(OPTIONS))(placeholders()).model
    assert learned(model).keys() == WEIGHTS
    np.testing.assert_allclose(run(model), expected, rtol=1e-4, atol=1e-5)


def test_a_manager_of_six_passes_settles(expected):
    """Six passes over and over: the manager stops by itself when all say that nothing changed."""
    initialize = Initialize(OPTIONS)
    calls = []

    class Count(ir.passes.InPlacePass):
        def call(self, model):
            calls.append(len(model.graph))
            return ir.passes.PassResult(model, modified=False)

    manager = ir.passes.PassManager(
        [
            common.LiftConstantsToInitializersPass(),
            common.TopologicalSortPass(),
            initialize,
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
            Count(),
        ],
        steps=10,
        early_stop=True,
    )
    result = manager(placeholders())
    assert result.modified
    assert len(calls) == 2, "the first round changes, the second finds nothing to do"
    assert learned(result.model).keys() == WEIGHTS
    np.testing.assert_allclose(run(result.model), expected, rtol=1e-4, atol=1e-5)
    assert not manager(result.model).modified
    assert initialize.report is result.model.meta["onnx_ghn"]


def test_all_of_ours_in_one_manager_settle():
    model = placeholders()
    passes = [
        Initialize(OPTIONS),
        common.ShapeInferencePass(),
        Calibrate(seed=1),
        common.RemoveUnusedOpsetsPass(),
        common.CheckerPass(),
        common.TopologicalSortPass(),
    ]
    manager = ir.passes.PassManager(passes, steps=5)
    assert manager(model).modified
    statistics = model.graph.initializers["variance"].const_value.numpy()
    assert not np.allclose(statistics, 1, atol=1e-3)
    before = ir.to_proto(model).SerializeToString()
    assert not manager(model).modified
    assert ir.to_proto(model).SerializeToString() == before


def test_functional_passes_leave_the_input_and_settle():
    model = placeholders()
    Initialize(OPTIONS)(model)
    before = ir.to_proto(model).SerializeToString()
    pipeline = ir.passes.Sequential(UnfoldBatchNormalization(), BatchStatistics())
    result = pipeline(model)
    assert result.modified
    assert ir.to_proto(model).SerializeToString() == before
    again = pipeline(result.model)
    assert not again.modified
    once, twice = (ir.to_proto(one.model).SerializeToString() for one in (result, again))
    assert once == twice


def test_functionalize_leaves_the_input():
    model = placeholders()
    before = ir.to_proto(model).SerializeToString()
    result = ir.passes.functionalize(Initialize(OPTIONS))(model)
    assert result.modified
    assert ir.to_proto(model).SerializeToString() == before
    assert learned(result.model)["conv_w"].std() > 0


def test_onnxscript_optimizes_after_ours(expected):
    optimizer = pytest.importorskip("onnxscript.optimizer")
    model = placeholders()
    Initialize(OPTIONS)(model)
    count = len(model.graph)
    optimizer.optimize(model)
    assert len(model.graph) < count
    np.testing.assert_allclose(run(model), expected, rtol=1e-3, atol=1e-4)


def test_a_tensor_that_somebody_replaced_is_set_again():
    model = placeholders()
    initialize = Initialize(OPTIONS)
    initialize(model)
    before = learned(model)
    value = model.graph.initializers["conv_w"]
    value.const_value = ir.tensor(np.zeros(tuple(value.shape), np.float32), name="conv_w")
    assert initialize(model).modified
    after = learned(model)
    assert all(np.array_equal(before[name], after[name]) for name in WEIGHTS)


def test_a_run_without_effect_changes_nothing_at_all():
    model = placeholders()
    Initialize(OPTIONS)(model)
    before = ir.to_proto(model).SerializeToString()
    fill = Initialize(InitializeOptions(method="classical", missing_only=True))
    assert not fill(model).modified
    assert ir.to_proto(model).SerializeToString() == before, "provenance included"


def test_a_value_of_the_wrong_shape_breaks_the_postcondition():
    model = placeholders()
    initialize = Initialize(OPTIONS)
    initialize(model)
    model.graph.initializers["head_w"].shape = ir.Shape((4, 5))
    with pytest.raises(ir.passes.PostconditionError):
        try:
            initialize.ensures(model)
        except ir.passes.PostconditionError as error:
            assert "head_w" in str(error)
            raise


def test_a_conv_that_is_normalised_already_is_left():
    model = placeholders()
    Initialize(OPTIONS)(model)
    assert Calibrate(folded=True)(model).modified
    before = learned(model)
    calibrate = Calibrate(folded=True)
    assert not calibrate(model).modified
    assert "already" in calibrate.notes["next_w"]
    after = learned(model)
    assert all(np.array_equal(before[name], after[name]) for name in WEIGHTS)

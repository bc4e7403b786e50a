"""What `init` writes goes unharmed through the tools that people run next.

Each reads the file, rewrites it, and must give a model with the same numbers: onnxslim, onnxsim,
onnxscript's optimizer and ONNX Runtime's own graph optimisation. What isn't installed is skipped.
"""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_ghn
from onnx_ghn import InitializeOptions

LIGHT = ("shufflenet", "squeezenet")
LARGER = ("resnet50", "densenet121", "inception_v1")
"""Weightless networks from the onnx package, with groups, branches, residual and dense links."""

# Where the hypernetwork knows no difference, as between queries and keys, it predicts equal
# tensors, which slimmers would tie; noise keeps them apart.
OPTIONS = InitializeOptions(method="ghn", seed=3, noise=1e-3)

TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 18]>
net (int64[n, 12] ids, float[50, 32] table, float[12, 32] places, float[32] scale, float[32] shift,
  float[32, 32] q_w, float[32, 32] k_w, float[32, 32] v_w, float[32, 32] o_w,
  float[32, 64] up_w, float[64] up_b, float[64, 32] down_w, float[32] down_b,
  float[32, 5] head_w) => (float[n, 5] y)
<float root = {5.656854}, int64[1] axis = {1}>
{
  e = Gather (table, ids)
  x = Add (e, places)
  h = LayerNormalization <axis = -1> (x, scale, shift)
  q = MatMul (h, q_w)
  k = MatMul (h, k_w)
  v = MatMul (h, v_w)
  kt = Transpose <perm = [0, 2, 1]> (k)
  qk = MatMul (q, kt)
  scores = Div (qk, root)
  p = Softmax <axis = -1> (scores)
  a = MatMul (p, v)
  o = MatMul (a, o_w)
  r = Add (x, o)
  u = MatMul (r, up_w)
  ub = Add (u, up_b)
  g = Relu (ub)
  d = MatMul (g, down_w)
  db = Add (d, down_b)
  s = Add (r, db)
  m = ReduceMean <keepdims = 0> (s, axis)
  y = MatMul (m, head_w)
}
"""


@pytest.fixture(
    scope="module",
    params=[
        "transformer",
        *LIGHT,
        *(pytest.param(name, marks=pytest.mark.long) for name in LARGER),
    ],
)
def initialised(request, light, tmp_path_factory):
    """The path of an initialised model, predicted weights and all."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "transformer":
        source = folder / "transformer.onnx"
        onnx.save(onnx.parser.parse_model(TRANSFORMER), source)
    else:
        source = light / f"light_{request.param}.onnx"
    target = folder / "ready.onnx"
    onnx_ghn.initialize(source, target, OPTIONS)
    if request.param == "transformer":
        # Weights as inputs are overridable, which no optimiser may fold: constants from here on.
        model = onnx.load(target)
        names = {tensor.name for tensor in model.graph.initializer}
        for value in [value for value in model.graph.input if value.name in names]:
            model.graph.input.remove(value)
        onnx.save(model, target)
    return target


def run(path, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    initializers = {value.name for value in session.get_overridable_initializers()}
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        if value.name in initializers:
            continue
        shape = [2 if isinstance(size, str) else size for size in value.shape]
        if value.type == "tensor(int64)":
            feeds[value.name] = rng.integers(0, 50, shape)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    outputs = session.run(None, feeds)
    assert all(np.isfinite(output).all() for output in outputs)
    return outputs


def count(path):
    return len(onnx.load(path, load_external_data=False).graph.node)


def same(initialised, rewritten):
    expected, outputs = run(initialised), run(rewritten)
    assert len(expected) == len(outputs)
    for one, other in zip(expected, outputs, strict=True):
        assert one.std() > 0
        assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()


def by_command(tool, *arguments):
    """Run a tool as a user does, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", tool, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
def test_slimmers(tool, initialised, tmp_path):
    pytest.importorskip(tool)
    rewritten = tmp_path / "slim.onnx"
    by_command(tool, initialised, rewritten)
    same(initialised, rewritten)


def test_onnxscript(initialised, tmp_path):
    if onnx.load(initialised).opset_import[0].version < 18:
        pytest.skip("onnxscript optimises opset 18 and newer")
    optimizer = pytest.importorskip("onnxscript.optimizer")
    rewritten = tmp_path / "optimised.onnx"
    onnx.save(optimizer.optimize(onnx.load(initialised)), rewritten)
    assert count(rewritten) <= count(initialised)
    same(initialised, rewritten)


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_onnx_runtime_writes_an_optimised_model(level, initialised, tmp_path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}"
    )
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(initialised), options, providers=["CPUExecutionProvider"])
    assert count(tmp_path / "optimised.onnx") <= count(initialised) * 2
    same(initialised, tmp_path / "optimised.onnx")


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
def test_init_after_a_slimmer(tool, initialised, tmp_path):
    """A slimmed model is one more export to read: the same weights are learnable."""
    pytest.importorskip(tool)
    by_command(tool, initialised, tmp_path / "slim.onnx")
    before = onnx_ghn.inspect(initialised)
    _, after = onnx_ghn.initialize(
        tmp_path / "slim.onnx", tmp_path / "again.onnx", InitializeOptions(method="classical")
    )
    elements = [
        sum(
            int(np.prod(outcome.shape))
            for outcome in report.outcomes
            if outcome.learnable and len(outcome.shape) > 1
        )
        for report in (before, after)
    ]
    assert elements[0] == elements[1]
    run(tmp_path / "again.onnx")

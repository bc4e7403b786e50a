"""strip is the inverse of init: the skeleton and the original become the same file."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnx_ghn
from onnx_ghn import InitializeOptions, ModelError, Status, model_io
from onnx_ghn.read.reading import read_model

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
ROLE, TIE = "onnx_ghn.role", "onnx_ghn.tie"

TIED = """<ir_version: 9, opset_import: ["": 17]>
g (int64[2, 5] i, float[5, 8] z) => (float[2, 5, 40] y) {
  e = Gather(table, i)
  n = LayerNormalization(e, scale, shift)
  h = MatMul(n, w)
  b = Add(h, bias)
  a = Relu(b)
  y = MatMul(a, head)
}"""


def tied(path, *, constants=False):
    """An embedding and an output layer with the same numbers: a tie that only values prove."""
    proto = onnx.parser.parse_model(TIED)
    del proto.graph.input[1]
    draw = np.random.default_rng(0).standard_normal
    table = draw((40, 8)).astype(np.float32)
    arrays = {
        "table": table,
        "scale": np.ones(8, np.float32),
        "shift": np.zeros(8, np.float32),
        "w": draw((8, 8)).astype(np.float32),
        "bias": draw(8).astype(np.float32),
        "head": np.ascontiguousarray(table.T),
    }
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    if constants:
        nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
        nodes += proto.graph.node
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    else:
        proto.graph.initializer.extend(tensors)
    path.write_bytes(proto.SerializeToString())
    return path


def values(path):
    stored = onnx.load(path).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}


def assert_inverse(source, folder, options, selection=None):
    """init of the skeleton and init of the original give one file, bit for bit."""
    _, report = onnx_ghn.strip(source, folder / "skeleton.onnx", selection, force=True)
    onnx_ghn.initialize(source, folder / "a.onnx", options, force=True)
    onnx_ghn.initialize(folder / "skeleton.onnx", folder / "b.onnx", options, force=True)
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    return report


@pytest.mark.parametrize("method", ["ghn", "classical"])
@pytest.mark.parametrize("name", ["resnet50", "squeezenet", "densenet121", "inception_v2"])
def test_skeleton_of_a_real_model(name, method, tmp_path):
    filled = tmp_path / "filled.onnx"
    first = InitializeOptions(method="classical", seed=3)
    _, done = onnx_ghn.initialize(LIGHT / f"light_{name}.onnx", filled, first)
    again = InitializeOptions(method=method, seed=7, engine="onnxruntime")
    report = assert_inverse(filled, tmp_path, again)
    summary = report.summary()
    assert summary["tensors"]["removed"] == done.count(Status.FALLBACK)
    assert summary["elements"]["removed"] == summary["learnable_elements"]
    small = (tmp_path / "skeleton.onnx").stat().st_size
    assert small < filled.stat().st_size / 5


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("strip")


@pytest.mark.corpus
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_skeletons_of_corpus_models(corpus, materialize, scratch, data):
    """Whatever exporter, method and seed: init makes of the skeleton what it makes of the model."""
    paths = [p for p in sorted((corpus / "models").glob("*.onnx")) if p.stat().st_size < 300_000]
    path = data.draw(st.sampled_from([p for p in paths if not p.name.startswith("big_")]))
    first, seed = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    method = data.draw(st.sampled_from(["ghn", "classical"]))
    filled = materialize(onnx.load(path, load_external_data=False), seed=first)
    (scratch / "one.onnx").write_bytes(filled.SerializeToString())
    options = InitializeOptions(method=method, seed=seed, engine="onnxruntime")
    assert_inverse(scratch / "one.onnx", scratch, options)


@pytest.mark.parametrize("constants", [False, True])
def test_tie_that_only_values_prove_survives(tmp_path, constants):
    source = tied(tmp_path / "m.onnx", constants=constants)
    options = InitializeOptions(method="classical", seed=5)
    report = assert_inverse(source, tmp_path, options)
    skeleton = model_io.load(tmp_path / "skeleton.onnx").graph.initializers
    assert skeleton["head"].metadata_props[TIE] == "table"
    written = values(tmp_path / "b.onnx")
    np.testing.assert_array_equal(written["head"], written["table"].T)
    assert bool(report.changes) == constants
    # Without the mark there is nothing that proves it.
    for value in skeleton.values():
        value.metadata_props.pop(TIE, None)
        assert value.metadata_props[ROLE] or model_io.has_value(value)
    tie = {p.name: p.tie for p in read_model(model_of(skeleton)).parameters}
    assert tie["head"] == "head"


def model_of(initializers):
    return ir.Model(next(iter(initializers.values())).graph, ir_version=9)


def test_shapes_names_and_constants_stay(tmp_path):
    source = tied(tmp_path / "m.onnx")
    before = onnx.load(source)
    onnx_ghn.strip(source)
    after = onnx.load(tmp_path / "m.skeleton.onnx")
    for old, new in zip(before.graph.node, after.graph.node, strict=True):
        assert (old.op_type, old.input, old.output) == (new.op_type, new.input, new.output)
    assert [i.name for i in before.graph.input] == [i.name for i in after.graph.input]
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert (old.name, old.dims, old.data_type) == (new.name, new.dims, new.data_type)
        assert not new.raw_data and new.data_location == onnx.TensorProto.DEFAULT
    roles = {
        info.name: {p.key: p.value for p in info.metadata_props}[ROLE]
        for info in after.graph.value_info
    }
    assert roles == {
        "table": "embedding",
        "scale": "norm_scale",
        "shift": "norm_shift",
        "w": "linear",
        "bias": "bias",
        "head": "linear",
    }


def test_a_role_that_the_user_gave_needs_no_option_again(tmp_path):
    source = tied(tmp_path / "m.onnx")
    roles = ("bias=layer_scale",)
    given_again = InitializeOptions(method="classical", seed=2, roles=roles)
    onnx_ghn.strip(source, tmp_path / "s.onnx", InitializeOptions(roles=roles))
    onnx_ghn.initialize(source, tmp_path / "a.onnx", given_again)
    plain = InitializeOptions(method="classical", seed=2)
    model, report = onnx_ghn.initialize(tmp_path / "s.onnx", tmp_path / "b.onnx", plain)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    bias = next(outcome for outcome in report.outcomes if outcome.name == "bias")
    assert bias.role == "layer_scale"
    # The mark is gone from the file, and in force in memory: a second run changes nothing.
    assert ROLE not in model.graph.initializers["bias"].metadata_props
    again = onnx_ghn.passes.Initialize(plain)
    assert not again(model).modified
    # The command line goes before the mark.
    stronger = InitializeOptions(method="classical", roles=("bias=bias",))
    _, report = onnx_ghn.initialize(tmp_path / "s.onnx", tmp_path / "c.onnx", stronger)
    assert {outcome.name: outcome.role for outcome in report.outcomes}["bias"] == "bias"


def test_exclude_and_plan_say_what_stays(tmp_path):
    source = tied(tmp_path / "m.onnx")
    before = values(source)
    _, report = onnx_ghn.strip(source, tmp_path / "s.onnx", InitializeOptions(exclude=("w",)))
    skeleton = model_io.load(tmp_path / "s.onnx").graph.initializers
    np.testing.assert_array_equal(skeleton["w"].const_value.numpy(), before["w"])
    assert report.count(Status.KEPT) == 1 and report.has_findings()
    plan = tmp_path / "plan.json"
    onnx_ghn.inspect(source, InitializeOptions(method="classical"), save_plan=plan)
    content = json.loads(plan.read_text())
    for entry in content["initializers"]:
        if entry["name"] != "w":
            entry["action"] = "keep"
            entry.pop("method", None)
    plan.write_text(json.dumps(content))
    _, report = onnx_ghn.strip(source, tmp_path / "p.onnx", InitializeOptions(plan=plan))
    assert [o.name for o in report.outcomes if o.status == "removed"] == ["w"]
    # The plan suits the skeleton as it suits the model: the hash is that of the graph.
    assert_inverse(
        source,
        tmp_path,
        InitializeOptions(plan=plan, method="classical"),
        InitializeOptions(plan=plan),
    )


def test_provenance_goes_and_running_statistics_stay(tmp_path):
    filled = tmp_path / "filled.onnx"
    options = InitializeOptions(method="classical")
    onnx_ghn.initialize(LIGHT / "light_resnet50.onnx", filled, options)
    assert any(p.key.startswith("onnx_ghn.") for p in onnx.load(filled).metadata_props)
    _, report = onnx_ghn.strip(filled)
    skeleton = onnx.load(tmp_path / "filled.skeleton.onnx")
    assert not any(p.key.startswith("onnx_ghn.") for p in skeleton.metadata_props)
    statistics = [o for o in report.outcomes if o.role.startswith("running")]
    before, after = onnx.load(filled), skeleton
    kept = {t.name: t.SerializeToString() for t in after.graph.initializer}
    for tensor in before.graph.initializer:
        if tensor.name in {o.name for o in statistics}:
            assert kept[tensor.name] == tensor.SerializeToString()
    assert statistics and all(o.status == "kept" for o in statistics)


def test_external_data_is_not_referred_to(tmp_path):
    source = tied(tmp_path / "m.onnx")
    big = tmp_path / "big.onnx"
    model_io.save(model_io.load(source), big, external_data=True)
    onnx_ghn.strip(big)
    (tmp_path / "big.onnx.data").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "big.onnx",
        "big.skeleton.onnx",
        "m.onnx",
    ]
    for tensor in onnx.load(tmp_path / "big.skeleton.onnx").graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
    # A model whose data is missing is a skeleton already, and stays one.
    onnx_ghn.strip(big, tmp_path / "again.onnx")
    assert not values_present(tmp_path / "again.onnx")


def values_present(path):
    graph = model_io.load(path).graph
    return [name for name, value in graph.initializers.items() if model_io.has_value(value)]


def test_missing_data_that_nothing_can_fill_is_named(tmp_path):
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[300] x) => (float[300] y) { y = Gather(x, index) }"""
    )
    index = onnx.numpy_helper.from_array(np.arange(300), "index")
    proto.graph.initializer.append(index)
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match="'index'"):
        onnx_ghn.strip(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


# Files that other tools emptied


def weightless(path, names):
    """Empty tensors as polygraphy's `surgeon weight-strip` does."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("float_data")
            tensor.raw_data = b""
            tensor.doc_string = "TRT_WEIGHTLESS/"
    proto.doc_string = "TRT_WEIGHTLESS"
    path.write_bytes(proto.SerializeToString())


def test_weightless_marks_of_polygraphy(tmp_path):
    source = tied(tmp_path / "m.onnx")
    options = InitializeOptions(method="classical", seed=4, missing_only=True)
    weightless(source, {"table", "w", "head"})
    onnx_ghn.initialize(source, tmp_path / "out.onnx", options)
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    written = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert {t.name for t in written} == {"table", "scale", "shift", "w", "bias", "head"}
    for tensor in written:
        assert not tensor.doc_string
        array = onnx.numpy_helper.to_array(tensor)
        assert np.isfinite(array).all()
        if tensor.name in ("table", "w", "head"):
            assert array.std() > 0


def test_weightless_mark_makes_a_weight_of_what_no_rule_knows(tmp_path):
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[1, 4] x) => (float[1, 4] y) { y = Pow(x, p) }"""
    )
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.arange(1, 5, dtype=np.float32), "p")
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    (kept,) = read_model(model_io.load(path)).parameters
    assert not kept.learnable
    weightless(path, {"p"})
    (filled,) = read_model(model_io.load(path)).parameters
    assert filled.learnable and not filled.has_value


def test_weights_as_inputs_from_torch(tmp_path):
    """`ONNXProgram.save(include_initializers=False, keep_initializers_as_inputs=True)`."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)),
    ).eval()
    program = torch.onnx.export(
        network, (torch.zeros(1, 3, 8, 8),), dynamo=True, optimize=False, verbose=False
    )
    path = tmp_path / "w.onnx"
    program.save(path, include_initializers=False, keep_initializers_as_inputs=True)
    assert len(onnx.load(path).graph.input) > 1
    _, report = onnx_ghn.initialize(path, options=InitializeOptions(method="classical"))
    names = {o.name for o in report.outcomes if o.status == "fallback"}
    learned = {name for name, _ in network.named_parameters()}
    assert names == learned
    import onnxruntime

    session = onnxruntime.InferenceSession(
        tmp_path / "w.init.onnx", providers=["CPUExecutionProvider"]
    )
    x = session.get_inputs()[0].name
    (y,) = session.run(None, {x: np.ones((1, 3, 8, 8), np.float32)})[:1]
    assert y.shape == (1, 5) and np.isfinite(y).all()


@pytest.mark.parametrize("pair", [("table", "w"), ("w", "bias")])
def test_missing_only_sets_what_was_emptied(tmp_path, pair):
    source = tied(tmp_path / "m.onnx")
    before = values(source)
    onnx_ghn.strip(source, tmp_path / "s.onnx", InitializeOptions(include=pair))
    options = InitializeOptions(method="classical", missing_only=True)
    onnx_ghn.initialize(tmp_path / "s.onnx", tmp_path / "f.onnx", options)
    after = values(tmp_path / "f.onnx")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == set(pair)

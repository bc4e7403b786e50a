"""Plan files and given roles: what a user says of single tensors, and what is refused."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_ghn
from onnx_ghn import InitializeOptions, ModelError, OptionError, OutputError, Status
from onnx_ghn.hypernet.archive import read_info
from onnx_ghn.model_hash import model_sha256
from onnx_ghn.passes import Initialize
from onnx_ghn.plan_file import load_plan
from onnx_ghn.read.given import GivenRole
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.reading import read_model

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (
  float[n, 3, 16, 16] x,
  float[8, 3, 3, 3] conv_w, float[8] conv_b, float[8] scale, float[8] shift,
  float[8] mean, float[8] variance, float[1, 1, 16, 16] grid, float[10, 8] head_w, float[10] head_b
) => (float[n, 10] y)
<int64[2] sizes = {10, 8}>
{
  g = Max (x, grid)
  c = Conv <pads = [1, 1, 1, 1]> (g, conv_w, conv_b)
  b = BatchNormalization (c, scale, shift, mean, variance)
  r = Relu (b)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  given = ConstantOfShape (sizes)
  extra = Gemm <transB = 1> (f, given)
  head = Gemm <transB = 1> (f, head_w, head_b)
  y = Add (head, extra)
}
"""


@pytest.fixture(autouse=True)
def ships_untrained(untrained_file, monkeypatch):
    """Under an untrained archive `auto` means classical, whichever ships."""
    monkeypatch.setattr("onnx_ghn.hypernet.archive.SHIPPED", untrained_file)


def net(text=NET, make=None):
    """The model of a text whose inputs, but for x, are initializers; random ones by default."""
    rng = np.random.default_rng(3)
    model = ir.from_onnx_text(text)
    for value in [value for value in model.graph.inputs if value.name != "x"]:
        model.graph.inputs.remove(value)
        array = rng.random(tuple(value.shape), np.float32) + 1
        value.const_value = make(value) if make else ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    return model


def absent(value):
    """A tensor whose bytes lie in a file that is not there."""
    return ir.ExternalTensor(
        *("absent.bin", 0, None, ir.DataType.FLOAT),
        shape=value.shape,
        name=value.name,
        base_dir="/nonexistent",
    )


def run(model, **options):
    initialise = Initialize(InitializeOptions(engine="onnxruntime", **options))
    result = initialise(model)
    return result.modified, {outcome.name: outcome for outcome in initialise.report.outcomes}


def values(model):
    return {name: v.const_value.numpy().copy() for name, v in model.graph.initializers.items()}


@pytest.fixture
def saved(tmp_path):
    """`saved(edit, **options)`: the path of the network's plan, edited entry by entry."""

    def save(edit=None, model=None, **options):
        path = tmp_path / f"plan{len(list(tmp_path.iterdir()))}.json"
        onnx_ghn.inspect(model or net(), InitializeOptions(**options), save_plan=path)
        if edit is not None:
            plan = json.loads(path.read_text())
            edit(plan, {entry["name"]: entry for entry in plan["initializers"]})
            path.write_text(json.dumps(plan))
        return path

    return save


def test_format_is_as_documented(saved):
    plan = json.loads(saved(method="ghn", exclude=("scale",)).read_text())
    assert plan["format"] == 1 and plan["model_sha256"] == model_sha256(net())
    entries = {entry.pop("name"): entry for entry in plan["initializers"]}
    assert entries["conv_w"] == {"shape": [8, 3, 3, 3], "role": "conv", "action": "predict"}
    assert entries["scale"] == {"shape": [8], "role": "norm_scale", "action": "keep"}
    assert entries["mean"] == {"shape": [8], "role": "running_mean", "action": "keep"}
    classical = json.loads(saved(method="kaiming").read_text())["initializers"]
    methods = {entry["name"]: entry.get("method") for entry in classical}
    assert methods["conv_w"] == "kaiming" and methods["conv_b"] is None


@pytest.mark.parametrize("options", [{"method": "ghn", "exclude": ("sc*",)}, {"method": "xavier"}])
def test_unedited_plan_does_what_was_shown(saved, options):
    shown, planned = net(), net()
    _, expected = run(shown, **options)
    _, found = run(planned, plan=saved(**options))
    assert {n: (o.status, o.method, o.role) for n, o in found.items()} == {
        n: (o.status, o.method, o.role) for n, o in expected.items()
    }
    before, after = values(shown), values(planned)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_edits_are_carried_out(saved):
    def edit(plan, entries):
        entries["conv_w"] |= {"action": "predict"}
        entries["conv_w"].pop("method")
        entries["head_w"] |= {"method": "normal"}
        entries["head_b"]["action"] = "keep"
        entries["grid"] |= {"action": "fallback", "role": "position"}
        entries["mean"]["action"] = "fallback"
        plan["initializers"].remove(entries["shift"])

    model = net()
    before = values(model)
    path = saved(edit)
    modified, outcomes = run(model, plan=path)
    assert modified
    after = values(model)
    assert outcomes["conv_w"].status is Status.PREDICTED
    assert outcomes["head_w"].method == "normal"
    assert outcomes["head_b"].status is Status.KEPT and str(path) in outcomes["head_b"].reason
    assert np.array_equal(before["head_b"], after["head_b"])
    assert outcomes["grid"].role == "position" and outcomes["grid"].learnable
    assert 0.01 < after["grid"].std() < 0.03
    assert not after["mean"].any()
    assert outcomes["shift"].status is Status.FALLBACK
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert run(model, plan=path)[0] is False  # the plan still fits what it has made


def test_command_line_goes_before_the_plan(saved):
    def edit(plan, entries):
        entries["conv_w"]["action"] = "keep"
        entries["conv_w"].pop("method")

    path = saved(edit, method="kaiming")
    _, outcomes = run(net(), plan=path, method="xavier", exclude=("scale",))
    assert outcomes["conv_w"].status is Status.KEPT
    assert outcomes["head_w"].method == "xavier"
    assert outcomes["scale"].status is Status.KEPT
    _, outcomes = run(net(), plan=path, roles=("conv_w=conv", "grid=bias"))
    assert outcomes["conv_w"].method == "orthogonal" and outcomes["grid"].role == "bias"


def test_marks_give_way_to_the_user():
    model = net()
    kind = "pkg.torch.export.graph_signature.InputSpec.kind"
    model.graph.initializers["head_b"].metadata_props[kind] = "InputKind.BUFFER"
    assert run(model)[1]["head_b"].status is Status.KEPT
    assert run(model, roles=("head_b=bias",))[1]["head_b"].status is Status.FALLBACK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, e: e["conv_w"].update(name="conv_ww"), ["conv_ww", "did you mean 'conv_w'"]),
        (lambda p, e: e["conv_w"].update(shape=[8, 3]), ["conv_w", "[8, 3, 3, 3]", "[8, 3]"]),
        (lambda p, e: e["conv_w"].update(shape="8x3"), ["conv_w", "list of integers"]),
        (lambda p, e: e["conv_w"].update(role="kernel"), ["conv_w", "'kernel'", "embedding"]),
        (lambda p, e: e["conv_w"].update(action="drop"), ["conv_w", "'drop'", "fallback"]),
        (lambda p, e: e["conv_w"].update(method="magic"), ["conv_w", "'magic'", "orthogonal"]),
        (lambda p, e: e["conv_b"].update(method="lecun"), ["conv_b", "'lecun'", "bias"]),
        (lambda p, e: e["conv_b"].update(role="linear"), ["conv_b", "[8]", "linear"]),
        (lambda p, e: e["conv_b"].update(role="running_mean"), ["conv_b", "can't be"]),
        (lambda p, e: e["grid"].update(action="fallback"), ["grid", "constant", "keep"]),
        (
            lambda p, e: e["grid"].update(action="predict", role="prelu_slope"),
            ["grid", "predicted", "vocabulary", "fallback"],
        ),
        (lambda p, e: e["grid"].update(acton="keep"), ["grid", "'acton'", "action"]),
        (lambda p, e: e["grid"].pop("name"), ["no name"]),
        (lambda p, e: p["initializers"].append(e["grid"]), ["grid", "twice"]),
        (lambda p, e: p.update(model_sha256="0" * 64), ["another model", "--save-plan"]),
        (lambda p, e: p.update(format=2), ["format 2", "--save-plan"]),
        (lambda p, e: p.pop("initializers"), ["not a plan file"]),
    ],
)
def test_what_a_plan_cannot_say(saved, change, words):
    path = saved(change)
    model = net()
    before = values(model)
    with pytest.raises(OptionError) as caught:
        run_unwrapped(model, plan=path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(before[name], array) for name, array in values(model).items())


def run_unwrapped(model, **options):
    Initialize(InitializeOptions(**options)).call(model)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"{", "JSON"), (b"\xff", "JSON"), (b"[" * 100_000, "JSON"), (b"[]", "not a plan file")],
)
def test_file_that_is_no_plan(tmp_path, content, word):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=word):
        load_plan(path)
    with pytest.raises(OptionError, match="No such file"):
        load_plan(tmp_path / "none.json")


def test_plan_is_never_overwritten(saved):
    path = saved()
    before = path.read_bytes()
    with pytest.raises(OutputError, match="edits"):
        onnx_ghn.inspect(net(), save_plan=path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError):
        onnx_ghn.inspect(net(), save_plan=path / "below.json")


def test_keep_of_a_tensor_without_value_stays_an_error(saved):
    def edit(plan, entries):
        entries["conv_w"]["action"] = "keep"
        entries["conv_w"].pop("method")

    model = net(make=absent)
    model.graph.initializers["grid"].const_value = ir.tensor(np.ones((1, 1, 16, 16), np.float32))
    path = saved(edit, model)
    with pytest.raises(ModelError, match=r"conv_w.*no value"):
        run_unwrapped(model, plan=path)


def test_statistics_without_value_are_calibrated_under_a_plan(saved):
    model = net(make=absent)
    model.graph.initializers["grid"].const_value = ir.tensor(np.ones((1, 1, 16, 16), np.float32))
    _, outcomes = run(model, plan=saved(model=model))
    assert outcomes["mean"].status is Status.CALIBRATED


def test_hash_is_of_the_graph_and_not_of_bytes():
    reference = model_sha256(net())
    assert model_sha256(net(make=absent)) == reference
    filled = net()
    run(filled, method="classical")
    assert not any(node.op_type == "ConstantOfShape" for node in filled.graph)
    assert model_sha256(filled) == reference
    assert model_sha256(ir.from_proto(ir.to_proto(filled))) == reference
    for old, new in (
        ("float[10] head_b", "float[1] head_b"),
        ("head_b", "head_c"),
        ("Relu", "Tanh"),
        ("pads = [1, 1, 1, 1]", "pads = [1, 1, 1, 1], group = 1"),
        ("{10, 8}", "{1, 8}"),
        ('"" : 17', '"" : 16'),
    ):
        assert model_sha256(net(NET.replace(old, new))) != reference, new


def test_hash_does_not_see_which_node_gave_a_weight():
    """In an old file, whose initializers are inputs, too."""
    text = """
    <ir_version: 3, opset_import: ["" : 13]>
    net (float[n, 4] x, float[5] one) => (float[n, 5] y)
    {
      w = RandomNormal <shape = [4, 5]> ()
      two = Identity (one)
      h = Gemm (x, w, one)
      y = Add (h, two)
    }
    """

    def model():
        made = ir.from_onnx_text(text)
        one = made.graph.inputs[1]
        one.const_value = ir.tensor(np.ones(5, np.float32), name="one")
        made.graph.register_initializer(one)
        return made

    filled = model()
    run(filled, method="classical")
    assert [node.op_type for node in filled.graph] == ["Gemm", "Add"]
    assert model_sha256(filled) == model_sha256(model())
    assert model_sha256(ir.from_onnx_text(text)) == model_sha256(model())


def test_hash_sees_bodies_and_functions():
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    net (float[4] x, bool c) => (float[4] y)
    {
      z = own.twice (x)
      y = If (c) <then_branch = yes () => (float[4] t) {t = Relu (z)},
                  else_branch = no () => (float[4] e) {e = Tanh (z)}>
    }
    <domain: "own", opset_import: ["" : 17]>
    twice (a) => (b) { b = Add (a, a) }
    """
    found = {
        model_sha256(ir.from_onnx_text(text.replace(*pair)))
        for pair in (("", ""), ("Relu", "Abs"), ("Add", "Mul"))
    }
    assert len(found) == 3


def test_linear_and_embedding_are_set_differently():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[n, s] x, float[40, 64] table) => (float[n, s, 64] y) { y = Gather (table, x) }
    """
    stds = {}
    for role in ("embedding", "linear", "conv"):
        model = net(text)
        _, outcomes = run(model, method="kaiming", roles=(f"table={role}",))
        assert outcomes["table"].role == role
        stds[role] = values(model)["table"].std()
    assert stds["embedding"] == pytest.approx(1, rel=0.2)  # nothing normalises what it gives
    assert stds["linear"] == pytest.approx(64**-0.5, rel=0.1)
    assert stds["conv"] == pytest.approx(64**-0.5, rel=0.1)


def test_left_operand_given_as_linear_has_its_true_fan_in():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 16, 4] x, float[16, 16] mix) => (float[n, 16, 4] y) { y = MatMul (mix, x) }
    """
    (kept,) = read_model(net(text)).parameters
    assert not kept.learnable
    (given,) = read_model(net(text), {"mix": GivenRole(Role.LINEAR, "test")}).parameters
    assert given.learnable and given.fan_in == 16 and given.logical_shape == (16, 16)


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("nothing=bias", ["no float tensor 'nothing'"]),
        ("conv_w=kernel", ["'kernel'", "choose one of"]),
        ("conv_w=running_mean", ["'running_mean'", "choose one of"]),
        ("conv_b=conv", ["conv_b", "[8]"]),
    ],
)
def test_role_that_does_not_fit(role, words):
    with pytest.raises(OptionError) as caught:
        onnx_ghn.inspect(net(), InitializeOptions(roles=(role,)))
    for word in ("--role", *words):
        assert word in str(caught.value)
    with pytest.raises(OptionError, match="two roles"):
        onnx_ghn.inspect(net(), InitializeOptions(roles=("grid=bias", "grid=position")))
    with pytest.raises(OptionError, match="NAME=ROLE"):
        InitializeOptions(roles=("grid",))


def test_constant_keeps_and_a_name_may_hold_an_equals_sign():
    model = net(NET.replace("head_b", "head_b1"))
    value = model.graph.initializers.pop("head_b1")
    value.name = "a=b"
    model.graph.register_initializer(value)
    _, outcomes = run(model, roles=("conv_w=constant", "a=b=norm_scale"))
    assert outcomes["conv_w"].status is Status.KEPT
    assert outcomes["a=b"].role == "norm_scale"
    assert (values(model)["a=b"] == 1).all()


def test_every_role_on_every_tensor_is_set_or_refused():
    """Whatever the user says, the pass sets a finite value of the same shape, or says no."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[2, 5, 6] x, float[1, 16, 6] wi, float[1, 16, 4] wr, float[1, 32] wb, float[6] gain,
         float[1] one, float[5, 6] pos, float[6, 6] mix) => (float[5, 1, 2, 4] y)
    {
      a = Mul (x, gain)
      b = Add (a, pos)
      c = Mul (b, one)
      d = Transpose <perm = [1, 0, 2]> (c)
      e = Einsum <equation = "sbi,ij->sbj"> (d, mix)
      y = LSTM <hidden_size = 4> (e, wi, wr, wb)
    }
    """
    names = [value.name for value in net(text).graph.initializers.values()]
    assert len(names) == 7
    done = 0
    for name in names:
        for role in Role:
            model = net(text)
            try:
                run_unwrapped(model, method="classical", roles=(f"{name}={role}",))
            except OptionError as error:
                assert "--role" in str(error)
                continue
            done += 1
            array = values(model)[name]
            assert array.shape == tuple(model.graph.initializers[name].shape)
            assert np.isfinite(array).all()
    assert done > 80


TIED = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[2, 5] ids, float[50, 8] table, float[50, 8] head) => (float[2, 5, 50] y)
{
  e = Gather (table, ids)
  turned = Transpose <perm = [1, 0]> (head)
  y = MatMul (e, turned)
}
"""


def tied():
    """A table and a head of equal numbers in two tensors."""
    model = ir.from_onnx_text(TIED)
    array = np.random.default_rng(0).random((50, 8), np.float32)
    for value in model.graph.inputs[1:]:
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    del model.graph.inputs[1:]
    return model


def test_a_tie_that_is_parted_is_reported():
    def warnings(**options):
        report = onnx_ghn.inspect(tied(), InitializeOptions(method="classical", **options))
        return [warning for warning in report.warnings if "tied" in warning]

    assert warnings() == []
    assert warnings(include=("other",)) == []
    for options in ({"exclude": ("head",)}, {"include": ("table",)}):
        (warning,) = warnings(**options)
        assert "'head' stays" in warning and "'table' gets a new value" in warning
        assert "clude pattern" in warning


def test_a_pattern_that_matches_nothing_is_reported():
    options = InitializeOptions(method="classical", include=("table", "tabel*"), exclude=("h?",))
    warnings = onnx_ghn.inspect(tied(), options).warnings
    assert [warning.split(":")[0] for warning in warnings if "matches no float" in warning] == [
        "--include 'tabel*' matches no float tensor",
        "--exclude 'h?' matches no float tensor",
    ]


def test_a_tied_head_is_reported_as_what_made_its_numbers():
    model = tied()
    initialize = Initialize(InitializeOptions(method="classical"))
    initialize(model)
    table, head = initialize.report.outcomes
    values = [model.graph.initializers[name].const_value.numpy() for name in ("table", "head")]
    assert np.array_equal(*values)
    assert (table.role, head.role) == ("embedding", "linear")
    assert table.method == head.method == "normal"
    assert "the same numbers as 'table'" in head.reason


def test_a_plan_with_tied_tensors_can_be_given_back(tmp_path):
    path = tmp_path / "plan.json"
    onnx_ghn.inspect(tied(), InitializeOptions(method="classical"), save_plan=path)
    report = onnx_ghn.inspect(tied(), InitializeOptions(plan=path))
    assert [outcome.method for outcome in report.outcomes] == ["normal", "normal"]


@pytest.mark.parametrize("predicts", [True, False])
def test_images_are_normalised_as_for_the_archive_where_the_plan_predicts(
    saved, untrained_file, predicts
):
    """Under an untrained archive `auto` itself predicts nothing."""

    def edit(plan, entries):
        if predicts:
            entries["conv_w"] |= {"action": "predict"}
            entries["conv_w"].pop("method")

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    options = InitializeOptions(engine="onnxruntime", plan=saved(edit))
    model, _ = onnx_ghn.initialize(net(), options=options, data=[(images, np.arange(4))])
    mean = read_info(untrained_file).config.mean if predicts else ()
    assert model.metadata_props["onnx_ghn_input.mean"] == ",".join(map(repr, mean))

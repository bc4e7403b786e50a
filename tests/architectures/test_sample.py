import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from onnx_ghn.architectures.builder import OPSET
from onnx_ghn.architectures.sample import FAMILY, NORM, sample
from onnx_ghn.architectures.spaces import FAMILIES, SPACES
from onnx_ghn.errors import OptionError
from onnx_ghn.read.reading import read_model
from onnx_ghn.run.interpreter import Interpreter

SEEDS = range(6)
WEIGHTED = ("Conv", "Gemm")


def learnable(model):
    return {
        name: tuple(value.shape)
        for name, value in model.graph.initializers.items()
        if value.const_value is None
    }


def filled(model, seed=0):
    """Give every weight a value of a sensible scale."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in learnable(model).items():
        scale = 1.0 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        values[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
        if name.startswith("scale"):
            values[name] = np.abs(values[name]) + 0.5
        model.graph.initializers[name].const_value = ir.Tensor(values[name], name=name)
    return values


def describe(model):
    return [
        (node.op_type, [value.name for value in node.inputs], sorted(map(str, node.attributes)))
        for node in model.graph
    ], learnable(model)


@pytest.mark.parametrize("space", [name for name in SPACES if name not in ("deep", "wide")])
@pytest.mark.parametrize("seed", SEEDS)
def test_is_a_valid_model_that_runs_the_same_in_both_engines(space, seed):
    model = sample(space, seed, image_side=16)
    values = filled(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
    (expected,) = session.run(None, {"input": images})
    assert expected.shape == (3, 10)
    weights = {name: torch.from_numpy(value) for name, value in values.items()}
    (logits,) = Interpreter(model)(torch.from_numpy(images), weights)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(logits.numpy() / scale, expected / scale, atol=2e-4)


@pytest.mark.parametrize("space", ["full", "broad"])
@pytest.mark.parametrize("seed", SEEDS)
def test_declared_shapes_are_those_that_onnx_infers(space, seed):
    model = sample(space, seed)
    if model.metadata_props[NORM] == "gn":
        pytest.skip("onnx infers no shapes through GroupNormalization")
    declared = {v.name: [str(d) for d in v.shape] for node in model.graph for v in node.outputs}
    filled(model)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    seen = 0
    for info in inferred.graph.value_info:
        dims = [d.dim_param or str(d.dim_value) for d in info.type.tensor_type.shape.dim]
        if info.name in declared:
            seen += 1
            assert dims == declared[info.name], info.name
    assert seen >= len(declared) - 1


@pytest.mark.parametrize("space", SPACES)
def test_stays_within_the_ranges_of_its_space(space):
    ranges = SPACES[space]
    for seed in range(3 if space == "deep" else 12):
        model = sample(space, seed)
        shapes = learnable(model)
        parameters = sum(int(np.prod(shape)) for shape in shapes.values())
        layers = sum(node.op_type in ("Conv", "Gemm") for node in model.graph) + sum(
            node.op_type == "MatMul" and node.inputs[1].is_initializer() for node in model.graph
        )
        assert ranges.parameters[0] <= parameters <= ranges.parameters[1]
        assert ranges.layers[0] <= layers <= ranges.layers[1]
        assert model.metadata_props[FAMILY] in ranges.families
        if model.metadata_props[FAMILY] != "vit":
            assert model.metadata_props[NORM] in ranges.norms


def test_every_family_and_form_is_drawn():
    models = [sample("broad", seed) for seed in range(80)]
    assert {model.metadata_props[FAMILY] for model in models} == set(FAMILIES)
    assert any(name.startswith("token") for model in models for name in learnable(model))
    heads = {next(n for n in reversed(model.graph) if n.op_type in WEIGHTED) for model in models}
    assert {node.op_type for node in heads} == {"Conv", "Gemm"}


@pytest.mark.parametrize("space", ["narrow", "full"])
def test_depends_on_space_and_seed_alone(space):
    assert describe(sample(space, 3)) == describe(sample(space, 3))
    assert describe(sample(space, 3)) != describe(sample(space, 4))


@pytest.mark.parametrize("seed", range(12))
def test_image_side_changes_no_weight_but_positions(seed):
    small, large = (learnable(sample("full", seed, image_side=side)) for side in (16, 32))
    assert small.keys() == large.keys()
    differing = {name for name in small if small[name] != large[name]}
    assert all(name.startswith("position") for name in differing)


def test_classes_change_the_last_layer_alone():
    ten, seven = sample("full", 2), sample("full", 2, classes=7)
    before, after = learnable(ten), learnable(seven)
    changed = [name for name in before if before[name] != after[name]]
    assert len(changed) == 2
    assert all(after[name][0] == 7 for name in changed)


@pytest.mark.parametrize("space", [name for name in SPACES if name != "deep"])
def test_the_reader_finds_every_weight_and_a_node_for_it(space):
    for seed in SEEDS:
        model = sample(space, seed)
        reading = read_model(model)
        found = {p.name for p in reading.parameters if p.learnable}
        assert found == set(learnable(model))
        assert reading.graph is not None
        slots = {slot.parameter for slots in reading.graph.slots for slot in slots}
        without = {
            parameter.name
            for index, parameter in enumerate(reading.parameters)
            if parameter.learnable and index not in slots
        }
        if model.metadata_props[NORM] != "gn":
            assert not without


def test_refuses_what_it_can_not_draw():
    with pytest.raises(OptionError, match="narrow"):
        sample("enormous", 0)
    with pytest.raises(OptionError, match="8 pixels"):
        sample("narrow", 0, image_side=4)


def test_models_declare_the_opset_that_they_use():
    assert sample("full", 0).opset_imports == {"": OPSET}

"""What the tool calls a change of values only, and what it calls damage."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnx_ghn import model_io
from onnx_ghn.errors import ModelError

TOOL = Path(__file__).parents[2] / "tools" / "graph_diff.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("graph_diff", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def model():
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17], producer_name: "maker">
        g (float[1, 2] x, float[2, 2] v) => (float[1, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, int64[1] s = {2}, float[1, 2] h> {
            c = ConstantOfShape <value = float[1] {0}> (s)
            h = MatMul(x, w)
            k = MatMul(h, v)
            y = Add(k, c)
        }"""
    )
    proto.metadata_props.add(key="author", value="somebody")
    proto.metadata_props.add(key="zoo", value="somewhere")
    return proto


def changed(change):
    proto = model()
    change(proto)
    return proto


def set_weight(proto):
    array = np.full((2, 2), 7, np.float32)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))


def fill_input(proto):
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), np.float32), "v"))


def fill_constant(proto):
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "c"))
    del proto.graph.node[0]


def add_provenance(proto):
    proto.metadata_props.add(key="onnx_ghn.seed", value="1")


def reorder_lists(proto):
    entries = [(entry.key, entry.value) for entry in proto.metadata_props]
    del proto.metadata_props[:]
    for key, value in reversed(entries):
        proto.metadata_props.add(key=key, value=value)


@pytest.mark.parametrize(
    ("change", "names", "notes"),
    [
        (lambda proto: None, [], 0),
        (set_weight, ["w"], 0),
        (fill_input, ["v"], 1),
        (fill_constant, ["c"], 1),
        (add_provenance, [], 1),
        (reorder_lists, [], 0),
    ],
)
def test_what_initialisation_may_do(tool, change, names, notes):
    found = tool.difference(model(), changed(change))
    assert found.refused == []
    assert found.changed == names
    assert len(found.allowed) == notes


def test_ir_version_may_only_be_raised_to_4(tool):
    def versions(before, after):
        a, b = model(), model()
        a.ir_version, b.ir_version = before, after
        return tool.compare(a, b)

    assert versions(3, 4) == []
    assert versions(3, 5)
    assert versions(4, 9)
    assert versions(9, 4)


def retype(proto):
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float64), "w")
    proto.graph.initializer[0].CopyFrom(tensor)


def in_place(field, value):
    def change(proto):
        target = proto
        *path, last = field.split(".")
        for step in path:
            name, _, index = step.partition("@")
            target = getattr(target, name)
            if index:
                target = target[int(index)]
        name, _, index = last.partition("@")
        if index:
            getattr(target, name)[int(index)] = value
        else:
            setattr(target, name, value)

    return change


DAMAGE = {
    "operator": in_place("graph.node@1.op_type", "Gemm"),
    "domain": in_place("graph.node@1.domain", "other"),
    "node name": in_place("graph.node@1.name", "renamed"),
    "node input": in_place("graph.node@2.input@0", "x"),
    "node output": in_place("graph.node@1.output@0", "renamed"),
    "attribute": lambda proto: proto.graph.node[1].attribute.append(helper.make_attribute("a", 1)),
    "node order": lambda proto: proto.graph.node.insert(0, proto.graph.node.pop(1)),
    "node gone": lambda proto: proto.graph.node.pop(1),
    "node new": lambda proto: proto.graph.node.append(helper.make_node("Relu", ["x"], ["z"])),
    "graph name": in_place("graph.name", "other"),
    "input": lambda proto: proto.graph.input.pop(1),
    "output": lambda proto: proto.graph.output.append(proto.graph.input[0]),
    "output shape": in_place("graph.output@0.type.tensor_type.elem_type", 11),
    "value_info gone": lambda proto: proto.graph.value_info.pop(0),
    "value_info new": lambda proto: proto.graph.value_info.append(
        helper.make_tensor_value_info("k", 1, [1, 2])
    ),
    "initializer gone": lambda proto: proto.graph.initializer.pop(0),
    "initializer new": lambda proto: proto.graph.initializer.append(
        numpy_helper.from_array(np.ones(1, np.float32), "extra")
    ),
    "initializer order": lambda proto: proto.graph.initializer.append(
        proto.graph.initializer.pop(0)
    ),
    "initializer type": retype,
    "opset": in_place("opset_import@0.version", 18),
    "metadata": in_place("metadata_props@0.value", "nobody"),
    "producer": in_place("producer_name", "onnx-ghn"),
    "documentation": in_place("graph.doc_string", "new"),
    "function": lambda proto: proto.functions.append(
        helper.make_function("f", "F", ["a"], ["a"], [], [helper.make_opsetid("", 17)])
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_seen(tool, damage):
    assert tool.compare(model(), changed(DAMAGE[damage]))


def test_an_ordinary_node_may_not_become_an_initializer(tool):
    def change(proto):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 2), np.float32), "h"))
        del proto.graph.node[1]

    assert tool.compare(model(), changed(change))


def with_branch(scale):
    inner = numpy_helper.from_array(np.full(2, scale, np.float32), "inner")
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", 1, [1, 2])],
        [inner],
    )
    proto = model()
    proto.graph.node.append(
        helper.make_node("If", ["t"], ["z"], then_branch=branch, else_branch=branch)
    )
    return proto


def test_subgraphs_are_compared(tool):
    found = tool.difference(with_branch(1), with_branch(2))
    assert found.refused == []
    assert found.changed == ["inner", "inner"]
    damaged = with_branch(1)
    damaged.graph.node[-1].attribute[0].g.node[0].op_type = "Mul"
    assert tool.compare(with_branch(1), damaged)


def test_command_line(tool, tmp_path, capsys):
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "c.onnx"]
    for path, proto in zip(
        paths, [model(), changed(set_weight), changed(DAMAGE["operator"])], strict=True
    ):
        path.write_bytes(proto.SerializeToString())
    assert tool.main([str(paths[0]), str(paths[1])]) == 0
    assert "1 tensors changed" in capsys.readouterr().out
    assert tool.main([str(paths[0]), str(paths[2])]) == 1
    assert "op_type differs" in capsys.readouterr().out


@pytest.mark.corpus
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.long)])
def test_models_come_back_from_onnx_ir_unchanged(tool, corpus, tmp_path, step):
    """What is loaded is what is written, whatever exporter made it. Missing data becomes zeros."""
    copy, damaged, copied = tmp_path / "copy.onnx", {}, 0
    for path in sorted((corpus / "models").glob("*.onnx"))[::step]:
        loaded = model_io.load(path)
        for value in (value for graph in loaded.graphs() for value in graph.initializers.values()):
            tensor = value.const_value
            if not model_io.has_value(value):
                zeros = partial(np.zeros, tensor.shape.numpy(), tensor.dtype.numpy())
                value.const_value = ir.LazyTensor(
                    lambda zeros=zeros, dtype=tensor.dtype: ir.Tensor(zeros(), dtype=dtype),
                    dtype=tensor.dtype,
                    shape=tensor.shape,
                    name=value.name,
                )
        if sum(value.const_value.nbytes for value in loaded.graph.initializers.values()) > 64e6:
            continue
        try:
            model_io.save(loaded, copy, force=True)
        except ModelError as error:
            assert "Constant" in str(error)
            continue
        copied += 1
        found = tool.compare(onnx.load(path, load_external_data=False), onnx.load(copy))
        if found:
            damaged[path.name] = found[:3]
    assert damaged == {}
    assert copied > 100 / step

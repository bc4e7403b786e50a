"""Hand-made hostile and broken model files, built when a test asks for them.

`CASES` maps a name to a `Case`: a function that builds the file in an empty folder and returns
its path, and what reading it has to end in: words of the refusal, or None for a clean load.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

MB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A file and what has to come of it."""

    build: Callable[[Path], Path]
    refusal: str | None


CASES: dict[str, Case] = {}


def case(refusal: str | None, *variants: object) -> Callable[[Callable], Callable]:
    """Register a builder, once for each variant, which it gets as its argument."""

    def register(build: Callable) -> Callable:
        for variant in variants or (None,):
            name = build.__name__ if variant is None else f"{build.__name__}-{str(variant)[:40]!r}"
            assert name not in CASES

            def make(folder: Path, variant: object = variant) -> Path:
                made = build() if variant is None else build(variant)
                if callable(made):
                    made = made(folder)
                return made if isinstance(made, Path) else write(folder, made)

            CASES[name] = Case(make, refusal)
        return build

    return register


def write(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    if isinstance(content, onnx.ModelProto):
        content = content.SerializeToString()
    path.write_bytes(content)
    return path


def value(name: str, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weight(name: str = "w", shape: tuple[int, ...] = (4, 4)) -> TensorProto:
    data = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return numpy_helper.from_array(data, name)


def model(*nodes: onnx.NodeProto, initializers: tuple = (), **keywords) -> onnx.ModelProto:
    """x -> MatMul(w) -> y, or other nodes between x and y."""
    nodes = nodes or (helper.make_node("MatMul", ["x", "w"], ["y"], name="mm"),)
    initializers = initializers or (weight(),)
    graph = helper.make_graph(nodes, "g", [value("x", [1, 4])], [value("y", [1, 4])], initializers)
    keywords.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    keywords.setdefault("ir_version", 9)
    return helper.make_model(graph, **keywords)


def external(tensor: TensorProto, **entries: object) -> TensorProto:
    """The tensor with its data elsewhere."""
    entries.setdefault("location", "weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(text)
    return tensor


def with_file(proto: onnx.ModelProto, size: int = 64) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / "weights.bin").write_bytes(bytes(size))
        return write(folder, proto)

    return build


# External data: where it lies


@case(
    "outside|absolute|no file name",
    "../secret",
    "a/../../secret",
    "..",
    "..\\secret",
    "/etc/passwd",
)
def location(text):
    return model(initializers=(external(weight(), location=text, offset=0, length=64),))


@case("absolute", "C:\\secret", "\\\\server\\share", "/dev/zero", "/dev/stdin")
def absolute_location(text):
    return model(initializers=(external(weight(), location=text),))


@case("no file name|can't be read", "", "a\0b", "x" * 5000)
def impossible_location(text):
    return model(initializers=(external(weight(), location=text),))


@case("no file name")
def no_location():
    tensor = external(weight(), length=64)
    del tensor.external_data[[entry.key for entry in tensor.external_data].index("location")]
    return model(initializers=(tensor,))


@case("link", "file", "folder", "device")
def symbolic_link(kind):
    def build(folder: Path) -> Path:
        outside = folder.parent / f"{folder.name}-outside"
        outside.mkdir(exist_ok=True)
        (outside / "weights.bin").write_bytes(bytes(64))
        place = "weights.bin"
        if kind == "file":
            (folder / place).symlink_to(outside / place)
        elif kind == "device":
            (folder / place).symlink_to("/dev/zero")
        else:
            (folder / "data").symlink_to(outside)
            place = "data/weights.bin"
        return write(folder, model(initializers=(external(weight(), location=place),)))

    return build


@case("can't be read")
def symbolic_link_to_itself():
    def build(folder: Path) -> Path:
        (folder / "weights.bin").symlink_to("weights.bin")
        return write(folder, model(initializers=(external(weight()),)))

    return build


@case("hard link")
def hard_link():
    def build(folder: Path) -> Path:
        outside = folder.parent / f"{folder.name}-secret"
        outside.write_bytes(bytes(64))
        os.link(outside, folder / "weights.bin")
        return write(folder, model(initializers=(external(weight()),)))

    return build


@case("no regular file", "folder", "pipe")
def location_is_no_file(kind):
    def build(folder: Path) -> Path:
        if kind == "folder":
            (folder / "weights.bin").mkdir()
        else:
            os.mkfifo(folder / "weights.bin")
        return write(folder, model(initializers=(external(weight()),)))

    return build


@case("absolute", "Constant", "function", "subgraph")
def hidden_location(where):
    tensor = external(weight("c"), location="/etc/passwd", length=64)
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    if where == "Constant":
        return model(constant, helper.make_node("MatMul", ["x", "c"], ["y"]))
    if where == "function":
        body = [constant, helper.make_node("MatMul", ["a", "c"], ["b"])]
        function = helper.make_function("f", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        return model(
            helper.make_node("F", ["x"], ["y"], domain="f"),
            functions=[function],
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("f", 1)],
        )
    return model(*conditional(initializers=[tensor]))


def conditional(*nodes: onnx.NodeProto, initializers: tuple | list = ()) -> list[onnx.NodeProto]:
    """An If whose branches hold the nodes, then its output as y."""
    body = nodes or (helper.make_node("MatMul", ["x", "c" if initializers else "w"], ["b"]),)
    branch = helper.make_graph(body, "branch", [], [value("b", [1, 4])], initializers)
    condition = helper.make_node(
        "Constant", [], ["t"], value=numpy_helper.from_array(np.array(True))
    )
    return [condition, helper.make_node("If", ["t"], ["y"], then_branch=branch, else_branch=branch)]


# External data: what is said of it


@case("key", "format", "cache", "Location", "__class__")
def unknown_key(key):
    return model(initializers=(external(weight(), **{key: "x"}),))


@case("repeated")
def repeated_key():
    tensor = external(weight())
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "other.bin"
    return model(initializers=(tensor,))


@case("byte count", "-1", "9" * 40, "0x10", "1.0", "", " 1", "\u0661", "1_0")
def impossible_offset(text):
    return with_file(model(initializers=(external(weight(), offset=text),)))


@case("bytes of external data", 63, 65, 0, 10**17)
def wrong_length(length):
    return with_file(model(initializers=(external(weight(), length=length),)))


@case("copy the complete file", 1, 10**17)
def out_of_range(offset):
    return with_file(model(initializers=(external(weight(), offset=offset, length=64),)))


@case("copy the complete file")
def empty_data_file():
    return with_file(model(initializers=(external(weight()),)), 0)


@case("overlap")
def overlapping_ranges():
    both = (external(weight("w"), offset=0), external(weight("v"), offset=32))
    return with_file(model(initializers=both), 96)


@case(None)
def same_range_twice():
    return with_file(model(initializers=(external(weight("w")), external(weight("v")))))


@case(None)
def missing_data_file():
    return model(initializers=(external(weight(), offset=10**12, length=64),))


@case("can't have external data")
def external_and_inline():
    tensor = weight()
    data = tensor.raw_data
    tensor = external(tensor)
    tensor.raw_data = data
    return with_file(model(initializers=(tensor,)))


@case("can't have external data")
def external_text():
    tensor = helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"])
    tensor.ClearField("string_data")
    return with_file(model(initializers=(weight(), external(tensor))))


# Tensors


def changed_weight(**fields: object) -> onnx.ModelProto:
    tensor = weight()
    for name, content in fields.items():
        if name in ("dims", "float_data", "int32_data", "int64_data"):
            del getattr(tensor, name)[:]
            getattr(tensor, name).extend(content)
        elif content is None:
            tensor.ClearField(name)
        else:
            setattr(tensor, name, content)
    return model(initializers=(tensor,))


@case("negative", [-1], [-4, -4], [4, -(2**63)])
def negative_dimensions(dims):
    return changed_weight(dims=dims)


@case("claims", [2**40, 2**40], [2**62, 4], [2**63 - 1] * 3, [1] * 100, [2**32, 4])
def huge_dimensions(dims):
    return changed_weight(dims=dims)


@case("claims", [2**20, 2**20], [2**33])
def huge_dimensions_without_data(dims):
    return changed_weight(dims=dims, raw_data=None)


@case("damaged", 0, 1, 63, 65, 4096)
def wrong_number_of_bytes(size):
    # No bytes at all is a tensor without a value, so the empty case gets one byte as well.
    return changed_weight(raw_data=bytes(size or 2))


@case("damaged", 1, 15, 17)
def wrong_number_of_floats(count):
    return changed_weight(raw_data=None, float_data=[0.5] * count)


@case("int64_data")
def data_in_the_wrong_field():
    return changed_weight(raw_data=None, int64_data=[1] * 16)


@case("twice")
def data_in_two_fields():
    return changed_weight(float_data=[0.5] * 16)


@case("element type", 0, 99, -1, 2**31 - 1)
def unknown_element_type(data_type):
    return changed_weight(data_type=data_type)


@case("damaged")
def element_type_of_another_size():
    return changed_weight(data_type=TensorProto.DOUBLE)


@case("segments")
def segmented_tensor():
    proto = changed_weight()
    proto.graph.initializer[0].segment.begin = 0
    return proto


@case("no data")
def integers_without_data():
    tensor = TensorProto(name="shape", data_type=TensorProto.INT64, dims=[2])
    return model(
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
        initializers=(weight(), tensor),
    )


@case("STRING")
def text_in_raw_data():
    tensor = TensorProto(name="s", data_type=TensorProto.STRING, dims=[1], raw_data=b"abc")
    return model(initializers=(weight(), tensor))


@case(None)
def floats_without_data():
    return changed_weight(raw_data=None)


@case(None)
def no_elements():
    empty = TensorProto(name="empty", data_type=TensorProto.FLOAT, dims=[0, 2**40])
    return model(initializers=(weight(), empty))


@case(None)
def packed_int4():
    tensor = helper.make_tensor("i", TensorProto.INT4, [3], [1, -2, 3])
    return model(initializers=(weight(), tensor), ir_version=10)


# Graphs


@case("cycle")
def cycle():
    return model(
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    )


@case("cycle")
def node_that_feeds_itself():
    return model(helper.make_node("Add", ["x", "y"], ["y"]))


@case("cycle")
def cycle_through_a_subgraph():
    return model(*conditional(helper.make_node("Add", ["x", "y"], ["b"])))


@case("cycle")
def cycle_of_thousands():
    count = 20_000
    ring = [helper.make_node("Add", ["x", f"v{(i + 1) % count}"], [f"v{i}"]) for i in range(count)]
    return model(*ring, helper.make_node("MatMul", ["v0", "w"], ["y"]))


@case(None)
def unsorted():
    return model(
        helper.make_node("MatMul", ["h", "w"], ["y"]), helper.make_node("Relu", ["x"], ["h"])
    )


@case("nothing produces", "main", "subgraph")
def undefined_input(where):
    node = helper.make_node("MatMul", ["ghost", "w"], ["y" if where == "main" else "b"])
    return model(node) if where == "main" else model(*conditional(node))


@case("nothing produces")
def undefined_output():
    return model(helper.make_node("Relu", ["x"], ["z"]))


@case("nothing produces")
def name_from_inside_a_subgraph():
    return model(
        *conditional(
            helper.make_node("Relu", ["x"], ["inner"]), helper.make_node("Relu", ["inner"], ["b"])
        )[:1],
        helper.make_node("MatMul", ["inner", "w"], ["y"]),
    )


@case("twice", "y", "w", "x")
def redefined(name):
    return model(
        helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["x"], [name])
    )


@case("twice")
def duplicate_initializer():
    return model(initializers=(weight(), weight()))


@case("twice")
def duplicate_input():
    proto = model()
    proto.graph.input.append(value("x", [1, 4]))
    return proto


@case("no name")
def nameless_initializer():
    return model(initializers=(weight(), weight("")))


@case("empty")
def no_nodes():
    proto = model()
    del proto.graph.node[:]
    return proto


@case("no graph|no IR version", "graph", "ir_version")
def missing_part(part):
    proto = model()
    proto.ClearField(part)
    return proto


@case("no opset")
def no_opset():
    proto = model()
    del proto.opset_import[:]
    return proto


@case("opset", 0, -1, 9999, 2**62)
def unknown_opset(version):
    return model(opset_imports=[helper.make_opsetid("", version)])


@case("two versions")
def two_opsets():
    return model(opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx", 12)])


@case("IR version", 0, 1, 2, 99, -3, 2**62)
def unknown_ir_version(version):
    return model(ir_version=version)


@case("imports no opset")
def unknown_domain():
    return model(helper.make_node("Magic", ["x", "w"], ["y"], domain="nobody"))


@case("no operator")
def no_operator():
    return model(helper.make_node("", ["x", "w"], ["y"]))


@case("sparse")
def sparse_initializer():
    proto = model()
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [3])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [16]))
    return proto


@case("sparse")
def sparse_attribute():
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [3])
    sparse = helper.make_sparse_tensor(values, indices, [16])
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    return model(node, helper.make_node("MatMul", ["x", "w"], ["y"]))


@case("training_info")
def training_info():
    proto = model()
    proto.training_info.add().algorithm.name = "sgd"
    return proto


def attributed(**fields: object) -> onnx.ModelProto:
    """The node with an attribute that is no proper one."""
    proto = model()
    attribute = proto.graph.node[0].attribute.add()
    attribute.name = "a"
    for name, content in fields.items():
        setattr(attribute, name, content)
    return proto


@case("no type")
def untyped_attribute():
    return attributed(i=1)


@case("no value", AttributeProto.TENSOR, AttributeProto.GRAPH)
def attribute_without_value(kind):
    return attributed(type=kind)


@case("outside of a function")
def attribute_of_no_function():
    return attributed(ref_attr_name="b", type=AttributeProto.INT)


@case("twice")
def duplicate_attribute():
    proto = attributed(i=1, type=AttributeProto.INT)
    proto.graph.node[0].attribute.append(proto.graph.node[0].attribute[0])
    return proto


@case("UTF-8")
def texts_that_are_no_text():
    proto = attributed(type=AttributeProto.STRINGS)
    proto.graph.node[0].attribute[0].strings.append(b"\xff\xfe")
    return proto


@case(None)
def text_that_is_no_text():
    return attributed(type=AttributeProto.STRING, s=b"\xff\xfe")


@case(
    "UTF-8",
    "operator",
    "node",
    "value",
    "initializer",
    "producer",
    "documentation",
    "key",
    "domain",
)
def name_that_is_no_text(where):
    proto = model()
    mark = "QQQQ"
    if where == "operator":
        proto.graph.node[0].op_type = mark
    elif where == "node":
        proto.graph.node[0].name = mark
    elif where == "value":
        proto.graph.node[0].output[0] = mark
    elif where == "initializer":
        proto.graph.initializer[0].name = mark
    elif where == "producer":
        proto.producer_name = mark
    elif where == "documentation":
        proto.graph.doc_string = mark
    elif where == "domain":
        proto.opset_import.add(domain=mark, version=1)
    else:
        proto.metadata_props.add(key=mark, value="v")
    return proto.SerializeToString().replace(mark.encode(), b"\xff\xfe\xff\xfe")


@case("nothing produces")
def name_of_many_lines():
    return model(helper.make_node("MatMul", ["first\nTraceback\r\x1b[31m second", "w"], ["y"]))


@case("operator takes", ["x"], ["x", "w", "w"])
def wrong_number_of_inputs(inputs):
    return model(helper.make_node("MatMul", inputs, ["y"]))


@case("lacks its input")
def blank_input():
    return model(helper.make_node("MatMul", ["", "w"], ["y"]))


@case("operator takes", 1.5, [1], "one")
def attribute_of_the_wrong_type(axis):
    return model(helper.make_node("Concat", ["x"], ["y"], axis=axis))


# Functions


def with_functions(**bodies: str | list[str]) -> onnx.ModelProto:
    """Functions by name, each calling those that are named, one after the other."""
    functions = []
    for name, called in bodies.items():
        calls = [called] if isinstance(called, str) else called
        nodes = [
            helper.make_node(other, [f"v{i}"], [f"v{i + 1}"], domain="f" if other != "Relu" else "")
            for i, other in enumerate(calls)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", name, ["v0"], [f"v{len(calls)}"], nodes, opsets))
    return model(
        helper.make_node(next(iter(bodies)), ["x"], ["h"], domain="f"),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
        functions=functions,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("f", 1)],
    )


@case("calls itself")
def recursive_function():
    return with_functions(F="F")


@case("calls itself")
def mutual_recursion():
    return with_functions(F="G", G=["Relu", "H"], H="F")


@case("twice")
def function_defined_twice():
    proto = with_functions(F="Relu")
    proto.functions.append(proto.functions[0])
    return proto


@case("nothing produces")
def function_without_its_output():
    proto = with_functions(F="Relu")
    proto.functions[0].output[0] = "ghost"
    return proto


@case("no name")
def nameless_function():
    proto = with_functions(F="Relu")
    proto.functions.add(domain="f").opset_import.add(domain="", version=17)
    return proto


def chain_of_functions(count: int, calls: int) -> onnx.ModelProto:
    chain = {f"F{i}": [f"F{i + 1}"] * calls for i in range(count - 1)}
    return with_functions(**chain, **{f"F{count - 1}": "Relu"})


@case(None)
def long_chain_of_functions():
    return chain_of_functions(500, 1)


@case("functions")
def too_many_functions():
    return chain_of_functions(3000, 1)


@case("expand", 2, 1000)
def functions_that_explode(calls):
    return chain_of_functions(60 if calls == 2 else 10, calls)


# Types


@case("negative dimension")
def negative_dimension_of_an_input():
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -7
    return proto


@case("element type", 77, -1)
def unknown_element_type_of_an_output(element):
    proto = model()
    proto.graph.output[0].type.tensor_type.elem_type = element
    return proto


@case("unknown elements")
def sequence_of_nothing():
    proto = model()
    proto.graph.output[0].type.sequence_type.SetInParent()
    return proto


@case(None, 3, 40)
def nested_sequences(depth):
    proto = model()
    inner = proto.graph.output[0].type
    for _ in range(depth):
        inner = inner.sequence_type.elem_type
    inner.tensor_type.elem_type = TensorProto.FLOAT
    return proto


@case("nested too deeply")
def types_within_types_without_end():
    encoded = b""
    for _ in range(2000):
        encoded = field(4, field(1, encoded))
    return model().SerializeToString() + field(7, field(12, field(2, encoded)))


@case(None)
def map_type():
    proto = model()
    map_type = proto.graph.output[0].type.map_type
    map_type.key_type = TensorProto.INT64
    map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    return proto


# Bytes


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


@case("empty")
def empty_file():
    return b""


@case(
    "not an ONNX model",
    b"\x00",
    b"hello world\n",
    b"PK\x03\x04" + bytes(200),
    b"\x89PNG\r\n\x1a\n" + bytes(200),
    bytes(MB),
    b"\xff" * 64,
    b"<!DOCTYPE html><html></html>",
)
def other_file(content):
    return content


@case("not an ONNX model")
def json_file():
    return json.dumps({"irVersion": "9", "graph": {}}).encode()


@case("not an ONNX model")
def pickle_file():
    return pickle.dumps({"weights": [1.0, 2.0]})


@case("not an ONNX model", 1, 2, 3)
def random_bytes(seed):
    return random.Random(seed).randbytes(65_536)


@case("not an ONNX model", 0.1, 0.5, 0.9, 0.99)
def truncated(share):
    content = model(initializers=(weight(shape=(64, 64)),)).SerializeToString()
    return content[: int(len(content) * share)]


@case("not an ONNX model", b"\x3a\xff\xff\xff\xff\x7f", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
def length_beyond_the_end(encoded):
    return b"\x08\x09" + encoded + b"abc"


@case("not an ONNX model", 100, 1000)
def nested_subgraphs(depth):
    branch = field(1, field(1, b"x") + field(2, b"b") + field(4, b"Relu"))
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, branch) + b"\xa0\x01\x05"
        branch = field(1, field(1, b"x") + field(2, b"b") + field(4, b"If") + field(5, attribute))
    return b"\x08\x09" + field(7, branch) + field(8, b"\x10\x11")


@case("nothing produces")
def name_of_100_megabytes():
    return model(helper.make_node("MatMul", ["n" * 100 * MB, "w"], ["y"]))


@case(None)
def documentation_of_100_megabytes():
    proto = model()
    proto.doc_string = "d" * 100 * MB
    return proto


@case("too large|no operator", 0.9, 7, 64)
def bomb_of_nodes(megabytes):
    return b"\x08\x09" + field(7, b"\x0a\x00" * (int(megabytes * MB) // 2)) + field(8, b"\x10\x11")


@case("too large")
def bomb_of_attributes():
    node = field(4, b"Relu") + b"\x2a\x00" * (20 * MB)
    return b"\x08\x09" + field(7, field(1, node)) + field(8, b"\x10\x11")


@case("too large")
def bomb_of_metadata():
    return model().SerializeToString() + b"\x72\x00" * (20 * MB)


@case("too large")
def bomb_of_names():
    node = field(4, b"Relu") + b"\x0a\x00" * (20 * MB)
    return b"\x08\x09" + field(7, field(1, node)) + field(8, b"\x10\x11")


@case("too large")
def too_many_nodes():
    nodes = b"".join(
        field(1, field(1, b"x") + field(2, b"%d" % i) + field(4, b"Relu")) for i in range(400_000)
    )
    return model().SerializeToString() + field(7, nodes)


@case(None)
def many_nodes():
    names = ["x", *(f"v{i}" for i in range(20_000))]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    return model(*nodes, helper.make_node("MatMul", [names[-1], "w"], ["y"]))


# What is no file


@case("no such file")
def missing_file():
    return lambda folder: folder / "model.onnx"


@case("folder")
def folder_instead_of_file():
    def build(folder: Path) -> Path:
        (folder / "model.onnx").mkdir()
        return folder / "model.onnx"

    return build


@case("no regular file")
def pipe_instead_of_file():
    def build(folder: Path) -> Path:
        os.mkfifo(folder / "model.onnx")
        return folder / "model.onnx"

    return build


@case("no such file|can't be read", "dangling", "model.onnx")
def link_instead_of_file(target):
    def build(folder: Path) -> Path:
        (folder / "model.onnx").symlink_to(target)
        return folder / "model.onnx"

    return build


@case("no regular file")
def socket_instead_of_file():
    def build(folder: Path) -> Path:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket has at most 108 characters
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("model.onnx")
        finally:
            os.chdir(here)
        return folder / "model.onnx"

    return build


@case("no regular file")
def device_instead_of_file():
    def build(folder: Path) -> Path:
        (folder / "model.onnx").symlink_to("/dev/zero")
        return folder / "model.onnx"

    return build


# What an attacker of the command line thinks of next


@case("claims", "Constant", "function")
def huge_tensor_in_an_attribute(where):
    huge = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[2**31, 2**31], raw_data=b"1234")
    constant = helper.make_node("Constant", [], ["c"], value=huge)
    if where == "Constant":
        return model(constant, helper.make_node("MatMul", ["x", "c"], ["y"]))
    return in_function(constant, helper.make_node("MatMul", ["v0", "c"], ["v1"]))


def in_function(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The nodes as the body of a function from v0 to v1."""
    proto = with_functions(F="Relu")
    del proto.functions[0].node[:]
    proto.functions[0].node.extend(nodes)
    return proto


@case("copy the complete file|byte count", 2**63 - 1, 2**63 - 64, 2**64, 2**64 - 64)
def offset_near_the_end_of_numbers(offset):
    return with_file(model(initializers=(external(weight(), offset=offset, length=64),)))


@case(None, 8)
@case("too large", 17)
def branches_of_branches_in_a_function(depth):
    """Both branches of each hold all that follow: 2 ** depth nodes."""
    inner = helper.make_node("Relu", ["v0"], ["b"])
    for _ in range(depth):
        branch = helper.make_graph([inner], "branch", [], [value("b", [1, 4])])
        inner = helper.make_node("If", ["t"], ["b"], then_branch=branch, else_branch=branch)
    true = numpy_helper.from_array(np.array(True))
    return in_function(
        helper.make_node("Constant", [], ["t"], value=true),
        inner,
        helper.make_node("Identity", ["b"], ["v1"]),
    )


@case(None)
def texts_as_weights():
    texts = helper.make_tensor("w", TensorProto.STRING, [4, 4], [b"\xff\x00" * 8] * 16)
    return model(initializers=(texts,))


@case(None)
def initializer_of_a_branch_that_shadows():
    inner = weight("w", (4, 4))
    node = helper.make_node("MatMul", ["x", "w"], ["b"])
    return model(*conditional(node, initializers=[inner]))


@case(None, "nan", "inf", "1e400", "-1", "")
def dimension_with_the_name_of_a_number(name):
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    return proto


@case("too large")
def a_million_nodes():
    node = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Relu"))
    return b"\x08\x09" + field(7, node * 1_000_000) + field(8, b"\x10\x11")


@case(None)
def metadata_of_100_megabytes():
    proto = model()
    proto.metadata_props.add(key="onnx_ghn.provenance", value="{" * 100 * MB)
    return proto


@case(None, "onnx_ghn.role", "onnx_ghn", "onnx_ghn.input", "onnx_ghn.provenance")
def metadata_that_pretends_to_be_ours(key):
    proto = model()
    proto.metadata_props.add(key=key, value='{"mean": NaN, "role": [[[')
    proto.graph.initializer[0].metadata_props.add(key=key, value="\x00\x1b[31m\n")
    return proto


@case(None)
def weights_of_nan_and_infinity():
    array = np.full((4, 4), np.nan, np.float32)
    array[0] = np.inf
    return model(initializers=(numpy_helper.from_array(array, "w"),))


@case(None)
def thousands_of_names_for_one_range():
    tensors = [external(weight(f"w{index}"), offset=0, length=64) for index in range(2000)]
    names = ["x", *(f"h{index}" for index in range(1999)), "y"]
    nodes = [
        helper.make_node("MatMul", [a, f"w{index}"], [b])
        for index, (a, b) in enumerate(itertools.pairwise(names))
    ]
    return with_file(model(*nodes, initializers=tuple(tensors)))


@case(None)
def names_like_paths():
    name = "../../../tmp/" + "a/" * 50
    node = helper.make_node("MatMul", ["x", name], ["y"])
    return model(node, initializers=(weight(name),))


@case(None)
def weight_that_is_the_output():
    return model(helper.make_node("Relu", ["x"], ["h"]), initializers=(weight("y", (1, 4)),))


@case(None, 2**31, 2**62)
def convolution_of_endless_groups(group):
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, strides=[2**62, 2**62])
    return model(node, initializers=(weight(shape=(4, 1, 3, 3)),))


@case(None, [1], [0, 0], [2**62, 2**62], [-1, -1])
def convolution_of_damaged_strides(strides):
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=strides)
    return on_a_map(model(node, initializers=(weight(shape=(4, 1, 3, 3)),)), 8)


@case(None, 2**31, 2**62)
def convolution_of_an_endless_map(side):
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, side, 1, 1])
    return on_a_map(model(node, initializers=(weight(shape=(4, 1, 3, 3)),)), side)


@case(None)
def convolution_of_nothing():
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    return on_a_map(model(node, initializers=(weight(shape=(4, 1, 0, 0)),)), 8)


def on_a_map(proto: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """The model with square maps of so many rows as its input and output."""
    for place, channels in ((proto.graph.input[0], 1), (proto.graph.output[0], 4)):
        place.CopyFrom(value(place.name, [1, channels, side, side]))
    return proto

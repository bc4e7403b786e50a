"""Model files in and out."""

import errno
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from onnx_ghn import model_io
from onnx_ghn.errors import ModelError, OutputError

TOOL = Path(__file__).parent.parent / "tools" / "graph_diff.py"
SIZE = 64
RNG = np.random.default_rng(3)


def lazy_model(count=3, size=SIZE, failing=None):
    """A chain of MatMuls whose weights count how often they are evaluated."""
    evaluations = []
    arrays = [RNG.standard_normal((size, size), dtype=np.float32) for _ in range(count)]
    x = ir.Value(name="x", shape=ir.Shape([1, size]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes, values, current = [], [], x
    for index, array in enumerate(arrays):

        def evaluate(index=index, array=array):
            if index == failing:
                raise ModelError("this tensor can't be made")
            evaluations.append(index)
            return ir.tensor(array)

        tensor = ir.LazyTensor(
            evaluate, dtype=ir.DataType.FLOAT, shape=ir.Shape([size, size]), name=f"w{index}"
        )
        values.append(
            ir.Value(
                name=f"w{index}",
                shape=tensor.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        )
        nodes.append(ir.node("MatMul", [current, values[-1]]))
        current = nodes[-1].outputs[0]
        current.name = f"h{index}"
    current.shape, current.type = x.shape, x.type
    graph = ir.Graph(
        [x], [current], nodes=nodes, initializers=values, opset_imports={"": 17}, name="g"
    )
    return ir.Model(graph, ir_version=9), arrays, evaluations


def skeleton(path, *, missing=True, size=SIZE):
    """A file with one weight whose data is external (and missing), and one inline."""
    model, arrays, _ = lazy_model(2, size)
    model_io.save(model, path, external_data=True)
    if missing:
        path.with_name(path.name + ".data").unlink()
    return arrays


def weights(path):
    model = onnx.load(path)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def assert_holds(path, arrays):
    onnx.checker.check_model(path, full_check=True)
    stored = weights(path)
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(stored[f"w{index}"], array)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.ones((1, arrays[0].shape[0]), np.float32)
    expected = x
    for array in arrays:
        expected = expected @ array
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-3, atol=1e-2)


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(scope="module")
def graph_diff():
    spec = importlib.util.spec_from_file_location("graph_diff", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# Reading


def test_bare_file_name_keeps_the_checks(tmp_path, monkeypatch):
    """From inside the model's folder, where onnx-ir would read any path."""
    folder = tmp_path / "model"
    folder.mkdir()
    skeleton(folder / "m.onnx")
    proto = onnx.load(folder / "m.onnx", load_external_data=False)
    (tmp_path / "secret.bin").write_bytes(bytes(4 * SIZE * SIZE))
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret.bin"
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="outside the model's folder"):
        model_io.load("m.onnx")


def test_external_tensors_know_their_folder(tmp_path, monkeypatch):
    arrays = skeleton(tmp_path / "m.onnx", missing=False)
    monkeypatch.chdir(tmp_path)
    model = model_io.load("m.onnx")
    monkeypatch.chdir("/")
    tensor = model.graph.initializers["w0"].const_value
    assert tensor.base_dir == str(tmp_path)
    np.testing.assert_array_equal(tensor.numpy(), arrays[0])


def test_has_value_tells_bytes_from_a_bare_shape(tmp_path):
    path = tmp_path / "m.onnx"
    skeleton(path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer.add(name="bare", data_type=1, dims=[3])
    proto.graph.initializer.add(name="empty", data_type=1, dims=[0])
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "zeros"))
    path.write_bytes(proto.SerializeToString())
    initializers = model_io.load(path).graph.initializers
    held = {name: model_io.has_value(value) for name, value in initializers.items()}
    assert held == {"w0": False, "w1": False, "bare": False, "empty": True, "zeros": True}
    skeleton(tmp_path / "n.onnx", missing=False)
    present = model_io.load(tmp_path / "n.onnx").graph.initializers["w0"]
    assert model_io.has_value(present)
    os.truncate(tmp_path / "n.onnx.data", 100)
    assert not model_io.has_value(present)
    present.const_value = None
    assert not model_io.has_value(present)


def test_max_bytes(tmp_path):
    path = tmp_path / "m.onnx"
    skeleton(path)
    needed = 2 * 4 * SIZE * SIZE
    model_io.load(path, max_bytes=needed)
    with pytest.raises(ModelError, match="--max-bytes"):
        model_io.load(path, max_bytes=needed - 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission_to_read(tmp_path):
    path = tmp_path / "m.onnx"
    skeleton(path)
    path.chmod(0)
    with pytest.raises(ModelError, match="permission"):
        model_io.load(path)


@pytest.mark.parametrize("name", ["resnet50", "squeezenet", "densenet121", "inception_v2"])
def test_real_models_come_out_as_they_went_in(light, name, tmp_path, graph_diff):
    source = light / f"light_{name}.onnx"
    model_io.save(model_io.load(source), tmp_path / "out.onnx")
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    found = graph_diff.difference(before, after)
    assert (found.refused, found.allowed, found.changed) == ([], [], [])


def test_what_onnx_ir_would_drop_or_add_is_restored(tmp_path, graph_diff):
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
          y = MatMul(x, w) z = Identity(x) }"""
    )
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("ghost", 1, [7]))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("y", 1, [1, 2]))
    map_type = proto.graph.output.add(name="z").type.map_type
    map_type.key_type = 7
    map_type.value_type.tensor_type.elem_type = 1
    source = tmp_path / "m.onnx"
    source.write_bytes(proto.SerializeToString())
    model_io.save(model_io.load(source), tmp_path / "out.onnx")
    assert graph_diff.compare(proto, onnx.load(tmp_path / "out.onnx")) == []


# Writing


@pytest.mark.parametrize("external", [False, True])
def test_lazy_tensors_are_evaluated_once_and_in_order(tmp_path, external):
    model, arrays, evaluations = lazy_model()
    seen = []
    model_io.save(
        model,
        tmp_path / "m.onnx",
        external_data=external,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert evaluations == [0, 1, 2]
    each = 4 * SIZE * SIZE
    assert seen == [(each, 3 * each), (2 * each, 3 * each), (3 * each, 3 * each)]
    assert_holds(tmp_path / "m.onnx", arrays)
    assert listing(tmp_path) == (["m.onnx", "m.onnx.data"] if external else ["m.onnx"])
    assert isinstance(model.graph.initializers["w0"].const_value, ir.LazyTensor)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "double", "float8e4m3fn", "int4", "uint8", "bool", "string"]
)
@pytest.mark.parametrize("external", [False, True])
def test_every_element_type_keeps_its_bytes(tmp_path, dtype, external):
    kind = ir.DataType[dtype.upper()]
    if dtype == "string":
        tensor = ir.StringTensor([b"a", b"bc"] * 1500, shape=ir.Shape([3000]), name="t")
    else:
        array = RNG.integers(0, 2, (3000,)).astype(kind.numpy())
        tensor = ir.Tensor(array, dtype=kind, name="t")
    model, _, _ = lazy_model(1)
    value = ir.Value(name="t", shape=tensor.shape, type=ir.TensorType(kind), const_value=tensor)
    model.graph.register_initializer(value)
    model_io.save(model, tmp_path / "m.onnx", external_data=external)
    loaded = model_io.load(tmp_path / "m.onnx").graph.initializers["t"].const_value
    assert loaded.dtype == kind
    np.testing.assert_array_equal(loaded.numpy(), tensor.numpy())
    model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "n.onnx")
    again = model_io.load(tmp_path / "n.onnx").graph.initializers["t"].const_value
    np.testing.assert_array_equal(again.numpy(), tensor.numpy())


def test_shards_hold_at_most_their_size(tmp_path):
    model, arrays, _ = lazy_model(5)
    model_io.save(model, tmp_path / "m.onnx", external_data=True, shard_size=2 * 4 * SIZE * SIZE)
    assert listing(tmp_path) == [
        "m.onnx",
        *(f"m.onnx-{i:05}-of-00003.data" for i in (1, 2, 3)),
    ]
    assert_holds(tmp_path / "m.onnx", arrays)
    sizes = [(tmp_path / name).stat().st_size for name in listing(tmp_path)[1:]]
    assert max(sizes) <= 2 * 4 * SIZE * SIZE


@pytest.mark.parametrize("external", [False, True])
def test_same_bits_again(tmp_path, external):
    model, _, _ = lazy_model()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        model_io.save(model, tmp_path / folder / "m.onnx", external_data=external)
    for name in listing(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_kept_external_tensors_move_along(tmp_path):
    arrays = skeleton(tmp_path / "m.onnx", missing=False)
    (tmp_path / "elsewhere").mkdir()
    output = tmp_path / "elsewhere" / "out.onnx"
    model_io.save(model_io.load(tmp_path / "m.onnx"), output)
    (tmp_path / "m.onnx.data").unlink()
    assert listing(output.parent) == ["out.onnx", "out.onnx.data"]
    assert_holds(output, arrays)


def test_external_tensors_can_be_embedded(tmp_path):
    arrays = skeleton(tmp_path / "m.onnx", missing=False)
    model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "one.onnx", external_data=False)
    (tmp_path / "m.onnx.data").unlink()
    assert_holds(tmp_path / "one.onnx", arrays)


def test_external_constant_comes_into_the_model(tmp_path):
    array = RNG.standard_normal((SIZE, SIZE), dtype=np.float32)
    proto = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 17]>
        g (float[1, {SIZE}] x) => (float[1, {SIZE}] y) {{ c = Constant <value = float {{1}}> ()
          y = MatMul(x, c) }}"""
    )
    proto.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(array, "c"))
    onnx.save_model(
        proto,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="c.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    model = model_io.load(tmp_path / "m.onnx")
    (tmp_path / "c.bin").unlink()
    (tmp_path / "elsewhere").mkdir()
    model_io.save(model, tmp_path / "elsewhere" / "out.onnx")
    stored = onnx.load(tmp_path / "elsewhere" / "out.onnx").graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(stored), array)
    with pytest.raises(ModelError, match="Constant"):
        model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "out.onnx")


def test_tensor_without_value_is_named(tmp_path):
    skeleton(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="'w0'"):
        model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "out.onnx")
    assert listing(tmp_path) == ["m.onnx"]


def test_tensor_that_lies_about_its_size(tmp_path):
    model, _, _ = lazy_model(1)
    model.graph.initializers["w0"].const_value = ir.LazyTensor(
        lambda: ir.tensor(np.ones(3, np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape([SIZE, SIZE]),
        name="w0",
    )
    with pytest.raises(ModelError, match="gave 12 bytes"):
        model_io.save(model, tmp_path / "m.onnx")
    assert listing(tmp_path) == []


# What may be written over


@pytest.fixture
def loaded(tmp_path):
    skeleton(tmp_path / "m.onnx", missing=False)
    return model_io.load(tmp_path / "m.onnx")


def test_existing_output_needs_force(loaded, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--force"):
        model_io.save(loaded, output)
    assert output.read_bytes() == b"precious"
    model_io.save(loaded, output, force=True)
    onnx.checker.check_model(output)


def test_existing_data_file_needs_force(loaded, tmp_path):
    data = tmp_path / "out.onnx.data"
    data.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"out.onnx.data exists: --force"):
        model_io.save(loaded, tmp_path / "out.onnx")
    assert data.read_bytes() == b"precious"
    assert not (tmp_path / "out.onnx").exists()
    model_io.save(loaded, tmp_path / "out.onnx", force=True)
    onnx.checker.check_model(tmp_path / "out.onnx")
    assert listing(tmp_path) == ["m.onnx", "m.onnx.data", "out.onnx", "out.onnx.data"]


@pytest.mark.parametrize("alias", ["same", "relative", "hard link"])
def test_output_equal_to_input_needs_in_place(loaded, tmp_path, alias, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = Path("m.onnx")
    if alias == "same":
        output = tmp_path / "m.onnx"
    elif alias == "hard link":
        output = tmp_path / "alias.onnx"
        os.link(tmp_path / "m.onnx", output)
    before = (tmp_path / "m.onnx").read_bytes()
    with pytest.raises(OutputError, match="--in-place"):
        model_io.save(loaded, output, force=True)
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_output_that_is_the_data_of_the_input(loaded, tmp_path):
    before = (tmp_path / "m.onnx.data").read_bytes()
    with pytest.raises(OutputError, match="weights of the input"):
        model_io.save(loaded, tmp_path / "m.onnx.data", force=True)
    assert (tmp_path / "m.onnx.data").read_bytes() == before


def test_data_of_the_input_is_never_overwritten(tmp_path):
    """The input's data file has the very name that the output's would get."""
    arrays = skeleton(tmp_path / "out.onnx", missing=False)
    (tmp_path / "out.onnx").rename(tmp_path / "m.onnx")
    before = (tmp_path / "out.onnx.data").read_bytes()
    model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "out.onnx", force=True)
    assert (tmp_path / "out.onnx.data").read_bytes() == before
    assert_holds(tmp_path / "out.onnx", arrays)
    assert_holds(tmp_path / "m.onnx", arrays)
    assert "out.onnx.1.data" in listing(tmp_path)


def test_in_place_replaces_the_pair(tmp_path):
    arrays = skeleton(tmp_path / "m.onnx", missing=False)
    for names in (["m.onnx", "m.onnx.1.data"], ["m.onnx", "m.onnx.data"]):
        model = model_io.load(tmp_path / "m.onnx")
        model_io.save(model, tmp_path / "m.onnx", in_place=True)
        assert listing(tmp_path) == names
        assert_holds(tmp_path / "m.onnx", arrays)


def test_in_place_leaves_data_that_another_model_may_share(tmp_path):
    arrays = skeleton(tmp_path / "shared.onnx", missing=False)
    (tmp_path / "m.onnx").write_bytes((tmp_path / "shared.onnx").read_bytes())
    model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "m.onnx", in_place=True)
    assert_holds(tmp_path / "shared.onnx", arrays)
    assert_holds(tmp_path / "m.onnx", arrays)


def test_in_place_takes_no_other_output(loaded, tmp_path):
    with pytest.raises(OutputError, match="--in-place"):
        model_io.save(loaded, tmp_path / "other.onnx", in_place=True)


@pytest.mark.parametrize("target", ["other.onnx", "nowhere.onnx"])
def test_never_through_a_link(loaded, tmp_path, target):
    (tmp_path / "other.onnx").write_bytes(b"precious")
    (tmp_path / "out.onnx").symlink_to(target)
    with pytest.raises(OutputError, match="link"):
        model_io.save(loaded, tmp_path / "out.onnx", force=True)
    assert (tmp_path / "other.onnx").read_bytes() == b"precious"


def test_data_file_is_not_written_through_a_link(loaded, tmp_path):
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "out.onnx.data").symlink_to("other")
    with pytest.raises(OutputError):
        model_io.save(loaded, tmp_path / "out.onnx")
    model_io.save(loaded, tmp_path / "out.onnx", force=True)
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert not (tmp_path / "out.onnx.data").is_symlink()


@pytest.mark.parametrize("kind", ["folder", "device", "pipe", "no folder"])
def test_output_that_is_no_file(loaded, tmp_path, kind):
    output = tmp_path / "out.onnx"
    if kind == "folder":
        output.mkdir()
    elif kind == "device":
        output = Path("/dev/null")
    elif kind == "pipe":
        os.mkfifo(output)
    else:
        output = tmp_path / "nowhere" / "out.onnx"
    before = listing(tmp_path)
    with pytest.raises(OutputError):
        model_io.save(loaded, output, force=True)
    assert listing(tmp_path) == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("protected", ["folder", "file"])
def test_no_permission_to_write(loaded, tmp_path, protected):
    folder = tmp_path / "folder"
    folder.mkdir()
    output = folder / "out.onnx"
    output.write_bytes(b"precious")
    (folder if protected == "folder" else output).chmod(0o555)
    with pytest.raises(OutputError, match=r"permission|protected"):
        model_io.save(loaded, output, force=True)
    folder.chmod(0o755)
    assert output.read_bytes() == b"precious"


def test_permissions_are_those_of_any_new_file_or_of_the_old_one(loaded, tmp_path):
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    model_io.save(loaded, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_mode == usual
    assert (tmp_path / "out.onnx.data").stat().st_mode == usual
    (tmp_path / "out.onnx").chmod(0o640)
    model_io.save(loaded, tmp_path / "out.onnx", force=True, external_data=False)
    assert (tmp_path / "out.onnx").stat().st_mode & 0o777 == 0o640


def test_default_output():
    assert model_io.default_output("a/net.v2.onnx") == Path("a/net.v2.init.onnx")


# Failure


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("failing", [0, 2])
def test_failing_tensor_leaves_nothing(tmp_path, external, failing):
    model, _, _ = lazy_model(3, failing=failing)
    with pytest.raises(ModelError, match="can't be made"):
        model_io.save(model, tmp_path / "m.onnx", external_data=external)
    assert listing(tmp_path) == []


def test_space_is_checked_before_anything_is_evaluated(tmp_path):
    model, _, evaluations = lazy_model(1)
    model.graph.initializers["w0"].const_value = ir.LazyTensor(
        lambda: evaluations.append(0),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape([1 << 24, 1 << 24]),
        name="w0",
    )
    with pytest.raises(OutputError, match="GB are free"):
        model_io.save(model, tmp_path / "m.onnx")
    assert evaluations == []
    assert listing(tmp_path) == []


def script(code, tmp_path, *, before=(), **limits):
    """Run code in a process of its own, with resource limits, behind another command."""
    prelude = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    program = prelude + "from test_model_io import *\n" + textwrap.dedent(code)

    def limit():
        for name, soft in limits.items():
            resource.setrlimit(getattr(resource, name), (soft, soft))

    return subprocess.run(
        [*before, sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_disk_that_fills_up_leaves_the_input_alone(tmp_path, external, in_place):
    """A limit on file sizes stops writing in the middle, like a full disk."""
    arrays = skeleton(tmp_path / "m.onnx", missing=False, size=256)
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    code = f"""
    model = model_io.load("m.onnx")
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    try:
        model_io.save(model, "m.onnx" if {in_place} else "out.onnx", in_place={in_place},
                      external_data={external})
    except OutputError as error:
        print(error)
        sys.exit(2)
    """
    result = script(code, tmp_path, RLIMIT_FSIZE=300_000)
    assert result.returncode == 2, result.stderr
    assert "can't write" in result.stdout
    assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before
    assert_holds(tmp_path / "m.onnx", arrays)


@pytest.mark.parametrize("options", [{}, {"external_data": True}, {"shard_size": 1 << 20}])
def test_disk_that_somebody_else_fills_meanwhile(tmp_path, options):
    """A real file system of 8 MB: there is space at first, and none in the middle."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = f"""
    def fill(*_):
        with open("{disk}/other", "ab", buffering=0) as other:
            try:
                while other.write(bytes(4096)):
                    pass
            except OSError:
                pass

    model, _, _ = lazy_model(3, size=512)
    try:
        model_io.save(model, "{disk}/m.onnx", progress=fill, **{options})
    except OutputError as error:
        print(error, *os.listdir("{disk}"), sep="; ")
    """
    mount = 'mount -t tmpfs -o size=8m small "$0" && exec "$@"'
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, disk]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], check=False).returncode:
        pytest.skip("nobody may mount a file system here")
    result = script(code, tmp_path, before=mounted)
    assert re.search("(No space left|is the disk full).*; other$", result.stdout), result.stderr


def test_the_disk_works_while_tensors_are_made(tmp_path, monkeypatch):
    """What was written is brought there bit by bit, and an error of that is not lost."""
    model, arrays, _ = lazy_model(4)
    monkeypatch.setattr("onnx_ghn.model_io.atomic.SETTLE_BYTES", 1)
    model_io.save(model, tmp_path / "m.onnx", external_data=True)
    assert_holds(tmp_path / "m.onnx", arrays)

    def broken(descriptor, end):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr("onnx_ghn.model_io.atomic._settle", broken)
    with pytest.raises(OutputError, match="the disk is broken"):
        model_io.save(model, tmp_path / "n.onnx")
    assert listing(tmp_path) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize("external", [False, True])
def test_memory_holds_the_largest_tensor_not_the_model(tmp_path, external):
    """16 tensors of 32 MB; above that after imports at most 3 x 32 MB + 100 MB."""
    code = f"""
    MB = 1 << 20
    def make():
        return ir.tensor(np.ones((8 * MB,), np.float32))
    model, _, _ = lazy_model(1)
    for index in range(16):
        kind = dict(dtype=ir.DataType.FLOAT, shape=ir.Shape([8 * MB]), name=f"t{{index}}")
        tensor = ir.LazyTensor(make, **kind)
        model.graph.register_initializer(ir.Value(
            name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype),
            const_value=tensor))
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    model_io.save(model, "m.onnx", external_data={external})
    assert (peak() - before) / MB < 3 * 32 + 100, (peak() - before) / MB
    """
    result = script(code, tmp_path)
    assert result.returncode == 0, result.stderr
    total = sum(entry.stat().st_size for entry in tmp_path.iterdir())
    assert total > 16 * 32 << 20


@pytest.mark.parametrize("external", [False, True])
def test_ten_writers_of_one_output(tmp_path, external):
    """All write the same bits; whoever is last, the result is complete."""
    model, arrays, _ = lazy_model()
    model_io.save(model, tmp_path / "m.onnx", external_data=True)

    def write(_):
        mine = model_io.load(tmp_path / "m.onnx")
        model_io.save(mine, tmp_path / "out.onnx", force=True, external_data=external)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(write, range(10)))
    expected = ["m.onnx", "m.onnx.data", "out.onnx", *(["out.onnx.data"] if external else [])]
    assert listing(tmp_path) == expected
    assert_holds(tmp_path / "out.onnx", arrays)


def test_ten_writers_without_force_have_one_winner(tmp_path):
    model, arrays, _ = lazy_model()
    model_io.save(model, tmp_path / "m.onnx")

    def write(_):
        try:
            model_io.save(model_io.load(tmp_path / "m.onnx"), tmp_path / "out.onnx")
        except OutputError as error:
            return str(error)

    with ThreadPoolExecutor(10) as pool:
        errors = list(pool.map(write, range(10)))
    assert errors.count(None) == 1
    assert all(error is None or "--force" in error for error in errors)
    assert_holds(tmp_path / "out.onnx", arrays)


# Provenance


def test_provenance_comes_and_goes(tmp_path):
    model, _, _ = lazy_model(1)
    model.metadata_props["author"] = "somebody"
    model_io.record_provenance(model, {"seed": 3, "method": "ghn"})
    model_io.record_provenance(model, {"seed": 4})
    model_io.save(model, tmp_path / "m.onnx")
    written = model_io.load(tmp_path / "m.onnx")
    assert dict(written.metadata_props) == {"author": "somebody", "onnx_ghn.seed": "4"}
    model_io.clear_provenance(written)
    assert dict(written.metadata_props) == {"author": "somebody"}


def test_an_opset_may_be_imported_twice_in_one_version(tmp_path):
    """As skl2onnx does for models of the ML domain alone; ONNX Runtime accepts it."""
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }"""
    )
    proto.opset_import.append(onnx.helper.make_opsetid("", 17))
    onnx.save(proto, tmp_path / "m.onnx")
    assert model_io.load(tmp_path / "m.onnx").opset_imports == {"": 17}

"""A hostile checkpoint runs nothing, and a damaged one is a clear error."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import zipfile
import zlib
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ghn.convert.unpickle import MAX_RATIO, read_checkpoint
from onnx_ghn.errors import ArchiveError

PUBLISHED = Path(__file__).parent.parent / "hypernet" / "data" / "ghn2tiny_hf.pt"


def tensors():
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    return OrderedDict(
        plain=base,
        transposed=base.t(),
        part=base[1:3, 2:5],
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        half=base.half(),
        double=base.double(),
        whole=torch.arange(5),
        flags=base > 0,
        parameter=torch.nn.Parameter(base),
    )


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "stream"])
def test_tensors_come_back_as_arrays(tmp_path, modern):
    expected = tensors()
    torch.save(
        {"state_dict": expected, "epoch": 3, "config": {"max_shape": (16, 16, 11, 11)}},
        tmp_path / "file.pt",
        _use_new_zipfile_serialization=modern,
    )
    read = read_checkpoint(tmp_path / "file.pt")
    assert read["epoch"] == 3
    assert read["config"] == {"max_shape": (16, 16, 11, 11)}
    assert list(read["state_dict"]) == list(expected)
    for name, tensor in expected.items():
        value = read["state_dict"][name]
        assert value.dtype == tensor.detach().numpy().dtype
        np.testing.assert_array_equal(value, tensor.detach().numpy())


def test_a_state_dict_in_a_plain_pickle_comes_back(tmp_path):
    expected = OrderedDict(a=torch.randn(3, 4), b=torch.randn(5))
    with (tmp_path / "file.pt").open("wb") as stream:
        pickle.dump(expected, stream, protocol=4)
    read = read_checkpoint(tmp_path / "file.pt")
    for name, tensor in expected.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())


def test_a_published_file_comes_back():
    read = read_checkpoint(PUBLISHED)
    assert read["gnn.gru.weight_ih"].shape == (24, 8)
    assert all(value.dtype == np.float32 for value in read.values())


def test_a_trainers_command_line_becomes_an_empty_shell(tmp_path):
    torch.save({"x": torch.ones(2), "args": Namespace(lr=0.1)}, tmp_path / "file.pt")
    read = read_checkpoint(tmp_path / "file.pt")
    assert not isinstance(read["args"], Namespace)
    assert read["x"].tolist() == [1, 1]


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def marker_programs(marker, container):
    """Pickles that would create the file `marker` if anything in them ran."""
    name = str(marker)
    yield "system", pickle.dumps(Call(os.system, f"touch {name}"))
    yield "eval", pickle.dumps(Call(eval, f"open({name!r}, 'w')"))
    yield "exec in a dict", pickle.dumps({"state_dict": Call(exec, f"open({name!r}, 'w')")})
    yield "open", pickle.dumps(Call(open, name, "w"))
    for protocol in range(6):
        program = pickle.dumps(Call(os.mkdir, name), protocol=protocol)
        yield f"protocol {protocol}", program
    yield "INST", f"(S'{name}'\nios\nmkdir\n.".encode()
    yield "OBJ", f"(cos\nmkdir\nS'{name}'\no.".encode()
    yield "dotted name", (b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.__init__.__doc__\x93.")
    yield "getattr", pickle.dumps(Call(getattr, OrderedDict, "__init__"))
    yield "importlib", pickle.dumps(Call(__import__, "os"))
    yield "torch.load", pickle.dumps(Call(torch.load, name))
    yield "numpy.load", pickle.dumps(Call(np.load, name))
    hostile = pickle.dumps(Call(os.mkdir, name))
    nested = Call(torch.storage._load_from_bytes, hostile)
    yield "within a storage", pickle.dumps(nested)
    if container == "bare":  # in a zip, what follows the first object isn't read
        yield "after the magic number", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + hostile
    yield (
        "BUILD on an admitted function",
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00evil" + b"cos\nmkdir\nsb."),
    )
    yield "extension code", b"\x80\x02\x82\x01."
    yield "unknown persistent object", b"\x80\x02X\x04\x00\x00\x00evilQ."


@pytest.mark.parametrize("container", ["bare", "zip"])
def test_a_hostile_pickle_runs_nothing(tmp_path, container):
    marker = tmp_path / "marker"
    names = []
    for name, program in marker_programs(marker, container):
        file = tmp_path / "file.pt"
        if container == "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("file/data.pkl", program)
        else:
            file.write_bytes(program)
        with pytest.raises(ArchiveError):
            read_checkpoint(file)
        assert not marker.exists(), name
        names.append(name)
    assert len(names) > 15


def test_the_refusal_names_what_was_asked_for(tmp_path):
    (tmp_path / "file.pt").write_bytes(pickle.dumps(Call(os.system, "true")))
    with pytest.raises(ArchiveError, match=r"refused: the file asks for posix\.system"):
        read_checkpoint(tmp_path / "file.pt")


def test_attributes_set_on_what_is_admitted_are_gone_with_the_file(tmp_path):
    program = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__name__X\x04\x00\x00\x00"
        b"evils\x86b."
    )
    (tmp_path / "file.pt").write_bytes(program)
    assert read_checkpoint(tmp_path / "file.pt").__name__ == "evil"
    (tmp_path / "other.pt").write_bytes(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.")
    assert read_checkpoint(tmp_path / "other.pt").__name__ != "evil"


def tensor_program(offset, size, stride, announced=4, present=16):
    """A zip checkpoint of one tensor with the given geometry over a storage of four floats."""

    def tuple_of(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"

    program = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + b"\x8a\x08"
        + struct.pack("<q", announced)
        + b"tQ\x8a\x08"
        + struct.pack("<q", offset)
        + tuple_of(size)
        + tuple_of(stride)
        + b"\x89)tR."
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("file/data.pkl", program)
        archive.writestr("file/data/0", np.arange(4, dtype="<f4").tobytes()[:present])
    return buffer.getvalue()


def test_a_tensor_within_its_storage_is_read(tmp_path):
    (tmp_path / "file.pt").write_bytes(tensor_program(1, [3], [1]))
    assert read_checkpoint(tmp_path / "file.pt").tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("offset", "size", "stride", "announced", "present"),
    [
        (2, [3], [1], 4, 16),  # past the end
        (0, [1 << 40], [0], 4, 16),  # repeats one element a trillion times
        (0, [1 << 40], [1 << 40], 4, 16),
        (-1, [2], [1], 4, 16),
        (0, [-2], [1], 4, 16),
        (3, [2], [-1], 4, 16),
        (0, [2, 2], [1], 4, 16),
        (0, [4], [1], 1 << 40, 16),  # a storage of terabytes
        (0, [4], [1], -4, 16),
        (0, [4], [1], 4, 8),  # fewer bytes than announced
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path, offset, size, stride, announced, present
):
    file = tmp_path / "file.pt"
    file.write_bytes(tensor_program(offset, size, stride, announced, present))
    if size == [0]:
        assert read_checkpoint(file).size == 0
        return
    with pytest.raises(ArchiveError):
        read_checkpoint(file)


@pytest.mark.parametrize("modern", [True, False, None], ids=["zip", "stream", "published"])
def test_every_truncation_is_an_error(tmp_path, modern):
    file = tmp_path / "file.pt"
    if modern is None:
        content = PUBLISHED.read_bytes()
    else:
        torch.save(tensors(), file, _use_new_zipfile_serialization=modern)
        content = file.read_bytes()
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        file.write_bytes(content[:length])
        with pytest.raises(ArchiveError):
            read_checkpoint(file)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=64), start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
def test_random_bytes_are_read_or_refused(tmp_path_factory, content, start):
    file = tmp_path_factory.getbasetemp() / "random.pt"
    file.write_bytes(start + content)
    try:
        read_checkpoint(file)
    except ArchiveError as error:
        assert str(file) in str(error)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ArchiveError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pt")


COMPRESSORS = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressed_file_reads_as_the_plain_one(tmp_path, name):
    expected = read_checkpoint(PUBLISHED)
    compressed = tmp_path / "file.pt"
    compressed.write_bytes(COMPRESSORS[name](PUBLISHED.read_bytes()))
    read = read_checkpoint(compressed)
    assert list(read) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(read[key], value)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_truncated_compressed_file_is_an_error(tmp_path, name):
    content = COMPRESSORS[name](PUBLISHED.read_bytes())
    damaged = tmp_path / "file.pt"
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArchiveError, match="truncated"):
        read_checkpoint(damaged)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressed_bomb_is_refused_before_it_fills_memory(tmp_path, name):
    bomb = tmp_path / "file.pt"
    bomb.write_bytes(COMPRESSORS[name](bytes(64 << 20)))
    assert bomb.stat().st_size * MAX_RATIO < 32 << 20
    with pytest.raises(ArchiveError, match="grows beyond"):
        read_checkpoint(bomb)


def test_lz4_is_named_with_the_remedy(tmp_path):
    file = tmp_path / "file.pt"
    file.write_bytes(b"\x04\x22\x4d\x18" + bytes(64))
    with pytest.raises(ArchiveError, match=r"file\.pt: compressed with lz4.*lz4 -d"):
        read_checkpoint(file)

"""Checkpoints made to run something, to crash, or to fill the memory."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.convert.unpickle import LEGACY_MAGIC, read_checkpoint
from onnx_ghn.errors import ArchiveError

PUBLISHED = Path(__file__).parent.parent / "hypernet" / "data" / "ghn2tiny_hf.pt"
MEGABYTE = 1 << 20


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def storage(key, count, kind="FloatStorage"):
    """The persistent storage `key`, on the stack."""
    parts = text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count)
    return b"(" + parts + b"tQ"


def tensor(content, count):
    """A vector of `count` elements over the storage that `content` pushes."""
    geometry = number(0) + b"(" + number(count) + b"t" + b"(" + number(1) + b"t"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + content + geometry + b"\x89)tR"


def zipped(program, *, count=0, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/0", bytes(4 * count))
    return buffer.getvalue()


def legacy(program, keys=()):
    """The stream of pickles that `torch.save` wrote before 1.6."""
    head = b"".join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, 1001, {}))
    return head + program + pickle.dumps(list(keys), 2)


def published_storage(count):
    """A pickled storage of `count` zeros, as it lies within a published file."""
    return (
        legacy(b"\x80\x02" + storage("0", count) + b".", ["0"])
        + struct.pack("<q", count)
        + (bytes(4 * count))
    )


def nested_storage(count):
    """A program that pushes the bytes of a pickled storage and leaves them in the memo at 1."""
    content = published_storage(count)
    return b"B" + struct.pack("<I", len(content)) + content + b"q\x01"


def encrypted():
    """A zip whose first entry says that it is encrypted."""
    content = bytearray(zipped(b"\x80\x02N."))
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    content[6] |= 1
    return bytes(content)


def repeated(count, push):
    """A list of what `push` gives, so many times."""
    return b"\x80\x02](" + push * count + b"e."


LOAD = name("torch.storage", "_load_from_bytes")
ORDERED = name("collections", "OrderedDict")
NAMESPACE = name("argparse", "Namespace")
FILES = {
    # memory
    "memo index": b"\x80\x02Nr\xff\xff\xff\x1f.",
    "storage in bytes, many times": b"\x80\x02](0" + LOAD + b"q\x00" + nested_storage(MEGABYTE // 4)
    + b"](" + b"h\x00h\x01\x85R" * 3000 + b"e.",
    "shape from a large vector, many times": zipped(
        b"\x80\x02" + tensor(storage("0", MEGABYTE), MEGABYTE) + b"q\x010"
        + repeated(500, name("torch", "Size") + b"h\x01\x85R")[2:],
        count=MEGABYTE,
    ),
    "the same list made a dictionary, many times": b"\x80\x02](" + b"".join(
        b"K" + bytes([k % 256]) + b"N\x86" for k in range(50_000)
    ) + b"eq\x01](" + (ORDERED + b"h\x01\x85R") * 5000 + b"e.",
    "deflated storage": zipped(
        b"\x80\x02" + tensor(storage("0", 128 * MEGABYTE), 1) + b".",
        count=128 * MEGABYTE,
        compression=zipfile.ZIP_DEFLATED,
    ),
    "storages announced and never filled": legacy(
        repeated(100_000, tensor(storage("0", 1000), 1000)).replace(text("0"), text("0"))
    ),
    "announced bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "announced frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".",
    "announced text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "long number in digits": b"L" + b"9" * MEGABYTE + b"L\n.",
    # crashes
    "key of tuples in tuples": b"\x80\x02})" + b"\x85" * 500_000 + b"Ns.",
    "key of tuples, by DICT": b"\x80\x02()" + b"\x85" * 500_000 + b"Nd.",
    "keys of tuples, by a list": b"\x80\x02" + ORDERED + b"](" + b")" + b"\x85" * 500_000
    + b"N\x86e\x85R.",
    "set of tuples": b"\x80\x04\x8f()" + b"\x85" * 500_000 + b"\x90.",
    "storage in storage in storage": None,  # made below
    "stack underflow": b"\x80\x02R.",
    "mark without an end": b"\x80\x02((((.",
    "encrypted zip": encrypted(),
    # code
    "extension code": b"\x80\x02\x82\x01.",
    "object by INST": b"(icollections\nOrderedDict\n.",
    "object by OBJ": b"(" + ORDERED + b"o.",
    "object by NEWOBJ_EX": b"\x80\x04" + NAMESPACE + b")}\x92.",
    "first version of the tensor": b"\x80\x02" + name("torch._utils", "_rebuild_tensor") + b")R.",
    "sparse tensor": b"\x80\x02" + name("torch._utils", "_rebuild_sparse_tensor") + b")R.",
    "numpy's scalar": b"\x80\x02" + name("numpy.core.multiarray", "scalar") + b")R.",
    "numpy's array": b"\x80\x02" + name("numpy.core.multiarray", "_reconstruct") + b")R.",
    "copyreg": b"\x80\x02" + name("copyreg", "_reconstructor") + b")R.",
    "dotted name": b"\x80\x04" + text("argparse") + text("Namespace.__class__") + b"\x93.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "persistent name": b"Pos.system\n.",
    "state of an array": zipped(
        b"\x80\x02" + tensor(storage("0", 4), 4) + b"(K\x01(K\x04t"
        + name("torch", "FloatStorage") + b"\x89C\x04evilt" + b"b.",
        count=4,
    ),
    "item of an array": zipped(
        b"\x80\x02" + tensor(storage("0", 4), 4) + b"K\x00K\x01s.", count=4
    ),
    "type of a storage, changed": zipped(
        b"\x80\x02" + name("torch", "FloatStorage") + b"q\x07N}" + text("dtype") + text("O")
        + b"s\x86b0" + tensor(storage("0", 4), 4) + b".",
        count=4,
    ),
    "buried name": b"\x80\x02" + tensor(name("posix", "system"), 1) + b".",
}  # fmt: skip


def buried(depth):
    content = b"\x80\x02N."
    for _ in range(depth):
        content = b"\x80\x02" + LOAD + b"B" + struct.pack("<I", len(content)) + content + b"\x85R."
    return content


FILES["storage in storage in storage"] = buried(2000)


def test_hostile_files_are_refused_within_bounds(tmp_path):
    """In a process of its own, which says what it did and how much memory it took."""
    for index, content in enumerate(FILES.values()):
        (tmp_path / f"{index:02}.pt").write_bytes(content)
    code = """
import pathlib, resource, sys
from onnx_ghn.convert.unpickle import read_checkpoint
from onnx_ghn.errors import ArchiveError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    before = peak()
    try:
        read_checkpoint(file)
        answer = "read"
    except ArchiveError as error:
        answer = "refused" if str(file) in str(error) and "\\n" not in str(error) else "unclear"
    print(file.stem, answer, peak() - before, flush=True)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    found = dict(zip(FILES, lines, strict=False))
    assert len(lines) == len(FILES), f"{list(FILES)[len(lines)]} ended it: {result.stderr[-500:]}"
    harmless = {hostile for hostile, line in found.items() if line[1] != "refused"}
    assert harmless == {"memo index"}, found
    assert {hostile: line for hostile, line in found.items() if int(line[2]) > 300} == {}


def test_the_type_of_a_storage_cant_be_changed(tmp_path):
    (tmp_path / "file.pt").write_bytes(FILES["type of a storage, changed"])
    with pytest.raises(ArchiveError):
        read_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({10**5000: np.zeros(3, np.float32)}, "isn't a name"),
        ({"embed.weight": np.zeros((15, 0), np.float32)}, "isn't a name with a tensor"),
        ({f"gnn.{k}.ln1.weight": np.zeros(8, np.float32) for k in range(999)}, "999 layers"),
        ({"x" * 10**6: np.zeros(3, np.float32)}, r"'x{60}'\.\.\."),
    ],
    ids=["number", "empty", "layers", "long name"],
)
def test_a_strange_state_dict_is_one_line(tmp_path, monkeypatch, change, message):
    state = OrderedDict(read_checkpoint(PUBLISHED)) | change
    monkeypatch.setattr("onnx_ghn.convert.checkpoint.read_checkpoint", lambda path: state)
    with pytest.raises(ArchiveError, match=message) as raised:
        convert_checkpoint(PUBLISHED, tmp_path / "out.pt")
    assert len(str(raised.value)) < 400
    assert not list(tmp_path.iterdir())


def test_tensors_that_repeat_one_storage_are_not_copied(tmp_path, monkeypatch):
    state = OrderedDict(read_checkpoint(PUBLISHED))
    shared = np.zeros((1000, 1000), np.float32).T
    state |= {f"gnn.mlp.fc.0.{k}": shared for k in range(200)}
    monkeypatch.setattr("onnx_ghn.convert.checkpoint.read_checkpoint", lambda path: state)
    with pytest.raises(ArchiveError, match="repeat each other"):
        convert_checkpoint(PUBLISHED, tmp_path / "out.pt")

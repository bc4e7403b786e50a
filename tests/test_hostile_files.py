"""Files from strangers: each is refused in one line or read cleanly, fast and in little memory."""

import importlib.util
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_ghn import model_io
from onnx_ghn.data import load_data
from onnx_ghn.errors import ModelError, OnnxGhnError

HERE = Path(__file__).parent
MAX_SECONDS = 10
"""Of processor time, so that a busy machine fails no test; what waits for ever is killed."""
MAX_BYTES = 2 << 30


def _corpus():
    path = HERE / "hostile" / "corpus.py"
    spec = importlib.util.spec_from_file_location("hostile_corpus", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CASES = _corpus().CASES


def snapshot(folder):
    """Every regular file below, with its content; links and pipes by kind only."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else path.lstat().st_mode
        for path in sorted(folder.rglob("*"))
    }


def test_corpus_is_large_enough():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_load_refuses_in_one_line_or_reads(name, tmp_path, caplog):
    folder = tmp_path / "model"
    folder.mkdir()
    path = CASES[name].build(folder)
    before = snapshot(tmp_path)
    start = time.process_time()
    if CASES[name].refusal is None:
        model_io.load(path)
    else:
        with pytest.raises(ModelError, match=CASES[name].refusal) as caught:
            model_io.load(path)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert message.isprintable()
        assert path.name in message
        assert len(message) < 600 + len(str(path))
    assert time.process_time() - start < MAX_SECONDS
    assert snapshot(tmp_path) == before


@pytest.fixture
def command_line(command_lines):
    """Runs the command line; returns exit code and messages. Checks time and memory."""

    def run(folder, *arguments):
        (answer,) = command_lines((folder, *arguments))
        assert answer["peak_bytes"] < MAX_BYTES
        assert answer["cpu_seconds"] < MAX_SECONDS
        return answer["code"], answer["messages"]

    return run


def check_command_line(run, name, tmp_path):
    """Run from inside the model's folder, where a bare file name switches onnx-ir's checks off."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = CASES[name].build(folder)
    before = snapshot(tmp_path)
    code, messages = run(folder, "init", path.name, "--method", "classical")
    after = snapshot(tmp_path)
    assert not messages.startswith("Traceback")
    assert "unexpected" not in messages
    assert {key: after[key] for key in before} == before
    if CASES[name].refusal is not None:
        assert code == 2
        assert re.search(CASES[name].refusal, messages)
    assert code in (0, 2)
    if code == 2:
        assert len(messages.splitlines()) == 1
        assert after == before
    else:
        onnx.load(folder / "model.init.onnx")


@pytest.mark.parametrize("name", CASES)
def test_command_line_ends_well(name, tmp_path, command_line):
    check_command_line(command_line, name, tmp_path)


@pytest.mark.parametrize(
    "name", ["location-'../secret'", "random_bytes-'1'", "cycle", "empty_file"]
)
def test_whole_process_ends_well(name, tmp_path):
    def run(folder, *arguments):
        result = subprocess.run(
            [sys.executable, "-m", "onnx_ghn", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
            check=False,
        )
        return result.returncode, result.stderr

    check_command_line(run, name, tmp_path)


# Outputs and data that are no files


@pytest.mark.parametrize("kind", ["hard link", "link", "dangling", "folder", "pipe", "device"])
def test_output_that_is_no_file(kind, tmp_path, command_line):
    """A link is replaced or refused, and never written through."""
    folder = tmp_path / "model"
    folder.mkdir()
    path, output, secret = CASES["unsorted"].build(folder), folder / "out.onnx", tmp_path / "secret"
    secret.write_bytes(b"secret")
    if kind == "hard link":
        os.link(path, output)
    elif kind == "folder":
        output.mkdir()
    elif kind == "pipe":
        os.mkfifo(output)
    else:
        targets = {"link": secret, "dangling": tmp_path / "absent", "device": "/dev/full"}
        output.symlink_to(targets[kind])
    before, mode = path.read_bytes(), output.lstat().st_mode
    code, messages = command_line(
        folder, "init", path.name, "-o", "out.onnx", "--force", "--method", "classical"
    )
    assert code in (0, 2)
    assert "Traceback" not in messages and "unexpected" not in messages
    assert path.read_bytes() == before and secret.read_bytes() == b"secret"
    assert not (tmp_path / "absent").exists()
    if code == 0:
        assert output.is_file() and not output.is_symlink()
    else:
        assert output.lstat().st_mode == mode
        assert len(messages.splitlines()) == 1


@pytest.mark.parametrize("output", [".", "x" * 300, "nowhere/out.onnx", "", "net.onnx/out.onnx"])
@pytest.mark.parametrize("command", ["init", "strip", "calibrate"])
def test_output_with_an_impossible_name(command, output, tmp_path, command_line):
    path = CASES["unsorted"].build(tmp_path).rename(tmp_path / "net.onnx")
    before = snapshot(tmp_path)
    code, messages = command_line(tmp_path, command, path.name, "-o", output)
    assert code == 2 and len(messages.strip().splitlines()) == 1, messages
    assert "unexpected" not in messages
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
@pytest.mark.parametrize("option", ["--plan", "--hypernet", "convert"])
def test_input_that_never_ends(option, kind, tmp_path, command_line):
    path, given = CASES["unsorted"].build(tmp_path), tmp_path / "given"
    if kind == "huge":
        given.touch()
        os.truncate(given, 1 << 40)
    else:
        makers = {"pipe": os.mkfifo, "folder": os.mkdir}
        makers.get(kind, lambda given: given.symlink_to("/dev/zero"))(given)
    arguments = ("init", path.name, option, "given")
    if option == "convert":
        arguments = ("convert", "given", "-o", "archive.pt")
    code, messages = command_line(tmp_path, *arguments)
    assert code == 2 and "given" in messages
    assert len(messages.strip().splitlines()) == 1, messages


def test_workers_of_rank_add_no_line(tmp_path, command_line):
    """onnx-ir logs a traceback for this model, in whichever process reads it."""
    path = CASES["nested_sequences-'3'"].build(tmp_path)
    np.savez(tmp_path / "data.npz", x=np.ones((4, 4), np.float32), y=np.arange(4))
    arguments = ("--data", "data.npz", "--method", "classical", "--processes", "1")
    code, messages = command_line(tmp_path, "rank", path.name, *arguments)
    assert code == 2 and "1 of 1 candidates failed" in messages
    assert len(messages.strip().splitlines()) == 1, messages


def npy(header, content=b""):
    encoded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded + content


LABELS = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}", bytes(16))


def archive_of(x):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x.npy", x)
            file.writestr("y.npy", LABELS)

    return write


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}"
DATA = {
    "zip bomb": archive_of(npy(FLOATS % "2, 400000000", bytes(400 << 20))),
    "bomb of zeros": archive_of(npy(FLOATS % "2, 50000000", bytes(400_000_000))),
    "class number": lambda path: np.savez(
        path, x=np.zeros((2, 4), np.float32), y=np.array([0, 2**40])
    ),
    "huge shape": archive_of(npy(FLOATS % "2, 1099511627776", b"1234")),
    "overflowing shape": archive_of(npy(FLOATS % "9223372036854775807, 9", b"1234")),
    "negative shape": archive_of(npy(FLOATS % "-2, 4", bytes(32))),
    "pickle": archive_of(
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n(S'id'\ntR.")
    ),
    "long header": archive_of(npy("{'descr': " + "(" * 5000)),
    "code as a header": archive_of(npy("__import__('os').abort()")),
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_from_strangers(kind, tmp_path, command_line):
    path, data = CASES["unsorted"].build(tmp_path), tmp_path / "data.npz"
    DATA[kind](data)
    before = path.read_bytes()
    code, messages = command_line(tmp_path, "eval", path.name, "--data", "data.npz")
    assert code == 2, messages
    assert len(messages.strip().splitlines()) == 1, messages
    assert "data.npz" in messages and "unexpected" not in messages
    assert "bomb" not in kind or "numpy.savez" in messages
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["pipe", "device", "dangling", "folder"])
def test_image_that_is_none(kind, tmp_path, command_line):
    path, folder = CASES["unsorted"].build(tmp_path), tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    image = folder / "0.png"
    if kind in ("pipe", "folder"):
        (os.mkfifo if kind == "pipe" else os.mkdir)(image)
    else:
        image.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    code, messages = command_line(tmp_path, "eval", path.name, "--data", "images")
    assert code == 2 and "0.png" in messages
    assert len(messages.strip().splitlines()) == 1, messages


def test_image_of_which_pillow_complains(tmp_path, command_line):
    """A TIFF of 2,048 samples a pixel: Pillow's own line does not come before ours."""
    path, folder = CASES["unsorted"].build(tmp_path), tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    sizes = {256: 8, 257: 8, 258: 8, 259: 1, 262: 2, 273: 200, 277: 2048, 278: 8, 279: 192}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, size) for tag, size in sizes.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(sizes)) + entries + bytes(4)
    (folder / "0.tif").write_bytes(head.ljust(392, b"\0"))
    code, messages = command_line(tmp_path, "eval", path.name, "--data", "images")
    assert code == 2 and "0.tif" in messages
    assert len(messages.strip().splitlines()) == 1, messages


def test_data_that_is_large_or_compressed_but_no_bomb(tmp_path, monkeypatch):
    """What a file really holds may be as large as it wants."""
    monkeypatch.setattr("onnx_ghn.data.MAX_EXPANDED_BYTES", 1000)
    images = np.random.default_rng(0).integers(0, 256, (2, 100, 100, 3), np.uint8)
    images[0] = 0
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "data.npz", x=images, y=np.arange(2))
        np.testing.assert_array_equal(load_data(tmp_path / "data.npz").x, images)


# Real models, damaged at random


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
REAL = [
    (LIGHT / f"light_{name}.onnx").read_bytes()
    for name in ("squeezenet", "shufflenet", "bvlc_alexnet")
]


def parts(message):
    """Every (message, field) that is set, at any depth."""
    found = []
    stack = [message]
    while stack:
        current = stack.pop()
        for descriptor, content in current.ListFields():
            found.append((current, descriptor.name))
            if descriptor.message_type is not None:
                stack.extend(content if descriptor.is_repeated else [content])
    return found


class File(bytes):
    """Bytes that a failing test does not print by the thousand."""

    def __repr__(self):
        return f"<{len(self)} bytes, kept as model.onnx in the test's folder>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@st.composite
def damaged(draw):
    """A real model with some bytes flipped, or some fields dropped, doubled or emptied."""
    content = draw(st.sampled_from(REAL))
    if draw(st.booleans()):
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            # Most bytes are names and shapes; a flip anywhere may hit a tag or a length.
            changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
        end = draw(st.one_of(st.none(), st.integers(0, len(changed))))
        return File(changed[:end])
    model = onnx.ModelProto.FromString(content)
    for _ in range(draw(st.integers(1, 3))):
        found = parts(model)
        message, name = found[draw(st.integers(0, len(found) - 1))]
        entries = getattr(message, name)
        repeated = message.DESCRIPTOR.fields_by_name[name].is_repeated
        index = draw(st.integers(0, len(entries) - 1)) if repeated else 0
        if repeated and draw(st.booleans()):
            del entries[index]
        elif repeated and draw(st.booleans()):
            entries.append(entries[index])
        elif isinstance(entries, int) and not isinstance(entries, bool) and draw(st.booleans()):
            edges = st.sampled_from([0, 1, -1, 2**31 - 1, 7])
            try:
                setattr(message, name, draw(edges))
            except ValueError:
                message.ClearField(name)
        else:
            message.ClearField(name)
    return File(model.SerializePartialToString())


def check_damaged(content, folder):
    path = folder / "model.onnx"
    path.write_bytes(content)
    start = time.process_time()
    try:
        model = model_io.load(path)
        model_io.save(model, folder / "copy.onnx", force=True)
        model_io.load(folder / "copy.onnx")
    except OnnxGhnError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).isprintable()
    assert time.process_time() - start < MAX_SECONDS
    assert path.read_bytes() == content
    assert {entry.name for entry in folder.iterdir()} <= {"model.onnx", "copy.onnx"}


def limited(cases):
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=cases < 1000,
        suppress_health_check=list(HealthCheck),
    )


@given(content=damaged())
@limited(500)
def test_damaged_models_are_refused_or_copied(content, folder):
    check_damaged(content, folder)


@pytest.mark.long
@given(content=damaged())
@limited(10_000)
def test_damaged_models_are_refused_or_copied_at_length(content, folder):
    check_damaged(content, folder)

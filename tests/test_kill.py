"""`kill -9` at moments spread over a run: the input or the complete output is there, no half file.

The moments are counted in tensors written, by the run's own progress, so that they do not depend
on the speed of the machine.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnx_ghn import model_io

PROGRAM = """
import sys
from onnx_ghn import InitializeOptions, initialize

def progress(done, total):
    print(done, total, flush=True)
    sys.stdin.readline()

path, in_place, seed = sys.argv[1:]
options = InitializeOptions(method="classical", seed=int(seed))
initialize(path, options=options, in_place=in_place == "1", progress=progress)
"""


def kill_after(tensors, path, *, in_place, seed=1):
    """Run `initialize` and kill it after so many tensors; returns whether it ended before that.

    The run waits for an answer after each tensor. The last answer and the kill come together,
    so that it dies somewhere in the work that follows: the next tensor, or the renaming.
    """
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), str(int(in_place)), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"},
    ) as process:
        for _ in range(tensors):
            if not process.stdout.readline():
                break
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.returncode == 0


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def complete(path, seed=1):
    """Bytes of the finished output, by a run that nobody kills."""
    from onnx_ghn import InitializeOptions, initialize

    initialize(path, options=InitializeOptions(method="classical", seed=seed), in_place=True)
    return contents(path.parent)


@pytest.fixture(scope="module")
def source(light):
    return light / "light_squeezenet.onnx"


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """The folder's content after a whole run in place, and the number of tensors written."""
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    path.write_bytes(source.read_bytes())
    done = complete(path)
    return done["model.onnx"], len(onnx.load(path).graph.initializer)


def moments(count, kills):
    """Numbers of tensors from none to all, the last ones close to the renaming."""
    return [round(count * kill / (kills - 1)) for kill in range(kills)]


def check(path, before, outcomes):
    """Every file is the input's or belongs to one complete outcome."""
    left = contents(path.parent)
    hidden = [left.pop(name) for name in list(left) if name.startswith(".onnx-ghn-")]
    assert left in [before, *outcomes]
    # Between linking and renaming, the complete file has a hidden name for an instant.
    assert all(any(content in outcome.values() for outcome in outcomes) for content in hidden)


def run_kills(kills, source, finished, tmp_path, *, in_place):
    whole, count = finished
    for number, tensors in enumerate(moments(count, kills)):
        path = tmp_path / str(number) / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(source.read_bytes())
        before = contents(path.parent)
        kill_after(tensors, path, in_place=in_place)
        after = {"model.onnx": whole} if in_place else before | {"model.init.onnx": whole}
        check(path, before, [after])


def run_kills_with_external_data(kills, source, tmp_path):
    """In place, two files have to change: the old pair or the new one is there, never a mixture."""
    first = tmp_path / "first" / "model.onnx"
    first.parent.mkdir()
    first.write_bytes(source.read_bytes())
    complete(first, seed=0)
    model_io.save(model_io.load(first), first, in_place=True, external_data=True)
    before = contents(first.parent)
    assert list(before) == ["model.onnx", "model.onnx.data"]
    after = complete(first)
    assert list(after) == ["model.onnx", "model.onnx.1.data"]
    count = len(onnx.load(first, load_external_data=False).graph.initializer)
    # The old data goes last and the new comes first, so both may lie beside either model.
    outcomes = [after, before | {"model.onnx.1.data": after["model.onnx.1.data"]}, before | after]
    for number, tensors in enumerate(moments(count, kills)):
        path = tmp_path / str(number) / "model.onnx"
        path.parent.mkdir()
        for name, content in before.items():
            path.with_name(name).write_bytes(content)
        kill_after(tensors, path, in_place=True)
        check(path, before, outcomes)


@pytest.mark.parametrize("in_place", [False, True])
def test_kills(source, finished, tmp_path, in_place):
    run_kills(4, source, finished, tmp_path, in_place=in_place)


def test_kills_with_external_data(source, tmp_path):
    run_kills_with_external_data(4, source, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("in_place", [False, True])
def test_many_kills(source, finished, tmp_path, in_place):
    run_kills(70, source, finished, tmp_path, in_place=in_place)


@pytest.mark.long
def test_many_kills_with_external_data(source, tmp_path):
    run_kills_with_external_data(60, source, tmp_path)


def test_kill_before_the_last_tensor_leaves_only_the_input(source, finished, tmp_path):
    _, count = finished
    path = tmp_path / "model.onnx"
    path.write_bytes(source.read_bytes())
    assert not kill_after(count - 1, path, in_place=False)
    assert list(contents(tmp_path)) == ["model.onnx"]

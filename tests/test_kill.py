"""`kill -9` at moments spread over a run: the input or the complete output is there, no half file.

The moments are counted in the run's own progress, so that they do not depend on the speed of the
machine: see tests/killing.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnx_ghn import InitializeOptions, initialize, model_io
from onnx_ghn.finetuning.checkpoint import load_checkpoint

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run_killed():
    """Runs a command and kills it after so many calls of its progress; None: nobody kills.

    Returns whether it was killed, and the calls that it made.
    """
    with subprocess.Popen(
        [sys.executable, HERE / "killing.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
    ) as server:

        def run(calls, command, options, **arguments):
            request = {"command": command, "options": options, "calls": calls}
            server.stdin.write(json.dumps(request | {"arguments": arguments}, default=str) + "\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            return answer["killed"], answer["calls"]

        yield run
        server.stdin.close()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def moments(count, kills):
    """Numbers of calls from none to all, the last ones close to the renaming."""
    return [round(count * kill / (kills - 1)) for kill in range(kills)]


# init


def classical(seed=1):
    return {"method": "classical", "seed": seed}


def complete(path, seed=1):
    """Bytes of the finished output, by a run that nobody kills."""
    initialize(path, options=InitializeOptions(**classical(seed)), in_place=True)
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


def check(path, before, outcomes):
    """Every file is the input's or belongs to one complete outcome."""
    left = contents(path.parent)
    hidden = [left.pop(name) for name in list(left) if name.startswith(".onnx-ghn-")]
    assert left in [before, *outcomes]
    # Between linking and renaming, the complete file has a hidden name for an instant.
    assert all(any(content in outcome.values() for outcome in outcomes) for content in hidden)


def kill_init(run_killed, kills, source, finished, tmp_path, *, in_place):
    whole, count = finished
    for number, tensors in enumerate(moments(count, kills)):
        path = tmp_path / str(number) / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(source.read_bytes())
        before = contents(path.parent)
        run_killed(tensors, "initialize", classical(), model=path, in_place=in_place)
        after = {"model.onnx": whole} if in_place else before | {"model.init.onnx": whole}
        check(path, before, [after])


def kill_with_external_data(run_killed, kills, source, tmp_path):
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
        run_killed(tensors, "initialize", classical(), model=path, in_place=True)
        check(path, before, outcomes)


@pytest.mark.parametrize("in_place", [False, True])
def test_kills_of_init(run_killed, source, finished, tmp_path, in_place):
    kill_init(run_killed, 3, source, finished, tmp_path, in_place=in_place)


def test_kills_with_external_data(run_killed, source, tmp_path):
    kill_with_external_data(run_killed, 3, source, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("in_place", [False, True])
def test_many_kills_of_init(run_killed, source, finished, tmp_path, in_place):
    kill_init(run_killed, 200, source, finished, tmp_path, in_place=in_place)


@pytest.mark.long
def test_many_kills_with_external_data(run_killed, source, tmp_path):
    kill_with_external_data(run_killed, 200, source, tmp_path)


def test_kill_before_the_last_tensor_leaves_only_the_input(run_killed, source, finished, tmp_path):
    _, count = finished
    path = tmp_path / "model.onnx"
    path.write_bytes(source.read_bytes())
    assert run_killed(count - 1, "initialize", classical(), model=path)[0]
    assert list(contents(tmp_path)) == ["model.onnx"]


# finetune


STEPS = 6


def kill_finetune(run_killed, rounds, kills, network, digits, tmp_path):
    """Killed again and again, a run ends with the bits of one that nobody kills."""

    def finetune(calls, folder):
        return run_killed(
            calls,
            "finetune",
            {"steps": STEPS, "validate_every": 1, "threads": 1},
            model=folder / "net.onnx",
            data=digits / "test.npz",
            run={"batch_size": 16, "limit": 64},
            resume=(folder / "net.finetuned.finetune" / "state.pt").exists(),
            force=True,
        )

    def begin(name):
        folder = tmp_path / name
        folder.mkdir()
        ir.save(network, folder / "net.onnx")
        return folder

    folder = begin("whole")
    killed, count = finetune(None, folder)
    before, whole = (folder / "net.onnx").read_bytes(), folder / "net.finetuned.onnx"
    assert not killed and count >= STEPS
    for number in range(rounds):
        folder = begin(str(number))
        output, state = folder / whole.name, folder / "net.finetuned.finetune" / "state.pt"
        # Of a run that goes on, fewer calls are left: the moments are those of a part of the run.
        for calls in moments(count // 2 + number % 3, kills):
            finetune(calls, folder)
            assert (folder / "net.onnx").read_bytes() == before
            assert not output.exists() or output.read_bytes() == whole.read_bytes()
            assert not state.exists() or load_checkpoint(state).history.validations
        assert not finetune(None, folder)[0]
        assert output.read_bytes() == whole.read_bytes()
        log = [json.loads(line) for line in state.with_name("log.jsonl").read_text().splitlines()]
        steps = [record["step"] for record in log if record["event"] == "train"]
        assert steps == list(range(1, STEPS + 1))
        assert not list(folder.rglob(".*"))


def test_kills_of_finetune(run_killed, trained, export, digits, tmp_path):
    kill_finetune(run_killed, 1, 3, export(trained), digits, tmp_path)


@pytest.mark.long
def test_many_kills_of_finetune(run_killed, trained, export, digits, tmp_path):
    kill_finetune(run_killed, 25, 8, export(trained), digits, tmp_path)


# rank


CANDIDATES = 4


def kill_rank(run_killed, rounds, kills, network, digits, tmp_path):
    """Killed again and again, a ranking scores each candidate once and keeps what it has."""
    nets = [tmp_path / f"{name}.onnx" for name in range(CANDIDATES)]
    for net in nets:
        ir.save(network, net)
    before = contents(tmp_path)

    def rank(calls, out):
        return run_killed(
            calls,
            "rank",
            {"processes": 1, "method": "classical", "engine": "onnxruntime"},
            models=[str(net) for net in nets],
            data=digits / "test.npz",
            run={"limit": 32},
            out=out,
        )

    for number in range(rounds):
        out = tmp_path / "results" / f"{number}.jsonl"
        out.parent.mkdir(exist_ok=True)
        left = b""
        for kill in range(kills):
            rank(kill % 3, out)  # before it begins, at once, and after one more candidate
            found = out.read_bytes() if out.exists() else b""
            assert found.startswith(left)
            left = found.rpartition(b"\n")[0]
            for line in left.splitlines():
                json.loads(line)
        assert not rank(None, out)[0]
        assert out.read_bytes().startswith(left)
        models = [json.loads(line)["model"] for line in out.read_text().splitlines()[1:]]
        assert sorted(models) == sorted(str(net) for net in nets)
    assert {net.name: net.read_bytes() for net in nets} == before


def test_kills_of_rank(run_killed, trained, export, digits, tmp_path):
    kill_rank(run_killed, 1, 3, export(trained), digits, tmp_path)


@pytest.mark.long
def test_many_kills_of_rank(run_killed, trained, export, digits, tmp_path):
    kill_rank(run_killed, 25, 8, export(trained), digits, tmp_path)

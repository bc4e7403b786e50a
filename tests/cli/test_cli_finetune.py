"""finetune as a user meets it, and whole processes, killed and interrupted."""

import functools
import json
import signal
import subprocess
import sys
import time

import onnx
import pytest

from onnx_ghn.finetuning.checkpoint import load_checkpoint

LONG = ("--steps", "1000000", "--checkpoint-seconds", "0.2", "--schedule", "constant")


def command(*arguments):
    return [sys.executable, "-m", "onnx_ghn", "finetune", *map(str, arguments)]


@pytest.fixture
def run(run):
    return functools.partial(run, "finetune")


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def heed_interrupts():
    """Undo what a shell does to a job in the background: it lets it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def model(classifier):
    return classifier


def test_finetune_prints_and_writes(model, digits, run):
    data = ("--data", digits / "train.npz", "--val", digits / "test.npz")
    done = run(model, *data, "--steps", "30", "--mean", "0.3", "--std", "0.35", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["format"] == 1 and found["steps"] == 30 and found["input"]["mean"] == [0.3]
    assert [entry["step"] for entry in found["validations"]] == [0, 22, 30]
    out = model.with_name("net.finetuned.onnx")
    onnx.checker.check_model(out, full_check=True)
    folder = model.with_name("net.finetuned.finetune")
    assert sorted(f.name for f in folder.iterdir()) == ["log.jsonl", "loss.svg", "state.pt"]
    again = run(model, *data, "--steps", "30")
    assert again.returncode == 2 and "--force" in again.stderr
    more = run(model, *data, "--resume", "--steps", "40")
    assert more.returncode == 0, more.stderr
    assert "40 steps" in more.stdout and "mean 0.3" in more.stdout and "top-1" in more.stdout


def test_a_killed_run_goes_on(model, digits, tmp_path, run):
    state = tmp_path / "net.finetuned.finetune" / "state.pt"
    arguments = (model, "--data", digits / "train.npz")
    with subprocess.Popen(command(*arguments, *LONG), stderr=subprocess.DEVNULL) as child:
        try:
            wait_for(state.exists)
        finally:
            child.kill()
    saved = len(load_checkpoint(state).history.losses)
    assert saved > 0 and not model.with_name("net.finetuned.onnx").exists()
    done = run(*arguments, "--resume", "--steps", saved + 5)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in state.with_name("log.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if record["event"] == "train"]
    assert steps == list(range(1, saved + 6))
    hidden = [f for f in (*tmp_path.iterdir(), *state.parent.iterdir()) if f.name.startswith(".")]
    assert not hidden


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_state(model, digits, tmp_path, number):
    log = tmp_path / "net.finetuned.finetune" / "log.jsonl"
    with subprocess.Popen(
        command(model, "--data", digits / "train.npz", *LONG[:2]),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as child:
        try:
            wait_for(lambda: log.exists() and '"train"' in log.read_text())
            child.send_signal(number)
            _, errors = child.communicate(timeout=120)
        finally:
            child.kill()
    assert child.returncode == 130, errors
    assert "--resume" in errors
    assert load_checkpoint(log.with_name("state.pt")).history.losses


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "1", "--epochs", "1"], "--steps or --epochs"),
        (["--resume"], "no such checkpoint"),
        (["--lr", "0"], "--lr must be greater than 0"),
        (["--lr", "1e60"], "below 2**31"),
        (["--crop", 2**64], "--crop must be"),
        (["--threads", 2**64], "'--threads'"),
        (["-o", "."], "no regular file"),
        (["-o", "x" * 300], "too long"),
        (["--folder", "x" * 300], "too long"),
        (["--freeze", "absent.*"], "'absent.*' matches no learnable tensor"),
        (["--val", "nowhere"], "nowhere: no such file or folder"),
        (["--validate-at", "1,x"], "'1,x'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(model, digits, run, more, message):
    done = run(model, "--data", digits / "train.npz", *more)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not model.with_name("net.finetuned.onnx").exists()

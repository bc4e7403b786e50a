import json
import os
import signal
import subprocess
import sys
import time

import pytest

from onnx_ghn.hypernet.archive import read_info
from onnx_ghn.train.checkpoint import load_checkpoint


def command(data, out, *more):
    return [
        *(sys.executable, "-m", "onnx_ghn", "train", "--data", str(data), "--out", str(out)),
        *("--processes", "1", *more),
    ]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(data, out, *more):
    return subprocess.run(
        command(data, out, *more),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_a_killed_run_goes_on(data, small, tmp_path):
    out = tmp_path / "run"
    often = ["--evaluate-seconds", "1", *small]
    with subprocess.Popen(
        command(data, out, "--steps", "100000", *often), env=environment(), stderr=subprocess.PIPE
    ) as child:
        wait_for((out / "state.pt").exists)
        child.kill()
    saved = load_checkpoint(out / "state.pt").counters.updates
    assert saved > 0
    done = run(data, out, "--resume", "--steps", str(saved + 5))
    assert done.returncode == 0, done.stderr
    assert "held-out architectures" in done.stdout
    counters = load_checkpoint(out / "state.pt").counters
    assert counters.updates == saved + 5
    assert read_info(out / "hypernet.pt").config.network.classes == 3
    (line,) = (out / "ledger.jsonl").read_text().splitlines()
    assert json.loads(line)["architecture_steps"] == 5
    assert not [file for file in out.iterdir() if file.name.startswith(".")]


def heed_interrupts():
    """Undo what a shell does to a job in the background: it lets it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_state(data, small, tmp_path, number):
    out = tmp_path / "run"
    with subprocess.Popen(
        command(data, out, "--steps", "100000", *small),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as child:
        try:
            wait_for((out / "log.jsonl").exists)
            child.send_signal(number)
            _, errors = child.communicate(timeout=120)
        finally:
            child.kill()
        assert child.returncode == 130, errors
    assert "--resume" in errors
    assert load_checkpoint(out / "state.pt").counters.updates > 0
    assert json.loads((out / "ledger.jsonl").read_text())["architecture_steps"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--minutes or --steps"),
        (["--steps", "1", "--space", "huge"], "unknown space 'huge'"),
        (["--steps", "1", "--resume"], "no such checkpoint"),
        (["--steps", "1", "--resume", "--from", "x"], "--resume goes on"),
        (["--steps", "1", "--from", "absent.pt"], "absent"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(data, tmp_path, more, message):
    done = run(data, tmp_path / "run", *more)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_is_named(tmp_path):
    done = run(tmp_path / "nothing", tmp_path / "run", "--steps", "1")
    assert done.returncode == 2
    assert "nothing: no such file or folder" in done.stderr

"""Progress bars, as somebody at a terminal sees them."""

import re
import sys

import pytest

import onnx_ghn
from onnx_ghn import RunOptions


@pytest.fixture
def terminal(run, monkeypatch):
    """As `run`, with the messages going to a terminal."""

    def run_there(*arguments):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        return run(*arguments)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return run_there


def test_calibrate_counts_examples_and_then_bytes(classifier, digits, terminal):
    result = terminal("calibrate", classifier, "--data", digits / "train.npz", "--limit", 64)
    assert result.returncode == 0
    assert re.search(r"calibrating.* 64/64 ", result.stderr)
    assert re.search(r"writing.* [\d.]+/([\d.]+) (kB|MB) ", result.stderr)


def test_quiet_shows_nothing(classifier, digits, terminal):
    result = terminal("calibrate", classifier, "--data", digits / "train.npz", "--limit", 64, "-q")
    assert (result.returncode, result.stderr) == (0, "")


def test_calibrate_tells_a_program_both(classifier, digits, tmp_path):
    examples, written = [], []
    onnx_ghn.calibrate(
        classifier,
        tmp_path / "out.onnx",
        digits / "train.npz",
        RunOptions(batch_size=32, limit=64),
        progress=lambda *seen: examples.append(seen),
        save_progress=lambda *seen: written.append(seen),
    )
    assert examples == [(32, 64), (64, 64)]
    done, total = zip(*written, strict=True)
    assert sorted(done) == list(done) and done[-1] == total[-1] and len(set(total)) == 1

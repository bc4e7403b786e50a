"""The examples in docs/use.md, run in the order in which a reader runs them."""

import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest

from onnx_ghn.cli import main

USE = Path(__file__).parent.parent / "docs" / "use.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", USE.read_text("utf-8"), re.M | re.S)


def test_use(tmp_path, monkeypatch, capsys):
    for package in ("sklearn", "PIL", "torch"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONNX_GHN_CACHE", str(tmp_path / "cache"))
    make, use = blocks("python")
    with warnings.catch_warnings(action="ignore"):  # the exporter's own
        exec(compile(make, f"{USE}: setup", "exec"), {})
    capsys.readouterr()
    (shell,) = blocks("sh")
    lines = [shlex.split(line, comments=True) for line in shell.strip().splitlines()]
    assert [line[1] for line in lines] == [
        "init",
        "eval",
        "eval",
        "calibrate",
        "finetune",
        "doctor",
    ]
    for line in lines:
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        assert exit.value.code == 0 or line[1] == "doctor", captured.err
        assert captured.out and not captured.err
    exec(compile(use, f"{USE}: Python", "exec"), {})
    printed = capsys.readouterr().out
    assert "of 360, 95 %" in printed and "running_mean" in printed

"""`onnx-ghn rank` as a user meets it: whole processes."""

import json
import os
import signal
import subprocess
import sys
import time

import onnx_ir as ir


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "onnx_ghn", "rank", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments):
    process = start(*arguments)
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def test_three_files_and_a_bad_one(trained, export, digits, tmp_path):
    nets = tmp_path / "nets"
    nets.mkdir()
    for name in ("a", "b"):
        ir.save(export(trained), nets / f"{name}.onnx")
    (nets / "c.onnx").write_bytes(b"no model")
    common = (nets, "--data", digits / "test.npz", "--limit", "60", "--processes", "1")
    code, stdout, stderr = run(*common, "--overwrite", "--format", "json")
    assert code == 0 and "1 of 3 candidates failed" in stderr, stderr
    ranked = json.loads(stdout)
    assert [entry["model"] for entry in ranked] == [str(nets / f"{n}.onnx") for n in "abc"]
    assert ranked[0]["score"] == ranked[0]["top1"] and ranked[0]["tensors"]["kept"] == 0
    assert ranked[2]["score"] is None and "not an ONNX model" in ranked[2]["error"]
    code, stdout, _ = run(*common, "--strict")
    assert code == 1 and "FLOPs" in stdout and "3 candidates" in stdout
    code, stdout, stderr = run(nets / "c.onnx", *common[1:])
    assert code == 2 and "Traceback" not in stderr


def test_killed_run_goes_on(digits, tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = (
        *("--sample", "4", "--data", digits / "test.npz", "--limit", "60"),
        *("--processes", "1", "--out", out, "--format", "json"),
    )
    process = start(*arguments)
    deadline = time.monotonic() + 240
    while not out.exists() or out.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = out.read_bytes().rpartition(b"\n")[0]
    code, stdout, stderr = run(*arguments)
    assert code == 0, stderr
    assert out.read_bytes().startswith(left)  # what was there stayed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    models = [line["model"] for line in lines[1:]]
    assert len(models) == 4 == len(set(models))
    assert sorted(entry["model"] for entry in json.loads(stdout)) == sorted(models)


def test_bad_use_is_one_line_and_exit_2(digits, tmp_path):
    for arguments, word in (
        ((), "nothing to rank"),
        ((tmp_path / "none.onnx",), "no such file"),
        (("--sample", "1", "--ray", "auto", "--processes", "2"), "--processes"),
    ):
        code, _, stderr = run(*arguments, "--data", digits / "test.npz")
        assert code == 2 and word in stderr and "Traceback" not in stderr

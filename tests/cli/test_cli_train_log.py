"""What `onnx-ghn train --tensorboard` writes, TensorBoard's own reader reads back."""

import json
import math

import pytest

from onnx_ghn.train import monitor


def test_tensorboard_reads_what_the_log_holds(run, data, small, tmp_path, monkeypatch):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(monitor, "LOG_SECONDS", 0.0)
    out = tmp_path / "run"
    command = ["train", "--data", data, "--out", out, "--processes", "1", "--steps", "3"]
    done = run(*command, *small, "--tensorboard", "-q")
    assert done.returncode == 0, done.stderr
    board = reader.EventAccumulator(str(out / "tensorboard")).Reload()
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for event, some in (("train", "loss"), ("held-out", "mean")):
        scalars: dict[str, list[tuple[int, float]]] = {}
        for record in (r for r in records if r["event"] == event):
            for name, value in record.items():
                if isinstance(value, (int, float)):
                    step = record["architecture_steps"]
                    scalars.setdefault(f"{event}/{name}", []).append((step, value))
        assert f"{event}/{some}" in scalars
        for tag, expected in scalars.items():
            found = [(scalar.step, scalar.value) for scalar in board.Scalars(tag)]
            assert [step for step, _ in found] == [step for step, _ in expected]
            for (_, mine), (_, logged) in zip(found, expected, strict=True):
                assert math.isclose(mine, logged, rel_tol=1e-6, abs_tol=1e-9)
    assert {tag.split("/")[0] for tag in board.Tags()["scalars"]} == {"train", "held-out"}

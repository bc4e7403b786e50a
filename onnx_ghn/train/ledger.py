"""The ledger: one line for each training run, so that the cost of an archive can be added up."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from onnx_ghn.train.monitor import Monitor, Run


def append_to_ledger(run: Run, monitor: Monitor, device: str, path: Path | None = None) -> None:
    """Append what this run cost since it was started or resumed, and what it reached.

    Args:
        run: The run.
        monitor: Its monitor, after the end.
        device: Where it ran.
        path: The ledger; `ledger.jsonl` in the run's own folder where None.
    """
    counters, before = monitor.counters, run.before
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "run": run.config.name,
        "from": run.config.provenance.get("from"),
        "space": run.options.space,
        "side": [run.options.side, run.options.final_side],
        "batch": run.options.batch,
        "updates": counters.updates - before.updates,
        "architecture_steps": counters.architecture_steps - before.architecture_steps,
        "wall_hours": round((counters.elapsed_seconds - before.elapsed_seconds) / 3600, 3),
        "cpu_hours": round((counters.cpu_seconds - before.cpu_seconds) / 3600, 3),
        "device": _device_name(device),
        "val": {k: v for k, v in monitor.held_out.items() if k != "families"},
    }
    if path is None:
        path = run.paths.folder / "ledger.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()

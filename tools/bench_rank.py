"""Candidates a minute and memory of `rank`, on one and on two processes.

    python tools/bench_rank.py --data images/ [--sample 100 1000] [--score top1] [--hypernet FILE]

Prints one row for each number of processes and of candidates. Memory is the most that any process
has held; it must not grow with the number of candidates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import onnx_ghn
from onnx_ghn import RankOptions, RunOptions


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sample", type=int, nargs="+", default=[100])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--score", default="top1")
    parser.add_argument("--space", default="narrow")
    parser.add_argument("--hypernet", type=Path)
    parser.add_argument("--limit", type=int, default=256)
    arguments = parser.parse_args()
    print("| processes | candidates | a minute | parent, MB | worker, MB |", flush=True)
    print("| ---: | ---: | ---: | ---: | ---: |", flush=True)
    for processes in arguments.processes:
        for count in arguments.sample:
            peaks = {"parent": 0.0, "worker": 0.0}

            def look(done: int, total: int, peaks: dict[str, float] = peaks) -> None:
                peaks["parent"] = max(peaks["parent"], resident("self"))
                for process in multiprocessing.active_children():
                    peaks["worker"] = max(peaks["worker"], resident(str(process.pid)))

            options = RankOptions(
                sample=count,
                space=arguments.space,
                score=arguments.score,
                processes=processes,
                hypernet=arguments.hypernet,
            )
            start = time.perf_counter()
            run = RunOptions(limit=arguments.limit)
            onnx_ghn.rank((), arguments.data, options, run=run, progress=look)
            rate = 60 * count / (time.perf_counter() - start)
            cells = f"{processes} | {count:,} | {rate:,.0f} | {peaks['parent']:.0f}"
            print(f"| {cells} | {peaks['worker']:.0f} |", flush=True)


def resident(process: str) -> float:
    """Memory that a process holds now, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(found[0]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()

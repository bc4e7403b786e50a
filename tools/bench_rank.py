"""Candidates a minute and memory of `rank`, on one and on two processes.

    python tools/bench_rank.py --data images/ [--sample 100 1000] [--score top1] [--hypernet FILE]

Prints one row for each number of processes and of candidates. Memory is the most that the command
and any of its workers ever held; it must not grow with the number of candidates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
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
    print("| processes | candidates | a minute | command, MB | worker, MB |", flush=True)
    print("| ---: | ---: | ---: | ---: | ---: |", flush=True)
    for processes in arguments.processes:
        for count in arguments.sample:
            # A peak never falls: each ranking gets a process of its own.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measure, arguments, processes, count).result()
            rate, command, worker = found
            print(
                f"| {processes} | {count:,} | {rate:,.0f} | {command:.0f} | {worker:.0f} |",
                flush=True,
            )


def measure(arguments: argparse.Namespace, processes: int, count: int) -> tuple[float, ...]:
    """Rank once.

    Returns:
        Candidates a minute, starting included; the peak of this process and of its workers in MB.
    """
    worker = 0.0

    def look(done: int, total: int) -> None:
        nonlocal worker
        for process in multiprocessing.active_children():
            worker = max(worker, peak(str(process.pid)))

    options = RankOptions(
        sample=count,
        space=arguments.space,
        score=arguments.score,
        processes=processes,
        hypernet=arguments.hypernet,
    )
    start = time.perf_counter()
    onnx_ghn.rank((), arguments.data, options, run=RunOptions(limit=arguments.limit), progress=look)
    return 60 * count / (time.perf_counter() - start), peak("self"), worker


def peak(process: str) -> float:
    """The most memory that a process ever held, in MB; 0 where it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()

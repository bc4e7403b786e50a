"""Runs a scorer on many candidates: in local processes, or on a Ray cluster.

Both hold one candidate a worker and give each record as it comes, so that memory does not grow
with the number of candidates.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from onnx_ghn.errors import MissingDependencyError, OnnxGhnError, OptionError
from onnx_ghn.ranking.candidates import Candidate
from onnx_ghn.ranking.results import Record
from onnx_ghn.ranking.scorer import Job, Scorer

STOP_SECONDS = 5.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
READY = "ready"


class WorkerError(OnnxGhnError):
    """A worker could not start."""


def score_locally(
    job: Job, candidates: Iterable[Candidate], processes: int = 0
) -> Iterator[Record]:
    """Score candidates in processes of one thread each; records in the order of completion.

    A worker that dies, of memory for instance, costs the candidate that it had, and is replaced.
    Workers end when the iterator is closed, and when this process dies.

    Args:
        job: What to do.
        candidates: Read one by one, as workers become free.
        processes: How many; 0 for one a core, or one on CUDA.

    Raises:
        WorkerError: A worker dies before it has begun.
        MissingDependencyError, ArchiveError, DeviceError: No candidate can be scored.
    """
    count = processes or (1 if job.run.device == "cuda" else len(os.sched_getaffinity(0)))
    todo = iter(candidates)
    workers: list[_Worker] = []
    try:
        for _, candidate in zip(range(count), todo, strict=False):
            workers.append(_Worker(job, candidate))
        while workers:
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                message = worker.receive()
                if message == READY:
                    continue
                if isinstance(message, Exception):
                    raise message
                assert isinstance(message, Record)
                yield message
                following = next(todo, None)
                if following is not None and worker.give(following):
                    continue
                workers.remove(worker)
                worker.stop()
                if following is not None:
                    workers.append(_Worker(job, following))
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that scores one candidate at a time."""

    def __init__(self, job: Job, first: Candidate) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._candidate = first
        self._started = False
        level = logging.getLogger("onnx_ir").level
        self._process = context.Process(target=_serve, args=(theirs, job, level), daemon=True)
        with _one_thread():
            self._process.start()
        theirs.close()
        self.give(first)

    def give(self, candidate: Candidate) -> bool:
        """Hand over a candidate; false where the process is dead."""
        self._candidate = candidate
        try:
            self.pipe.send(candidate)
        except OSError:
            return not self._started  # one that never started is told apart in `receive`
        return True

    def receive(self) -> Any:
        """What the process sent: `READY`, a record, or an error; a record of its death."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(STOP_SECONDS)
            code = self._process.exitcode
            if not self._started:
                raise WorkerError(
                    f"a worker process ended with code {code} before it could begin: in a script, "
                    'call rank below `if __name__ == "__main__":`'
                ) from error
            return Record(
                model=self._candidate.name,
                stamp=self._candidate.stamp(),
                error=f"the worker process died (exit code {code}); out of memory, perhaps",
            )
        self._started = True
        return message

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self._process.terminate()
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, job: Job, log_level: int) -> None:
    """A worker's whole life; it ends when the other end of the pipe is closed."""
    logging.getLogger("onnx_ir").setLevel(log_level)  # as in the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            scorer = Scorer(job)
            pipe.send(READY)
            while True:
                pipe.send(scorer.score(pipe.recv()))
        except OnnxGhnError as error:
            pipe.send(error)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let a process that starts here use one thread in its numeric libraries."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def score_on_ray(job: Job, candidates: Iterable[Candidate], address: str) -> Iterator[Record]:
    """Score candidates on a Ray cluster, one actor for each of its cores (for CUDA, GPUs).

    Args:
        job: What to do; its files are at the same paths on all machines.
        candidates: Read one by one, as actors become free.
        address: What `ray.init` takes.

    Raises:
        MissingDependencyError: Ray is not installed.
        OptionError: There is no cluster, or it has nothing to run on.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--ray needs Ray: pip install 'onnx-ghn[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OptionError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        cuda = job.run.device == "cuda"
        count = int(ray.cluster_resources().get("GPU" if cuda else "CPU", 0))
        if not count:
            raise OptionError(f"the Ray cluster at {address!r} has no free {'GPU' * cuda or 'CPU'}")
        actor = ray.remote(num_cpus=1, num_gpus=int(cuda))(Scorer)
        shared = ray.put(job)
        todo = iter(candidates)
        running: dict[Any, tuple[Any, Candidate]] = {}
        for _, candidate in zip(range(count), todo, strict=False):
            worker = actor.remote(shared)
            running[worker.score.remote(candidate)] = (worker, candidate)
        while running:
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            worker, candidate = running.pop(done)
            try:
                record = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause or error from error
            except ray.exceptions.RayActorError:
                worker = actor.remote(shared)
                reason = "its Ray actor died; out of memory, perhaps"
                record = Record(model=candidate.name, stamp=candidate.stamp(), error=reason)
            yield record
            following = next(todo, None)
            if following is not None:
                running[worker.score.remote(following)] = (worker, following)
    finally:
        ray.shutdown()

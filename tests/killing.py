"""Runs `onnx_ghn` and kills it with `kill -9` at a moment that its own progress tells.

Reads requests from stdin, one JSON object a line: {"command", "arguments", "options", "calls"}. The
command runs in a fork of this process, which has imported everything, and waits for an answer
at each call of its progress. The answer to the last of the calls and the kill come together, so
that the run dies somewhere in the work that follows: the next tensor, or the renaming. Answers with
{"killed", "calls"}; where `calls` is null, nobody kills.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
from typing import Any, NoReturn

import onnx_ghn
import onnx_ghn.finetuning.entry
import onnx_ghn.ranking.loop
from onnx_ghn import FinetuneOptions, InitializeOptions, RankOptions, RunOptions

OPTIONS = {"initialize": InitializeOptions, "finetune": FinetuneOptions, "rank": RankOptions}


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(_kill(json.loads(line))), flush=True)


def _kill(request: dict[str, Any]) -> dict[str, Any]:
    (asked, asks), (answered, answers) = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        os.close(asked)
        os.close(answers)
        _run(request, asks, answered)
    os.close(asks)
    os.close(answered)
    calls = 0
    for calls in itertools.count():
        if calls == request["calls"] or not os.read(asked, 1):
            break
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, b".")
    if calls == request["calls"]:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(asked)
    os.close(answers)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return {"killed": code != 0, "calls": calls}


def _run(request: dict[str, Any], asks: int, answered: int) -> NoReturn:
    def progress(*_: object) -> None:
        os.write(asks, b".")
        os.read(answered, 1)

    code = 1
    try:
        arguments: dict[str, Any] = request["arguments"]
        if "run" in arguments:
            arguments["run"] = RunOptions(**arguments["run"])
        options = OPTIONS[request["command"]](**request["options"])
        run = getattr(onnx_ghn, request["command"])
        run(**arguments, options=options, progress=progress)
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()

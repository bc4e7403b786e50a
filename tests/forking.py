"""Runs command lines in processes of their own, some at once, without importing anything anew.

Reads requests from stdin, one JSON list a line, of {"folder", "arguments"}. Imports everything once
and forks for each entry; all of a list run at the same time. Answers with a list of {"code",
"messages", "cpu_seconds", "peak_bytes"}; `code` is negative where a signal ended the process.
"""

import json
import os
import signal
import sys
from typing import Any, NoReturn

import onnx_ghn.api
import onnx_ghn.cli.init  # noqa: F401
from onnx_ghn.cli import main

MAX_WALL_SECONDS = 120
"""What takes longer waits for something that never comes."""


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        running = [_start(request) for request in json.loads(line)]
        print(json.dumps([_finish(*process) for process in running]), flush=True)


def _start(request: dict[str, Any]) -> tuple[int, int]:
    """A process and the file of its messages."""
    messages = os.memfd_create("messages")
    process = os.fork()
    if not process:
        _run(request, messages)
    return process, messages


def _finish(process: int, messages: int) -> dict[str, Any]:
    _, status, usage = os.wait4(process, 0)
    with os.fdopen(messages, "rb") as stream:
        stream.seek(0)
        text = stream.read().decode(errors="replace")
    return {
        "code": os.waitstatus_to_exitcode(status),
        "messages": text,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def _run(request: dict[str, Any], messages: int) -> NoReturn:
    code = 70
    signal.alarm(MAX_WALL_SECONDS)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, null), (1, null), (2, messages)):
            os.dup2(source, target)
        os.chdir(request["folder"])
        sys.argv = ["onnx-ghn", *request["arguments"]]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()

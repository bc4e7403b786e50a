"""Runs the command line many times, each in a process of its own, without importing it anew.

Reads requests from stdin, one JSON object a line: {"folder", "arguments", "stderr"}, the last the
path of a file for the messages. Imports everything once and forks for each request. Answers with
{"code", "cpu_seconds", "peak_bytes"}; `code` is negative where a signal ended the process.
"""

import json
import os
import signal
import sys
from typing import NoReturn

import onnx_ghn.api
import onnx_ghn.cli.init  # noqa: F401
from onnx_ghn.cli import main

MAX_WALL_SECONDS = 120
"""What takes longer waits for something that never comes."""


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            _run(request)
        _, status, usage = os.wait4(process, 0)
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
        }
        print(json.dumps(answer), flush=True)


def _run(request: dict) -> NoReturn:
    code = 70
    signal.alarm(MAX_WALL_SECONDS)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        messages = os.open(request["stderr"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
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

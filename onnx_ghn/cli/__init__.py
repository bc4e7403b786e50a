"""The command line: one file a command, imported when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import NoReturn

import click

from onnx_ghn.deferred import defer
from onnx_ghn.errors import OnnxGhnError

COMMANDS = {
    "init": "Initialise the weights of a model and write the result.",
    "inspect": "Show what init would do to each tensor, and why. Writes nothing.",
    "calibrate": "Estimate the running statistics of BatchNormalization from data.",
    "eval": "Test how well a model classifies labelled data, and how fast.",
    "strip": "Take the learnable weights out of a model; init fills the skeleton again.",
    "rank": "Rank networks by how well they do without training.",
    "finetune": "Train a model on labelled data by gradient descent, and write it as ONNX.",
    "convert": "Make an archive of a published GHN-2 or GHN-3 checkpoint.",
    "train": "Train a hypernetwork on labelled images.",
    "olive-config": "Write the package config by which Olive finds the pass OnnxGhnInit.",
    "doctor": "Check the installation: versions, ONNX Runtime, devices.",
}
"""Command name to one line of help; the command's module has the same name, with underscores."""

EXIT_FINDING = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"onnx_ghn.cli.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnx-ghn", prog_name="onnx-ghn")
def cli() -> None:
    """Initialise the weights of any ONNX model with a graph hypernetwork.

    \b
    onnx-ghn inspect model.onnx            what is learnable, and what would be done
    onnx-ghn init model.onnx               writes model.init.onnx
    onnx-ghn init model.onnx --method ghn  predict all that the vocabulary holds

    Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a finding
    under --strict, 2 bad usage or input, 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line; every error becomes one line on stderr and an exit code."""
    defer()
    debug = bool(os.environ.get("ONNX_GHN_DEBUG"))
    if not debug:
        # They log what they meet in odd files; what matters of it is in our own report.
        for library in ("onnx_ir", "PIL"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        _fail("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout went away (`| head`): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FINDING)
    except OnnxGhnError as error:
        if debug:
            raise
        _fail(f"error: {error}", EXIT_ERROR)
    except Exception as error:
        if debug:
            raise
        _fail(
            f"error: unexpected {type(error).__name__}: {error} "
            "(set ONNX_GHN_DEBUG=1 for a traceback, and please report it)",
            EXIT_ERROR,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(code)

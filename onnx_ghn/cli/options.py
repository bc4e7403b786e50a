"""Click options from the option dataclasses, and the options that all commands share."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Collection
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click

from onnx_ghn.options import RunOptions

FILL = ("method", "seed", "hypernet", "engine")
"""Options of `InitializeOptions` for what only fills tensors without a value."""

RUN = tuple(field.name for field in dataclasses.fields(RunOptions) if field.name != "threads")
"""Options of `RunOptions` where the threads are not the user's to choose."""

Command = TypeVar("Command", bound=Callable[..., Any])
Options = TypeVar("Options")


class _Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, nor numbers with commas between them", param)


class _Size(click.ParamType):
    """A number of bytes: 4096, 500MB, 2GB, 1.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        size = 0
        if found:
            number, prefix, binary = found.groups()
            unit = 1024 if binary else 1000
            size = int(Decimal(number) * unit ** (" KMGT".index(prefix.upper()) if prefix else 0))
        if size < 1:
            self.fail(f"{value!r} is no size: give bytes, or a size as 500MB, 2GB or 1.5GiB", param)
        return size


_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*(?:([KMGT])(i)?)?B?", re.IGNORECASE)


def options_of(cls: type, only: Collection[str] | None = None) -> Callable[[Command], Command]:
    """Decorate a command with one option for each field of the dataclass `cls`.

    Args:
        cls: The dataclass.
        only: Names of the fields that get an option; all where None.
    """

    def decorate(command: Command) -> Command:
        hints = typing.get_type_hints(cls)
        for field in reversed(dataclasses.fields(cls)):
            if only is None or field.name in only:
                command = _option(field, hints[field.name])(command)
        return command

    return decorate


def collect(
    cls: type[Options], values: dict[str, Any], only: Collection[str] | None = None
) -> Options:
    """Make the dataclass from a command's keyword arguments; extra arguments are left alone.

    Args:
        cls: The dataclass.
        values: The arguments.
        only: As for `options_of`: another dataclass of the command can have a field of that name.
    """
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
    chosen = names if only is None else only
    return cls(**{name: values[name] for name in names if name in values and name in chosen})


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Command], Command]:
    metadata = dict(field.metadata)
    keywords: dict[str, Any] = {"help": metadata["help"], "default": field.default}
    if "metavar" in metadata:
        keywords["metavar"] = metadata["metavar"]
    if hint is bool:
        keywords["is_flag"] = True
    elif "choices" in metadata:
        keywords.update(type=click.Choice(metadata["choices"]), show_default=True)
    elif hint is int:
        limits = click.IntRange(metadata.get("min"), metadata.get("max"))
        keywords.update(type=limits, show_default=True)
    elif hint is float:
        keywords.update(type=float, show_default=True)
    elif hint == tuple[str, ...]:
        keywords["multiple"] = True
    elif hint in (tuple[float, ...], tuple[int, ...]):
        keywords["type"] = _Numbers(typing.get_args(hint)[0])
    elif hint == int | None:
        keywords["type"] = click.IntRange(min=metadata.get("min"))
    elif hint == float | None:
        keywords["type"] = float
    elif Path in typing.get_args(hint):
        keywords["type"] = click.Path(path_type=Path)
    flag = metadata.get("flag", f"--{field.name.replace('_', '-')}")
    return click.option(flag, field.name, **keywords)


def output_options(suffix: str) -> Callable[[Command], Command]:
    """Decorate a command that writes a model with the options that say where and how.

    They are --output, --in-place, --force and --shard-size.

    Args:
        suffix: What the default output has before `.onnx`.
    """

    def decorate(command: Command) -> Command:
        for option in reversed(
            (
                click.option(
                    "-o",
                    "--output",
                    type=click.Path(path_type=Path),
                    default=None,
                    help=f"Where to write the result.  [default: <stem>.{suffix}.onnx beside the "
                    "model]",
                ),
                click.option("--in-place", is_flag=True, help="Overwrite the model itself."),
                click.option("--force", is_flag=True, help="Overwrite an output that exists."),
                click.option(
                    "--shard-size",
                    type=_Size(),
                    default=None,
                    metavar="SIZE",
                    help="Write the tensors into data files of at most this size, as 500MB or "
                    "2GB.  [default: one file; models over 1.5 GiB get one data file]",
                ),
            )
        ):
            command = option(command)
        return command

    return decorate


def report_options(command: Command) -> Command:
    """Decorate a command that reports on tensors with the options that say how."""
    for option in reversed((format_option, strict_option, max_bytes_option, verbose_option)):
        command = option(command)
    return command


format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What goes to stdout: a table for people, or one JSON object.",
)
strict_option = click.option(
    "--strict",
    is_flag=True,
    help="Exit 1 when there is a warning or a learnable tensor is left as it was.",
)
max_bytes_option = click.option(
    "--max-bytes",
    type=_Size(),
    default=None,
    metavar="SIZE",
    help="Refuse a model whose tensors take more, as 500MB or 64GiB.  [default: 256GiB]",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
no_warnings_option = click.option(
    "-q", "--quiet", is_flag=True, help="No progress and no warnings."
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="One line for each tensor, with its reason."
)
data_option = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Labelled data: a folder of class/xxx.jpg, or an .npz file with x and y.",
)
